"""Both ends of :mod:`rtunnel.ssh.channel`, in whatever order things happen."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.channel_limits import ChannelLimits
from tests.ssh.channel_ends import KIB, Ends

#: As many different bytes as no power of two is a multiple of.
PLACES = bytes(range(251))


class ChannelMachine(RuleBasedStateMachine):
    """Two ends of a channel, and a model of what each may see of the other.

    Whatever the order of writes, ends, pauses and losses: what is delivered is a
    beginning of what was written, and all of it if the writer closed in order and the
    reader did not; EOF comes after all data; ``closed`` comes once and last.
    """

    @initialize(
        window=st.sampled_from([32 * KIB, 100 * KIB]),
        capacity=st.sampled_from([1, 40_000, 2**30]),
    )
    def open(self, window: int, capacity: int) -> None:
        """Open a channel with small windows."""
        limits = ChannelLimits(initial_window=window, window=window)
        self.ends = Ends(limits=limits, capacity=capacity)
        self.channels = (self.ends.near, self.ends.far)
        self.receivers = (self.ends.near_receiver, self.ends.far_receiver)
        self.written = (bytearray(), bytearray())
        self.ended = [False, False]
        self.closed = [False, False]
        self.dropped = [False, False]
        self.paused = [False, False]
        self.counter = 0
        self.lost = False

    sides = st.integers(0, 1)

    @rule(side=sides, size=st.sampled_from([1, 10, 5000, 33_000, 150_000]))
    def write(self, side: int, size: int) -> None:
        """Write bytes that tell their place."""
        start = self.counter % len(PLACES)
        data = (PLACES * (size // len(PLACES) + 2))[start : start + size]
        if not self.ended[side]:
            self.counter += size
            self.written[side].extend(data)
        self.channels[side].write(data)

    @rule(side=sides)
    def write_eof(self, side: int) -> None:
        """End one direction."""
        self.ended[side] = True
        self.channels[side].write_eof()

    @rule(side=sides)
    def close(self, side: int) -> None:
        """End both directions in order."""
        self.ended[side] = self.closed[side] = True
        self.channels[side].close()

    @precondition(lambda self: self.counter > 1000)
    @rule(side=sides)
    def abort(self, side: int) -> None:
        """End both directions now."""
        self.ended[side] = self.closed[side] = self.dropped[side] = True
        self.channels[side].abort()

    @rule(side=sides)
    def pause(self, side: int) -> None:
        """Take no data."""
        self.paused[side] = True
        self.channels[side].pauseProducing()

    @rule(side=sides)
    def resume(self, side: int) -> None:
        """Take data."""
        self.paused[side] = False
        self.channels[side].resumeProducing()

    @rule(side=sides, count=st.integers(1, 10))
    def move(self, side: int, count: int) -> None:
        """Move a few messages one way."""
        pair = self.ends.pair
        transport = (pair.client_transport, pair.server_transport)[side]
        for _ in range(count):
            pair.step(transport)

    @precondition(lambda self: self.counter > 300_000)
    @rule()
    def lose(self) -> None:
        """Cut the connection."""
        self.lost = True
        self.ends.pair.lose()

    @invariant()
    def is_right(self) -> None:
        """What holds at any moment."""
        if not hasattr(self, "ends"):
            return
        for side in (0, 1):
            receiver, written = self.receivers[side], self.written[1 - side]
            assert written.startswith(receiver.data)
            assert receiver.events.count("closed") <= 1
            assert receiver.events.count("eof") <= 1
            if receiver.is_closed:
                assert receiver.events[-1] == "closed"
            if receiver.has_eof:
                assert self.ended[1 - side]
                assert len(receiver.data) == len(written)
            limits = self.ends.pair.client.limits
            assert self.channels[side].held <= limits.window

    def teardown(self) -> None:
        """Let everything come to its end, and look at what is left."""
        if not hasattr(self, "ends"):
            return
        pair = self.ends.pair
        for channel in self.channels:
            channel.resumeProducing()
        pair.pump()
        for side in (0, 1):
            receiver, written = self.receivers[side], self.written[1 - side]
            undisturbed = not (self.lost or any(self.dropped) or self.closed[side])
            if undisturbed:
                assert bytes(receiver.data) == bytes(written)
                assert receiver.has_eof == self.ended[1 - side]
                assert self.channels[1 - side].queued == 0
        if any(self.closed):
            assert all(receiver.is_closed for receiver in self.receivers)
            assert pair.client.open_channels == pair.server.open_channels == 0
            assert pair.client._budget.granted == pair.server._budget.granted == 0
        pair.lose()
        assert all(len(receiver.reasons) == 1 for receiver in self.receivers)
        self.is_right()


class ChannelMachineTests(SynchronousTestCase):
    """Every order of events."""

    def test_nothing_is_lost_or_reordered_or_closed_twice(self) -> None:
        """Runs :class:`ChannelMachine`."""
        case = ChannelMachine.TestCase
        case.settings = settings(
            max_examples=150, stateful_step_count=40, deadline=None
        )
        case("runTest").debug()
