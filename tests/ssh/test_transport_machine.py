"""Tests for :mod:`rtunnel.ssh.packet_transport` in every order of events."""

from __future__ import annotations

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.limits import TransportLimits
from rtunnel.wire.algorithms import CIPHERS, DEFAULT_ALGORITHMS, MACS
from rtunnel.wire.key_exchange import CURVE25519
from rtunnel.wire.numbers import MSG_CHANNEL_EOF
from tests.ssh.transports import End, Pair, make_client, make_server

LIMITS = TransportLimits(
    rekey_bytes=200_000,
    rekey_packets=60,
    rekey_seconds=120.0,
    exchange_burst=1000,
    exchange_seconds=1000.0,
    # Nobody here listens when told to pause.
    held_packets=10_000,
    held_bytes=2**26,
    unread_bytes=2**26,
)


class TransportMachine(RuleBasedStateMachine):
    """A client and a server that have logged in, and a wire that stops at any byte.

    Either end sends, and renews the keys, at any time; both may do so at once. What one
    end sends the other gets, in order and once, and both stay who they are. An end that
    is not writable has said so, and says when it is again.
    """

    sides = st.integers(0, 1)

    @initialize(
        cipher=st.sampled_from(tuple(CIPHERS)),
        mac=st.sampled_from(tuple(MACS)),
    )
    def connect(self, cipher: bytes, mac: bytes) -> None:
        """Log in, with one of the ciphers."""
        algorithms = attrs.evolve(
            DEFAULT_ALGORITHMS,
            key_exchanges=(CURVE25519,),
            ciphers=(cipher,),
            macs=(mac,),
        )
        clock = Clock()
        self.pair = Pair(
            make_server(clock, limits=LIMITS, algorithms=algorithms),
            make_client(clock, limits=LIMITS, algorithms=algorithms),
            clock,
        ).log_in()
        self.ends: tuple[End, End] = self.pair.ends
        self.services = tuple(end.service for end in self.ends)
        self.session_id = self.ends[0].transport.session_id
        self.identity = self.pair.server_transport.identity
        self.sent: tuple[list[tuple[int, bytes]], ...] = ([], [])
        self.full = [False, False]

    @rule(side=sides, count=st.integers(1, 20), size=st.sampled_from([0, 10, 20_000]))
    def send(self, side: int, count: int, size: int) -> None:
        """Send messages that tell their place."""
        for _ in range(count):
            payload = b"%06d" % len(self.sent[side]) + bytes(size)
            self.sent[side].append((MSG_CHANNEL_EOF, payload))
            self.ends[side].transport.sendPacket(MSG_CHANNEL_EOF, payload)

    @rule(side=sides)
    def renew_keys(self, side: int) -> None:
        """Begin a key exchange, unless one is under way."""
        self.ends[side].transport.exchanges.start()

    @rule(side=sides, count=st.sampled_from([1, 7, 100, 5000, 100_000]))
    def move(self, side: int, count: int) -> None:
        """Move some bytes one way."""
        self.pair.move(self.ends[side], count)

    @rule()
    def pump(self) -> None:
        """Move all there are."""
        self.pair.pump()

    @rule(side=sides)
    def fill_or_empty(self, side: int) -> None:
        """TCP has enough to send, or can take more."""
        end = self.ends[side]
        (end.tcp_empty if self.full[side] else end.tcp_full)()
        self.full[side] = not self.full[side]

    @rule(seconds=st.sampled_from([0.1, 30.0]))
    def wait(self, seconds: float) -> None:
        """Time passes, so that keys become old."""
        self.pair.clock.advance(seconds)

    @precondition(lambda self: hasattr(self, "ends"))
    @invariant()
    def is_right(self) -> None:
        """What holds at any moment."""
        for side, end in enumerate(self.ends):
            assert not end.transport.close_reason, end.transport.close_reason
            received = self.services[side].received
            assert received == self.sent[1 - side][: len(received)]
            told = [t for t in self.services[side].told if t in ("pause", "resume")]
            # They take turns, and the last one is true.
            assert told == ["pause", "resume"] * (len(told) // 2) + ["pause"] * (
                len(told) % 2
            )
            assert end.transport.is_writable == (told[-1:] != ["pause"])
            assert end.transport.session_id == self.session_id
        assert self.pair.server_transport.identity is self.identity

    def settle(self) -> None:
        """Move all there is; who rested to let others have a turn goes on."""
        clock = self.pair.clock
        self.pair.pump()
        while any(
            call.getTime() <= clock.seconds() for call in clock.getDelayedCalls()
        ):
            clock.advance(0)
            self.pair.pump()

    def teardown(self) -> None:
        """Let everything arrive, and see what is left."""
        if not hasattr(self, "ends"):
            return
        for side, end in enumerate(self.ends):
            if self.full[side]:
                end.tcp_empty()
        self.settle()
        self.is_right()
        for side, end in enumerate(self.ends):
            assert self.services[side].received == self.sent[1 - side]
            assert end.transport.is_writable
            assert not end.transport.exchanges.in_progress
        completed = {end.transport.exchanges.completed for end in self.ends}
        assert len(completed) == 1
        for end in self.ends:
            end.lose()
        assert all(service.told[-1] == "stopped" for service in self.services)
        assert not self.pair.clock.getDelayedCalls()


class TransportMachineTests(SynchronousTestCase):
    """Every order of events."""

    def test_nothing_is_lost_or_reordered_while_keys_are_renewed(self) -> None:
        """Runs :class:`TransportMachine`."""
        case = TransportMachine.TestCase
        case.settings = settings(
            max_examples=150, stateful_step_count=30, deadline=None
        )
        case("runTest").debug()
