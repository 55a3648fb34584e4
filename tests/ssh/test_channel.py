"""Tests for :mod:`rtunnel.ssh.channel` and its two halves."""

from __future__ import annotations

import struct

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.testing import ConnectionPair, RecordingReceiver
from rtunnel.wire.data_types import uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from tests.ssh.channel_ends import KIB, Ends


class DataTests(SynchronousTestCase):
    """Bytes from one end to the other."""

    def test_provides_twisteds_interfaces(self) -> None:
        """A channel is a consumer and a push producer."""
        ends = Ends()
        self.assertTrue(verifyObject(IConsumer, ends.near))
        self.assertTrue(verifyObject(IPushProducer, ends.near))

    def test_arrives_in_packets_that_the_peer_takes(self) -> None:
        """A write above the maximum packet is cut."""
        ends = Ends()
        data = bytes(range(256)) * 400
        ends.near.write(data)
        self.assertEqual(ends.sent, [MSG_CHANNEL_DATA] * 4)
        ends.pair.pump()
        self.assertEqual(bytes(ends.far_receiver.data), data)

    def test_never_more_than_our_own_maximum_packet(self) -> None:
        """A peer that takes huge packets does not make us send huge ones."""
        pair = ConnectionPair()
        opened = Deferred.fromCoroutine(pair.client.open_channel(b"x"))
        pair.client.packetReceived(
            MSG_CHANNEL_OPEN_CONFIRMATION,
            struct.pack(">IIII", 0, 0, 2**32 - 1, 2**32 - 1),
        )
        transport = pair.client_transport
        transport.outbox.clear()
        self.successResultOf(opened).write(bytes(50 * KIB))
        sizes = [len(payload) for _, payload in transport.outbox]
        self.assertEqual(sizes, [32 * KIB + 8, 18 * KIB + 8])

    def test_stays_inside_the_peers_window(self) -> None:
        """What the window does not cover waits in the channel."""
        ends = Ends(start=False, limits=ChannelLimits(initial_window=64 * KIB))
        ends.near.write(bytes(100 * KIB))
        ends.pair.pump()
        self.assertEqual(ends.far.held, 64 * KIB)
        self.assertEqual(ends.near.queued, 36 * KIB)
        ends.far.start(ends.far_receiver)
        ends.pair.pump()
        self.assertEqual(len(ends.far_receiver.data), 100 * KIB)
        self.assertEqual(ends.near.queued, 0)

    def test_a_window_of_nothing(self) -> None:
        """A peer that opens with window 0 gets data when it asks for it."""
        ends = Ends()
        ends.near._output.window.remaining = 0
        ends.near.write(b"hello")
        self.assertEqual(ends.sent, [])
        ends.pair.client.packetReceived(
            MSG_CHANNEL_WINDOW_ADJUST, struct.pack(">II", ends.near.number, 3)
        )
        ends.pair.pump()
        self.assertEqual(bytes(ends.far_receiver.data), b"hel")
        self.assertEqual(ends.near.queued, 2)

    def test_comes_before_start_and_is_held(self) -> None:
        """Data and EOF that come before start are delivered by it."""
        ends = Ends(start=False)
        ends.near.write(b"early")
        ends.near.write_eof()
        ends.pair.pump()
        ends.far.start(ends.far_receiver)
        self.assertEqual(bytes(ends.far_receiver.data), b"early")
        self.assertEqual(ends.far_receiver.events, ["data", "eof"])

    def test_start_is_called_once(self) -> None:
        """A second receiver is a mistake of the owner's."""
        ends = Ends()
        with self.assertRaises(RuntimeError):
            ends.near.start(RecordingReceiver())

    def test_empty_data_is_nothing(self) -> None:
        """Neither writing nor receiving no bytes does anything."""
        ends = Ends()
        ends.near.write(b"")
        self.assertEqual(ends.sent, [])
        ends.data(b"")
        self.assertEqual(ends.far_receiver.events, [])

    def test_stderr_is_counted_and_dropped(self) -> None:
        """Extended data reaches no receiver but gives its credit back."""
        ends = Ends()
        for _ in range(20):
            ends.near.write_stderr(bytes(100 * KIB))
            ends.pair.pump()
        self.assertEqual(ends.near.queued, 0)
        self.assertIn(MSG_CHANNEL_EXTENDED_DATA, ends.sent)
        self.assertEqual(ends.far_receiver.events, [])

    def test_stderr_goes_before_eof(self) -> None:
        """EOF waits for standard error as well."""
        ends = Ends()
        ends.near._output.window.remaining = 0
        ends.near.write_stderr(b"error")
        ends.near.write_eof()
        self.assertEqual(ends.sent, [])
        ends.near.window_adjusted(100)
        self.assertEqual(ends.sent, [MSG_CHANNEL_EXTENDED_DATA, MSG_CHANNEL_EOF])


class EndTests(SynchronousTestCase):
    """EOF and CLOSE, in every order."""

    def test_half_close_in_then_out(self) -> None:
        """100,000 bytes in, EOF, then 200,011 bytes back: all of them."""
        ends = Ends()
        ends.near.write(bytes(100_000))
        ends.near.write_eof()
        ends.pair.pump()
        self.assertEqual(len(ends.far_receiver.data), 100_000)
        self.assertEqual(ends.far_receiver.events, ["data", "eof"])
        ends.far.write(b"y" * 200_011)
        ends.far.close()
        ends.pair.pump()
        self.assertEqual(bytes(ends.near_receiver.data), b"y" * 200_011)
        self.assertEqual(ends.near_receiver.events, ["data", "eof", "closed"])
        self.assertEqual(ends.near_receiver.reasons, [None])
        self.assertEqual(ends.far_receiver.events, ["data", "eof", "closed"])

    def test_eof_follows_all_data(self) -> None:
        """EOF waits for data that waits for the window, and CLOSE for EOF."""
        ends = Ends()
        ends.near._output.window.remaining = 5
        ends.near.write(b"0123456789")
        ends.near.close()
        self.assertEqual(ends.sent, [MSG_CHANNEL_DATA])
        ends.near.window_adjusted(100)
        self.assertEqual(
            ends.sent,
            [MSG_CHANNEL_DATA, MSG_CHANNEL_DATA, MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE],
        )

    def test_eof_and_close_are_sent_once(self) -> None:
        """Repeating write_eof, close and abort sends nothing more."""
        ends = Ends()
        for _ in range(2):
            ends.near.write_eof()
        for _ in range(2):
            ends.near.close()
        for _ in range(2):
            ends.near.abort()
        self.assertEqual(ends.sent, [MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE])
        self.assertEqual(ends.near_receiver.reasons, ["aborted"])

    def test_nothing_is_written_after_eof(self) -> None:
        """Writes after write_eof, close or abort are dropped."""
        for end in ("write_eof", "close", "abort"):
            ends = Ends()
            getattr(ends.near, end)()
            sent = list(ends.sent)
            ends.near.write(b"late")
            ends.near.write_stderr(b"late")
            self.assertEqual(ends.sent, sent)

    def test_close_delivers_nothing_more(self) -> None:
        """After close only ``closed`` is called, when the peer has closed too."""
        ends = Ends()
        ends.near.close()
        ends.far.write(b"too late")
        self.assertEqual(ends.near_receiver.events, [])
        ends.pair.pump()
        self.assertEqual(ends.near_receiver.events, ["closed"])
        self.assertEqual(ends.near_receiver.reasons, [None])

    def test_closing_with_data_of_the_peers_on_its_way(self) -> None:
        """A closing channel takes and drops data, so that the peer gets on.

        The peer writes more than a window before it reads, and gets all that we
        wrote before we closed.
        """
        ends = Ends(limits=ChannelLimits(initial_window=64 * KIB))
        ends.far.pauseProducing()
        ends.near.write(bytes(200 * KIB))
        ends.near.close()
        ends.pair.pump()
        ends.far.write(bytes(2000 * KIB))
        ends.pair.pump()
        self.assertEqual(ends.far.queued, 0)
        ends.far.resumeProducing()
        ends.pair.pump()
        self.assertEqual(len(ends.far_receiver.data), 200 * KIB)
        self.assertEqual(ends.near_receiver.events, ["closed"])
        self.assertEqual(ends.near_receiver.reasons, [None])

    def test_closing_gives_up_what_is_held(self) -> None:
        """A paused channel that closes gives credit for what it had not delivered."""
        ends = Ends(limits=ChannelLimits(initial_window=64 * KIB, window=64 * KIB))
        ends.near.pauseProducing()
        ends.far.write(bytes(200 * KIB))
        ends.pair.pump()
        self.assertEqual(ends.near.held, 64 * KIB)
        ends.near._output.window.remaining = 0
        ends.near.write(b"not yet")
        ends.near.close()
        ends.pair.pump()
        self.assertEqual(ends.far.queued, 0)
        self.assertEqual(ends.near_receiver.events, [])

    def test_closing_in_data_received(self) -> None:
        """A receiver that closes gets neither the rest of the data nor its end."""
        ends = Ends(start=False)
        ends.data(b"x" * 5000)
        ends.data(b"y" * 5000)
        ends.to_far(MSG_CHANNEL_EOF, uint32(ends.far.number))
        receiver = RecordingReceiver(lambda data: ends.far.close())
        ends.far.start(receiver)
        self.assertEqual(bytes(receiver.data), b"x" * 5000)
        self.assertEqual(receiver.events, ["data"])
        ends.pair.pump()
        self.assertEqual(receiver.events, ["data", "closed"])

    def test_aborting_in_data_received(self) -> None:
        """A receiver that aborts leaves the window budget as it was."""
        ends = Ends(start=False)
        receiver = RecordingReceiver(lambda data: ends.far.abort())
        ends.far.start(receiver)
        ends.data(b"x" * 5000)
        self.assertEqual(receiver.events, ["data", "closed"])
        self.assertEqual(ends.pair.server._budget.granted, 0)

    def test_abort_drops_and_closes_at_once(self) -> None:
        """Queued and held data are dropped, and ``closed`` is called at once."""
        ends = Ends()
        ends.near.pauseProducing()
        ends.far.write(b"held")
        ends.pair.pump()
        ends.near._output.window.remaining = 0
        ends.near.write(b"queued")
        ends.near.abort("gone")
        self.assertEqual(ends.sent, [MSG_CHANNEL_CLOSE])
        self.assertEqual((ends.near.held, ends.near.queued), (0, 0))
        self.assertEqual(ends.near_receiver.events, ["closed"])
        self.assertEqual(ends.near_receiver.reasons, ["gone"])
        ends.pair.pump()
        self.assertEqual(ends.far_receiver.events, ["closed"])
        self.assertEqual(ends.pair.client.open_channels, 0)
        self.assertEqual(ends.pair.server.open_channels, 0)

    def test_the_peers_close_is_answered_with_data_unsent(self) -> None:
        """What the peer can no longer take is dropped, and CLOSE answered at once."""
        ends = Ends()
        ends.far._output.window.remaining = 0
        ends.far.write(bytes(1000))
        self.assertEqual(ends.far.queued, 1000)
        ends.to_far(MSG_CHANNEL_CLOSE, uint32(ends.far.number))
        self.assertEqual(ends.answered, [MSG_CHANNEL_CLOSE])
        self.assertEqual(ends.far.queued, 0)
        self.assertEqual(ends.far_receiver.events, ["closed"])
        self.assertEqual(ends.far_receiver.reasons, [None])
        self.assertEqual(ends.pair.server.open_channels, 0)

    def test_the_peers_close_does_not_lose_what_it_sent(self) -> None:
        """A paused receiver gets data, EOF and ``closed`` after CLOSE was answered."""
        ends = Ends()
        ends.far.pauseProducing()
        ends.near.write(b"all of it")
        ends.near.close()
        ends.pair.pump()
        self.assertEqual(ends.near_receiver.events, ["closed"])
        self.assertEqual(ends.far_receiver.events, [])
        ends.far.resumeProducing()
        self.assertEqual(bytes(ends.far_receiver.data), b"all of it")
        self.assertEqual(ends.far_receiver.events, ["data", "eof", "closed"])

    def test_close_without_eof(self) -> None:
        """A peer that closes without EOF has closed in order; its data counts."""
        ends = Ends()
        ends.far.pauseProducing()
        ends.data(b"data")
        ends.to_far(MSG_CHANNEL_CLOSE, uint32(ends.far.number))
        ends.far.resumeProducing()
        self.assertEqual(ends.far_receiver.events, ["data", "closed"])
        self.assertEqual(ends.far_receiver.reasons, [None])

    def test_end_of_data_reaches_a_paused_receiver(self) -> None:
        """With no data held, EOF and CLOSE are told although data may not be."""
        ends = Ends()
        ends.far.pauseProducing()
        ends.near.write_eof()
        ends.pair.pump()
        self.assertEqual(ends.far_receiver.events, ["eof"])
        ends.near.close()
        ends.pair.pump()
        self.assertEqual(ends.far_receiver.events, ["eof", "closed"])

    def test_closed_before_start(self) -> None:
        """A channel that ended before start tells its receiver then, once."""
        ends = Ends(start=False)
        ends.near.close()
        ends.pair.pump()
        self.assertEqual(ends.pair.server.open_channels, 0)
        ends.far.start(ends.far_receiver)
        self.assertEqual(ends.far_receiver.events, ["closed"])

    def test_both_close_at_once(self) -> None:
        """CLOSE messages that cross are an answer to each other."""
        ends = Ends()
        ends.near.close()
        ends.far.close()
        ends.pair.pump()
        self.assertEqual(ends.sent.count(MSG_CHANNEL_CLOSE), 1)
        self.assertEqual(ends.answered.count(MSG_CHANNEL_CLOSE), 1)
        self.assertEqual(ends.near_receiver.reasons, [None])
        self.assertEqual(ends.far_receiver.reasons, [None])

    def test_a_lost_connection_closes_with_its_reason(self) -> None:
        """What is held and queued goes with the connection."""
        ends = Ends()
        ends.far.pauseProducing()
        ends.near.write(b"held")
        ends.pair.pump()
        ends.pair.lose("cut")
        self.assertEqual(ends.far.held, 0)
        self.assertEqual(ends.far_receiver.events, ["closed"])
        self.assertEqual(ends.far_receiver.reasons, ["cut"])
        ends.far.resumeProducing()
        ends.far.write(b"x")
        ends.far.close()
        ends.far.abort()
        self.assertEqual(ends.far_receiver.events, ["closed"])

    def test_a_lost_connection_frees_what_lingers(self) -> None:
        """Data of a channel that both ends closed does not outlive the connection."""
        ends = Ends()
        ends.far.pauseProducing()
        ends.near.write(b"held")
        ends.near.close()
        ends.pair.pump()
        self.assertEqual(ends.far.held, 4)
        ends.pair.lose("cut")
        self.assertEqual(ends.far.held, 0)
        self.assertEqual(ends.far_receiver.reasons, ["cut"])
