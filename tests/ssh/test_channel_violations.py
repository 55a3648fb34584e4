"""Tests for :mod:`rtunnel.ssh.channel` with a peer that breaks the rules."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.testing import RecordingProducer, RecordingReceiver
from rtunnel.wire.data_types import string, uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
)
from tests.ssh.channel_ends import KIB, Ends


class ViolationTests(SynchronousTestCase):
    """What breaks a channel's rules ends that channel, and nothing else."""

    def assert_only_the_channel_ends(self, ends: Ends, reason: str) -> None:
        """The far end has closed for ``reason``, delivers nothing more, and its
        connection goes on."""
        self.assertEqual(ends.answered[-1], MSG_CHANNEL_CLOSE)
        self.assertEqual(ends.far_receiver.reasons, [reason])
        events = list(ends.far_receiver.events)
        for _ in range(100):
            ends.data(bytes(1000))
        self.assertEqual(ends.far_receiver.events, events)
        self.assertEqual(ends.answered.count(MSG_CHANNEL_CLOSE), 1)
        self.assertTrue(ends.pair.server.is_open)
        opened = Deferred.fromCoroutine(ends.pair.client.open_channel(b"next"))
        ends.pair.pump()
        self.successResultOf(opened)
        self.assertEqual(ends.pair.server.open_channels, 1)

    def test_data_past_the_window(self) -> None:
        """More than the window covers."""
        ends = Ends(limits=ChannelLimits(initial_window=64 * KIB))
        ends.far.pauseProducing()
        ends.data(bytes(32 * KIB))
        ends.data(bytes(31 * KIB))
        ends.data(bytes(2 * KIB))
        self.assert_only_the_channel_ends(
            ends, "the peer sent 2048 bytes of data where the window has 1024"
        )

    def test_data_above_the_maximum_packet(self) -> None:
        """More in one packet than we said we take."""
        ends = Ends()
        ends.data(bytes(32 * KIB))
        ends.data(bytes(32 * KIB + 1))
        self.assert_only_the_channel_ends(
            ends, "the peer sent 32769 bytes of data in a packet; 32768 is the limit"
        )
        self.assertEqual(len(ends.far_receiver.data), 32 * KIB)

    def test_data_after_eof(self) -> None:
        """Nothing may follow end of data."""
        ends = Ends()
        ends.data(b"x")
        ends.to_far(MSG_CHANNEL_EOF, uint32(ends.far.number))
        ends.data(b"y")
        self.assert_only_the_channel_ends(ends, "the peer sent data after end of data")
        self.assertEqual(bytes(ends.far_receiver.data), b"x")

    def test_extended_data_past_the_window(self) -> None:
        """Standard error uses the same window."""
        ends = Ends(limits=ChannelLimits(initial_window=32 * KIB, window=32 * KIB))
        ends.far.pauseProducing()
        ends.data(bytes(32 * KIB))
        ends.to_far(
            MSG_CHANNEL_EXTENDED_DATA,
            uint32(ends.far.number) + uint32(1) + string(b"x"),
        )
        self.assert_only_the_channel_ends(
            ends, "the peer sent 1 byte of data where the window has 0"
        )

    def test_extended_data_after_eof(self) -> None:
        """Nothing may follow end of data."""
        ends = Ends()
        ends.to_far(MSG_CHANNEL_EOF, uint32(ends.far.number))
        ends.to_far(
            MSG_CHANNEL_EXTENDED_DATA,
            uint32(ends.far.number) + uint32(1) + string(b"x"),
        )
        self.assert_only_the_channel_ends(ends, "the peer sent data after end of data")

    def test_data_past_the_window_after_our_close(self) -> None:
        """What comes after our CLOSE is dropped unseen; the end stays in order."""
        ends = Ends()
        ends.far.close()
        ends.data(bytes(32 * KIB + 1))
        self.assertEqual(ends.far_receiver.events, [])
        ends.to_far(MSG_CHANNEL_CLOSE, uint32(ends.far.number))
        self.assertEqual(ends.far_receiver.reasons, [None])

    def test_eof_twice(self) -> None:
        """A repeated EOF says nothing new."""
        ends = Ends()
        for _ in range(2):
            ends.to_far(MSG_CHANNEL_EOF, uint32(ends.far.number))
        self.assertEqual(ends.far_receiver.events, ["eof"])
        self.assertTrue(ends.far.is_open)

    def test_a_raising_receiver_ends_its_channel(self) -> None:
        """Whatever data_received raises is logged once and closes the channel."""

        def fail(data: bytes) -> None:
            raise ValueError("a bug")

        ends = Ends(start=False)
        ends.far_receiver = RecordingReceiver(fail)
        ends.far.start(ends.far_receiver)
        ends.data(b"x")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assert_only_the_channel_ends(ends, "internal error")

    def test_a_receiver_raising_at_eof_ends_its_channel(self) -> None:
        """Whatever eof_received raises is logged once and closes the channel."""

        class Receiver(RecordingReceiver):
            def eof_received(self) -> None:
                raise ValueError("a bug")

        ends = Ends(start=False)
        ends.far_receiver = Receiver()
        ends.far.start(ends.far_receiver)
        ends.to_far(MSG_CHANNEL_EOF, uint32(ends.far.number))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assert_only_the_channel_ends(ends, "internal error")

    def test_a_raising_producer_ends_its_channel(self) -> None:
        """A producer that fails when paused costs its own channel."""

        class Producer(RecordingProducer):
            def pauseProducing(self) -> None:
                raise ValueError("a bug")

        ends = Ends()
        ends.far.registerProducer(Producer(), True)
        ends.far._output.window.remaining = 0
        ends.far.write(bytes(100 * KIB))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assert_only_the_channel_ends(ends, "internal error")
