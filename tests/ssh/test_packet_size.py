"""Tests for how much data goes in one packet, which depends on who else sends."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.connection import SHARED_SECONDS
from rtunnel.testing import AcceptingHandler, ConnectionPair, RecordingReceiver

KIB = 1024
LIMITS = ChannelLimits(initial_window=2048 * KIB, window_budget=1024 * 1024 * KIB)


class PacketSizeTests(SynchronousTestCase):
    """:meth:`Connection.packet_size` and :meth:`ChannelLimits.packet`."""

    def setUp(self) -> None:
        """Two connections that take whatever is sent."""
        self.handler = AcceptingHandler()
        self.pair = ConnectionPair(
            server_handler=self.handler,
            server_limits=LIMITS,
            client_limits=LIMITS,
            capacity=2**30,
        )
        self.sizes: list[int] = []

    def open(self, kind: bytes = b"bulk@rtunnel") -> Channel:
        """A channel, the sizes of whose packets are noted at the far end."""
        opened = Deferred.fromCoroutine(self.pair.client.open_channel(kind))
        self.pair.pump()
        self.handler.channels[-1].start(
            RecordingReceiver(lambda data: self.sizes.append(len(data)))
        )
        return self.successResultOf(opened)

    def sent(self, channel: Channel, count: int) -> list[int]:
        """The packets in which so many bytes go."""
        self.sizes.clear()
        channel.write(bytes(count))
        self.pair.pump()
        self.assertEqual(sum(self.sizes), count)
        return list(self.sizes)

    def alone(self) -> None:
        """Let the time pass after which whoever sends is alone."""
        self.pair.clock.advance(SHARED_SECONDS + 0.01)

    def test_a_stream_that_is_alone_has_large_packets(self) -> None:
        """From when it is known that it is."""
        channel = self.open()
        self.assertEqual(self.sent(channel, 100 * KIB), [64 * KIB, 36 * KIB])
        self.alone()
        self.assertEqual(self.sent(channel, 400 * KIB), [256 * KIB, 144 * KIB])

    def test_packets_are_small_while_others_send(self) -> None:
        """One byte of another channel is enough, and both have them."""
        bulk, other = self.open(), self.open()
        self.sent(bulk, 1)
        self.alone()
        self.assertEqual(self.sent(bulk, 256 * KIB), [256 * KIB])
        self.sent(other, 1)
        self.assertEqual(max(self.sent(bulk, 200 * KIB)), 64 * KIB)
        self.assertEqual(max(self.sent(other, 200 * KIB)), 64 * KIB)
        self.alone()
        self.assertEqual(self.sent(other, 256 * KIB), [256 * KIB])

    def test_a_queue_is_sent_in_the_packets_of_its_time(self) -> None:
        """What waited for the connection, too."""
        bulk, other = self.open(), self.open()
        self.pair.client.pause_writing()
        self.sizes.clear()
        for _ in range(2):
            bulk.write(bytes(256 * KIB))
        other.write(b"x")
        self.alone()
        self.pair.client.resume_writing()
        self.pair.pump()
        self.assertEqual(sum(self.sizes), 512 * KIB + 1)
        self.assertEqual(max(self.sizes), 64 * KIB)

    def test_other_types_of_channels_have_packets_as_openssh_has(self) -> None:
        """Whoever is alone."""
        channel = self.open(b"direct-tcpip")
        self.sent(channel, 1)
        self.alone()
        self.assertEqual(self.sent(channel, 64 * KIB), [32 * KIB] * 2)

    def test_what_was_offered_is_taken(self) -> None:
        """And a byte more ends the channel."""
        channel = self.open()
        far = self.handler.channels[-1]
        far.data_arrived(bytes(256 * KIB), 256 * KIB)
        self.assertTrue(far.is_open)
        far.data_arrived(bytes(256 * KIB + 1), 256 * KIB + 1)
        self.assertFalse(far.is_open)
        self.pair.pump()
        self.assertFalse(channel.is_open)
