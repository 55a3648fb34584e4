"""Tests for :mod:`rtunnel.ssh.connection` in every order of events."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ConnectionClosed, OpenRefused, RequestFailed
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.testing import ConnectionPair, RecordingHandler, RecordingReceiver

LIMITS = ChannelLimits(
    window=16384,
    initial_window=4096,
    window_budget=32768,
    least_window=2048,
    max_packet=2048,
    queue=2048,
    channels=8,
    pending_opens=3,
    outstanding_requests=4,
)


@attrs.define(eq=False)
class Opening:
    """A channel that one end has asked for, and what the test knows of it.

    ``fate`` is what the other end does about it, ``ends`` the channel at either end
    once it is there, the opener's first.
    """

    kind: bytes
    fate: str
    decision: Deferred[None]
    waiting: Deferred[Channel]
    results: list[object] = attrs.field(factory=list)
    ends: list[Channel | None] = attrs.field(factory=lambda: [None, None])
    receivers: list[RecordingReceiver] = attrs.field(
        factory=lambda: [RecordingReceiver(), RecordingReceiver()]
    )
    written: list[bytearray] = attrs.field(factory=lambda: [bytearray(), bytearray()])
    #: Whether an end has stopped writing, and whether it dropped anything.
    ended: list[bool] = attrs.field(factory=lambda: [False, False])
    disturbed: bool = False

    def attach(self, end: int, channel: Channel) -> None:
        """The channel is there at one end."""
        assert self.ends[end] is None
        self.ends[end] = channel
        channel.on_request = lambda name, data: name == b"yes"
        channel.start(self.receivers[end])


class End(RecordingHandler):
    """One end's handler."""

    def __init__(self, openings: dict[bytes, Opening]) -> None:
        super().__init__(self._decide)
        self._openings = openings

    async def _decide(self, request: OpenRequest) -> Attach:
        opening = self._openings[request.kind]
        if opening.fate == "wait":
            await opening.decision
        if opening.fate == "refuse":
            raise OpenRefused(4, "not now")
        return lambda channel: opening.attach(1, channel)


class ConnectionMachine(RuleBasedStateMachine):
    """Two ends, the channels that they open, and what has to come of each.

    Whatever happens to other channels, on one that nobody disturbed everything arrives,
    in order and once. An open is confirmed, refused or cancelled; a request is
    answered; nothing is left when the connection is gone.
    """

    openings = Bundle("openings")
    sides = st.integers(0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.by_kind: dict[bytes, Opening] = {}
        self.handlers = (End(self.by_kind), End(self.by_kind))
        self.pair = ConnectionPair(
            *self.handlers, client_limits=LIMITS, server_limits=LIMITS, capacity=4096
        )
        self.connections = (self.pair.client, self.pair.server)
        self.asked = 0
        self.answers: list[object] = []
        self.closed_by_us = False

    def connection(self, side: int) -> Connection:
        return self.connections[side]

    @rule(
        target=openings, side=sides, fate=st.sampled_from(["accept", "refuse", "wait"])
    )
    def open(self, side: int, fate: str) -> Any:
        """Ask for a channel; over the limit, no message is sent."""
        kind = b"kind-%d" % len(self.by_kind)
        connection = self.connection(side)
        full = connection.open_channels >= LIMITS.channels
        sent = len(self._transport(side).sent)
        waiting = Deferred.fromCoroutine(connection.open_channel(kind))
        opening = Opening(kind, fate, Deferred(), waiting)
        self.by_kind[kind] = opening
        waiting.addCallback(lambda channel: opening.attach(0, channel))
        waiting.addBoth(opening.results.append)
        if full or not connection.is_open:
            (failure,) = opening.results
            assert isinstance(failure, Failure)
            failure.trap(OpenRefused, ConnectionClosed)
            assert len(self._transport(side).sent) == sent
            return multiple()
        return opening

    @rule(opening=openings)
    def decide(self, opening: Opening) -> None:
        """The other end has made up its mind."""
        if not opening.decision.called:
            opening.decision.callback(None)

    @rule(opening=openings)
    def cancel(self, opening: Opening) -> None:
        """Whoever asked no longer wants it."""
        opening.disturbed |= not opening.results
        opening.waiting.cancel()

    @rule(opening=openings, side=sides, size=st.sampled_from([1, 300, 5000, 20_000]))
    def write(self, opening: Opening, side: int, size: int) -> None:
        """Write bytes that tell their place."""
        channel = opening.ends[side]
        if channel is None:
            return
        written = opening.written[side]
        data = bytes((len(written) + i) % 251 for i in range(size))
        if not opening.ended[side] and channel.is_open:
            written += data
        channel.write(data)

    @rule(opening=openings, side=sides)
    def write_eof(self, opening: Opening, side: int) -> None:
        """End one direction."""
        channel = opening.ends[side]
        if channel is not None:
            opening.ended[side] = True
            channel.write_eof()

    @rule(opening=openings, side=sides)
    def close(self, opening: Opening, side: int) -> None:
        """End both; what comes from the other end is no longer wanted."""
        channel = opening.ends[side]
        if channel is not None:
            opening.ended[side] = opening.disturbed = True
            channel.close()

    @rule(opening=openings, side=sides)
    def abort(self, opening: Opening, side: int) -> None:
        """End both now."""
        channel = opening.ends[side]
        if channel is not None:
            opening.ended[side] = opening.disturbed = True
            channel.abort()

    @rule(opening=openings, side=sides, paused=st.booleans())
    def pause_or_resume(self, opening: Opening, side: int, paused: bool) -> None:
        """Take data, or none."""
        channel = opening.ends[side]
        if channel is not None:
            (channel.pauseProducing if paused else channel.resumeProducing)()

    @rule(opening=openings, side=sides, name=st.sampled_from([b"yes", b"no"]))
    def ask(self, opening: Opening, side: int, name: bytes) -> None:
        """Send a channel request."""
        channel = opening.ends[side]
        if channel is not None:
            self._watch(channel.send_request(name))

    @rule(side=sides)
    def ask_globally(self, side: int) -> None:
        """Send a global request; neither end serves any."""
        self._watch(self.connection(side).send_global_request(b"name"))

    def _watch(self, answer: Deferred[Any]) -> None:
        self.asked += 1
        answer.addBoth(self._answered)

    def _answered(self, result: object) -> None:
        self.answers.append(result)
        if isinstance(result, Failure):
            result.trap(RequestFailed, ConnectionClosed)

    @rule(side=sides, count=st.integers(1, 20))
    def move(self, side: int, count: int) -> None:
        """Move messages one way."""
        for _ in range(count):
            self.pair.step(self._transport(side))

    @rule()
    def pump(self) -> None:
        """Move all there are."""
        self.pair.pump()

    @precondition(lambda self: len(self.by_kind) > 4)
    @rule(side=sides)
    def hang_up(self, side: int) -> None:
        """End the connection in order."""
        self.closed_by_us = True
        self.connection(side).close("enough")

    def _transport(self, side: int) -> Any:
        pair = self.pair
        return pair.client_transport if side == 0 else pair.server_transport

    @invariant()
    def nobody_breaks_the_protocol(self) -> None:
        """Two ends of ours never have a fault to find in each other."""
        for side in (0, 1):
            reason = self._transport(side).close_reason
            assert not reason or self.closed_by_us, reason

    @invariant()
    def limits_hold(self) -> None:
        """Of channels, and of what is asked and not answered."""
        for connection in self.connections:
            assert connection.open_channels <= LIMITS.channels
            assert connection._budget.granted <= (
                LIMITS.window_budget + LIMITS.channels * LIMITS.least_window
            )

    @invariant()
    def what_arrives_was_written(self) -> None:
        """In order, and nothing after the end."""
        for opening in self.by_kind.values():
            for side in (0, 1):
                receiver = opening.receivers[side]
                assert opening.written[1 - side].startswith(receiver.data)
                assert receiver.events.count("eof") <= 1
                if receiver.is_closed:
                    assert len(receiver.reasons) == 1
                    assert receiver.events[-1] == "closed"

    def teardown(self) -> None:
        """Let everything come to its end, and see what is left."""
        for opening in self.by_kind.values():
            self.decide(opening)
            for channel in opening.ends:
                if channel is not None:
                    channel.resumeProducing()
        self.pair.pump()
        if not self.closed_by_us:
            assert len(self.answers) == self.asked, "a request was not answered"
            for opening in self.by_kind.values():
                self._check_arrived(opening)
        self.pair.lose()
        for side in (0, 1):
            assert self.connection(side).open_channels == 0
            assert self.connection(side)._budget.granted == 0
            assert len(self.handlers[side].lost) == 1
        assert len(self.answers) == self.asked
        for opening in self.by_kind.values():
            assert len(opening.results) == 1
            for channel, receiver in zip(opening.ends, opening.receivers, strict=True):
                assert receiver.is_closed == (channel is not None)
        assert not self.pair.clock.getDelayedCalls()

    def _check_arrived(self, opening: Opening) -> None:
        (result,) = opening.results
        if isinstance(result, Failure):
            result.trap(OpenRefused, CancelledError)
            assert opening.ends[0] is None
            if result.check(CancelledError):
                assert opening.disturbed
        elif not opening.disturbed:
            for side in (0, 1):
                receiver = opening.receivers[side]
                assert receiver.data == opening.written[1 - side]
                assert receiver.has_eof == opening.ended[1 - side]


class ConnectionMachineTests(SynchronousTestCase):
    """Every order of events."""

    def test_channels_do_not_disturb_each_other_and_nothing_is_left(self) -> None:
        """Runs :class:`ConnectionMachine`."""
        case = ConnectionMachine.TestCase
        case.settings = settings(
            max_examples=100, stateful_step_count=40, deadline=None
        )
        case("runTest").debug()
