"""Tests for :mod:`rtunnel.ssh.channel` and its two halves."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterator

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from rtunnel.errors import ConnectionClosed, RequestFailed
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.testing import (
    AcceptingHandler,
    ConnectionPair,
    RecordingProducer,
    RecordingReceiver,
)
from rtunnel.wire.data_types import boolean, string, uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
)

KIB = 1024


class Ends:
    """A channel's two ends over a :class:`ConnectionPair`, with a receiver each.

    :param start: whether the receivers are started.
    """

    def __init__(
        self,
        *,
        start: bool = True,
        capacity: int = 2**30,
        limits: ChannelLimits | None = None,
    ) -> None:
        self.handler = AcceptingHandler()
        self.pair = ConnectionPair(
            server_handler=self.handler,
            client_limits=limits,
            server_limits=limits,
            capacity=capacity,
        )
        opened = Deferred.fromCoroutine(self.pair.client.open_channel(b"test"))
        self.pair.pump()
        results: list[Channel] = []
        opened.addCallback(results.append)
        self.near = results[0]
        self.far = self.handler.channels[0]
        self.near_receiver = RecordingReceiver()
        self.far_receiver = RecordingReceiver()
        if start:
            self.near.start(self.near_receiver)
            self.far.start(self.far_receiver)
        self.sent = self.pair.client_transport.sent
        self.sent.clear()
        self.answered = self.pair.server_transport.sent
        self.answered.clear()

    def to_far(self, number: int, payload: bytes) -> None:
        """The far end gets a message that the near end never sent."""
        self.pair.server_transport.receive(number, payload)

    def data(self, data: bytes) -> None:
        """The far end gets data, whatever its window."""
        self.to_far(MSG_CHANNEL_DATA, uint32(self.far.number) + string(data))


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


class BackPressureTests(SynchronousTestCase):
    """A receiver that takes nothing slows down the sender, and costs little."""

    def test_a_paused_receiver_gives_no_credit(self) -> None:
        """A paused end holds no more than its window, however much is written."""
        ends = Ends(limits=ChannelLimits(initial_window=256 * KIB))
        ends.far.pauseProducing()
        producer = RecordingProducer()
        ends.near.registerProducer(producer, True)
        written = 0
        while not producer.paused:
            ends.near.write(bytes(16 * KIB))
            written += 16 * KIB
            ends.pair.pump()
        self.assertEqual(ends.far_receiver.events, [])
        self.assertEqual(ends.far.held, 256 * KIB)
        self.assertLessEqual(ends.near.queued, 64 * KIB + 16 * KIB)
        self.assertEqual(written, ends.far.held + ends.near.queued)
        ends.far.resumeProducing()
        ends.pair.pump()
        self.assertFalse(producer.paused)
        self.assertEqual(len(ends.far_receiver.data), written)

    def test_pausing_in_the_middle_keeps_the_rest(self) -> None:
        """A receiver that pauses at each piece gets one piece per resume, in order."""
        ends = Ends(start=False)
        receiver = RecordingReceiver(lambda data: ends.far.pauseProducing())
        ends.far.start(receiver)
        pieces = [bytes([65 + i]) * 5000 for i in range(5)]
        for piece in pieces:
            ends.near.write(piece)
        ends.near.write_eof()
        ends.pair.pump()
        for count in range(1, 6):
            self.assertEqual(bytes(receiver.data), b"".join(pieces[:count]))
            ends.far.resumeProducing()
        self.assertEqual(receiver.events, ["data", "eof"])

    def test_resuming_inside_data_received_does_not_recurse(self) -> None:
        """A receiver that pauses and resumes while it is called stays in order."""

        def pause_and_resume(data: bytes) -> None:
            depth.append(len(depth))
            ends.far.pauseProducing()
            ends.far.resumeProducing()
            self.assertEqual(len(depth), 1)
            depth.pop()

        depth: list[int] = []
        ends = Ends(start=False)
        for number in range(2000):
            ends.near.write(number.to_bytes(4, "big") * 1024)
        ends.pair.pump()
        receiver = RecordingReceiver(pause_and_resume)
        ends.far.start(receiver)
        ends.pair.pump()
        self.assertEqual(len(receiver.data), 2000 * 4096)
        self.assertEqual(bytes(receiver.data[-4096:]), (1999).to_bytes(4, "big") * 1024)

    def test_pausing_in_data_received_keeps_the_credit_back(self) -> None:
        """Data that made the receiver pause gives no credit before it resumes."""
        ends = Ends(
            start=False, limits=ChannelLimits(initial_window=64 * KIB, window=64 * KIB)
        )
        ends.far.start(RecordingReceiver(lambda data: ends.far.pauseProducing()))
        ends.near.write(bytes(32 * KIB))
        ends.pair.pump()
        self.assertEqual(ends.far.held, 0)
        self.assertEqual(ends.answered, [])
        ends.far.resumeProducing()
        self.assertEqual(ends.answered, [MSG_CHANNEL_WINDOW_ADJUST])

    def test_what_arrives_while_the_receiver_is_busy_waits(self) -> None:
        """Data, EOF and CLOSE that come inside data_received are told after it."""

        def receive_more(data: bytes) -> None:
            if data == b"1":
                ends.data(b"2")
                ends.data(b"3")
                ends.to_far(MSG_CHANNEL_EOF, uint32(ends.far.number))
                ends.to_far(MSG_CHANNEL_CLOSE, uint32(ends.far.number))
            seen.append((data, list(receiver.events)))

        seen: list[tuple[bytes, list[str]]] = []
        ends = Ends(start=False)
        receiver = RecordingReceiver(receive_more)
        ends.far.start(receiver)
        ends.data(b"1")
        self.assertEqual(seen, [(b"1", ["data"]), (b"23", ["data"])])
        self.assertEqual(bytes(receiver.data), b"123")
        self.assertEqual(receiver.events, ["data", "eof", "closed"])

    def test_closed_is_not_told_inside_data_received(self) -> None:
        """A CLOSE that comes while the receiver is busy is told when it is not."""

        def receive_close(data: bytes) -> None:
            ends.to_far(MSG_CHANNEL_CLOSE, uint32(ends.far.number))
            seen.extend(receiver.events)

        seen: list[str] = []
        ends = Ends(start=False)
        receiver = RecordingReceiver(receive_close)
        ends.far.start(receiver)
        ends.data(b"1")
        self.assertEqual(seen, ["data"])
        self.assertEqual(receiver.events, ["data", "closed"])

    def test_a_producer_is_paused_while_the_connection_has_no_room(self) -> None:
        """Whatever does not go out at once pauses who wrote it."""
        ends = Ends(capacity=64 * KIB)
        producer = RecordingProducer()
        ends.near.registerProducer(producer, True)
        ends.near.write(bytes(100 * KIB))
        ends.near.write(bytes(100 * KIB))
        self.assertTrue(producer.paused)
        self.assertEqual(ends.near.queued, 100 * KIB)
        ends.pair.pump()
        self.assertFalse(producer.paused)
        self.assertEqual(len(ends.far_receiver.data), 200 * KIB)

    def test_a_producer_stays_paused_until_there_is_room(self) -> None:
        """The packet that fills the connection does not resume who wrote it."""
        ends = Ends(capacity=2**30)
        producer = RecordingProducer()
        ends.near.registerProducer(producer, True)
        ends.pair.client.pause_writing()
        ends.near.write(bytes(1000))
        ends.pair.client_transport.capacity = 500
        ends.pair.client.resume_writing()
        self.assertEqual(ends.near.queued, 0)
        self.assertTrue(producer.paused)
        ends.pair.pump()
        self.assertFalse(producer.paused)

    def test_a_producer_is_told_to_pause_once(self) -> None:
        """More writes of a paused producer do not pause it again."""
        ends = Ends()
        producer = RecordingProducer()
        ends.near.registerProducer(producer, True)
        ends.pair.client.pause_writing()
        for _ in range(5):
            ends.near.write(b"x")
        self.assertEqual(producer.pauses, 1)

    def test_a_producer_that_comes_late_is_paused(self) -> None:
        """Registering with a producer when too much is queued pauses it at once."""
        ends = Ends()
        ends.pair.client.pause_writing()
        ends.near.write(b"x")
        producer = RecordingProducer()
        ends.near.registerProducer(producer, True)
        self.assertTrue(producer.paused)

    def test_a_producer_with_nothing_queued_is_left_alone(self) -> None:
        """A full connection does not pause those that write nothing."""
        ends = Ends(capacity=64 * KIB)
        producer = RecordingProducer()
        ends.near.registerProducer(producer, True)
        ends.pair.client.pause_writing()
        self.assertFalse(producer.paused)
        ends.near.write(b"x")
        self.assertTrue(producer.paused)

    def test_many_producers_are_all_resumed(self) -> None:
        """Room on the connection resumes every producer that waited for it."""
        ends = Ends(capacity=64 * KIB)
        opens = [
            Deferred.fromCoroutine(ends.pair.client.open_channel(b"x"))
            for _ in range(20)
        ]
        ends.pair.pump()
        producers = []
        ends.pair.client.pause_writing()
        for opened in opens:
            channel = self.successResultOf(opened)
            producer = RecordingProducer()
            channel.registerProducer(producer, True)
            channel.write(bytes(10 * KIB))
            producers.append(producer)
        self.assertTrue(all(producer.paused for producer in producers))
        ends.pair.client.resume_writing()
        ends.pair.pump()
        self.assertFalse(any(producer.paused for producer in producers))

    def test_producers_that_write_when_resumed_take_turns(self) -> None:
        """Producers that fill the connection again at once do not go round for ever."""
        ends = Ends(capacity=64 * KIB)
        opened = Deferred.fromCoroutine(ends.pair.client.open_channel(b"x"))
        ends.pair.pump()
        channels = [ends.near, self.successResultOf(opened)]

        class Eager(RecordingProducer):
            """Writes 8 KiB whenever it may, 50 times."""

            def __init__(self, channel: Channel) -> None:
                super().__init__()
                self.channel = channel
                self.writes = 0

            def resumeProducing(self) -> None:
                super().resumeProducing()
                if self.writes < 50:
                    self.writes += 1
                    self.channel.write(bytes(8 * KIB))

        producers = [Eager(channel) for channel in channels]
        ends.pair.client.pause_writing()
        for channel, producer in zip(channels, producers, strict=True):
            channel.registerProducer(producer, True)
            channel.write(b"x")
        ends.pair.client.resume_writing()
        for _ in range(60):
            ends.pair.pump()
            for producer in producers:
                producer.resumeProducing()
        ends.pair.pump()
        self.assertEqual([producer.writes for producer in producers], [50, 50])
        self.assertEqual(len(ends.far_receiver.data), 50 * 8 * KIB + 1)

    def test_only_one_producer_at_a_time(self) -> None:
        """Registering a second producer, or a pull producer, raises."""
        ends = Ends()
        ends.near.registerProducer(RecordingProducer(), True)
        with self.assertRaises(RuntimeError):
            ends.near.registerProducer(RecordingProducer(), True)
        ends.near.unregisterProducer()
        with self.assertRaises(RuntimeError):
            ends.near.registerProducer(RecordingProducer(), False)

    def test_a_producer_is_stopped_at_the_end(self) -> None:
        """The producer of a channel that ends, or has ended, is stopped."""
        ends = Ends()
        before, after = RecordingProducer(), RecordingProducer()
        ends.near.registerProducer(before, True)
        ends.near.abort()
        ends.near.registerProducer(after, True)
        self.assertTrue(before.stopped)
        self.assertTrue(after.stopped)

    def test_queued_bytes_cost_no_quadratic_time(self) -> None:
        """Thirty thousand small writes into a closed window are only queued.

        They leave in packets of full size when the window opens.
        """
        ends = Ends()
        ends.near._output.window.remaining = 0
        for _ in range(30_000):
            ends.near.write(b"0123456789")
        self.assertEqual(ends.near.queued, 300_000)
        ends.near.window_adjusted(2**20)
        self.assertEqual(ends.near.queued, 0)
        self.assertLess(len(ends.sent), 20)


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
            ends, "the peer sent 1 bytes of data where the window has 0"
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


class ReceivedRequestTests(SynchronousTestCase):
    """Channel requests of the peer's."""

    def ask(self, ends: Ends, name: bytes, want_reply: bool = True) -> None:
        """The far end gets a request."""
        ends.to_far(
            MSG_CHANNEL_REQUEST,
            uint32(ends.far.number) + string(name) + boolean(want_reply) + b"data",
        )

    def test_refused_by_default(self) -> None:
        """Requests that nobody asked for get CHANNEL_FAILURE, if they want anything."""
        ends = Ends()
        self.ask(ends, b"keepalive@openssh.com")
        self.ask(ends, b"env", want_reply=False)
        self.assertEqual(ends.answered, [MSG_CHANNEL_FAILURE])

    def test_handler_decides(self) -> None:
        """on_request gets name and data, and says success or failure."""
        seen: list[tuple[bytes, bytes]] = []

        def on_request(name: bytes, data: bytes) -> bool:
            seen.append((name, data))
            return name == b"good"

        ends = Ends()
        ends.far.on_request = on_request
        self.ask(ends, b"good")
        self.ask(ends, b"bad")
        self.assertEqual(ends.answered, [MSG_CHANNEL_SUCCESS, MSG_CHANNEL_FAILURE])
        self.assertEqual(seen, [(b"good", b"data"), (b"bad", b"data")])

    def test_answers_leave_in_the_order_of_the_requests(self) -> None:
        """Answers known early wait for those before them; nothing else does."""
        outcomes: list[Deferred[bool]] = [Deferred(), Deferred()]
        ends = Ends()
        results: Iterator[bool | Deferred[bool]]
        results = iter([outcomes[0], outcomes[1], False])
        ends.far.on_request = lambda name, data: next(results)
        for _ in range(3):
            self.ask(ends, b"x")
        outcomes[1].callback(True)
        self.assertEqual(ends.answered, [])
        outcomes[0].callback(False)
        self.assertEqual(
            ends.answered,
            [MSG_CHANNEL_FAILURE, MSG_CHANNEL_SUCCESS, MSG_CHANNEL_FAILURE],
        )

    def test_no_answer_unless_wanted(self) -> None:
        """A request that wants no answer gets none, however long it takes."""
        wait: Deferred[bool] = Deferred()
        ends = Ends()
        ends.far.on_request = lambda name, data: wait
        self.ask(ends, b"x", want_reply=False)
        wait.callback(True)
        self.assertEqual(ends.answered, [])

    def test_nothing_is_handled_while_closing(self) -> None:
        """A channel that is on its way to CLOSE takes no requests."""
        seen: list[bytes] = []

        def on_request(name: bytes, data: bytes) -> bool:
            seen.append(name)
            return True

        ends = Ends()
        ends.far.on_request = on_request
        ends.far._output.window.remaining = 0
        ends.far.write(b"not yet")
        ends.far.close()
        self.ask(ends, b"x")
        self.assertEqual((seen, ends.answered), ([], []))

    def test_coroutines_are_run(self) -> None:
        """A coroutine function may handle requests."""

        async def on_request(name: bytes, data: bytes) -> bool:
            return await wait

        wait: Deferred[bool] = Deferred()
        ends = Ends()
        ends.far.on_request = on_request
        self.ask(ends, b"x")
        self.assertEqual(ends.answered, [])
        wait.callback(True)
        self.assertEqual(ends.answered, [MSG_CHANNEL_SUCCESS])

    def test_outstanding_requests(self) -> None:
        """A peer with too many requests at a time loses the channel."""
        ends = Ends(limits=ChannelLimits(outstanding_requests=3))
        cancelled: list[int] = []
        ends.far.on_request = lambda name, data: Deferred[bool](
            lambda _: cancelled.append(1)
        )
        for _ in range(3):
            self.ask(ends, b"x", want_reply=False)
        self.assertTrue(ends.far.is_open)
        self.ask(ends, b"x")
        self.assertEqual(
            ends.far_receiver.reasons, ["the peer made more than 3 requests at a time"]
        )
        self.assertEqual(ends.answered, [MSG_CHANNEL_CLOSE])
        self.assertEqual(len(cancelled), 3)

    def test_no_answer_after_close(self) -> None:
        """An answer that comes after our CLOSE is not sent, its handler cancelled."""
        wait: Deferred[bool] = Deferred(lambda d: d.callback(True))
        ends = Ends()
        ends.far.on_request = lambda name, data: wait
        self.ask(ends, b"x")
        ends.far.close()
        self.assertEqual(ends.answered, [MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE])

    def test_no_answer_after_the_peers_close(self) -> None:
        """The peer's CLOSE cancels what is still being handled."""
        wait: Deferred[bool] = Deferred()
        ends = Ends()
        ends.far.on_request = lambda name, data: wait
        self.ask(ends, b"x")
        ends.to_far(MSG_CHANNEL_CLOSE, uint32(ends.far.number))
        self.assertTrue(wait.called)
        self.assertEqual(ends.answered, [MSG_CHANNEL_CLOSE])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_handler_may_write_and_close(self) -> None:
        """The answer of a handler that closes its channel comes before CLOSE."""

        def on_request(name: bytes, data: bytes) -> bool:
            ends.far.write(b"listing")
            ends.far.close()
            return True

        ends = Ends()
        ends.far.on_request = on_request
        self.ask(ends, b"exec")
        self.assertEqual(
            ends.answered,
            [
                MSG_CHANNEL_DATA,
                MSG_CHANNEL_EOF,
                MSG_CHANNEL_SUCCESS,
                MSG_CHANNEL_CLOSE,
            ],
        )

    def test_a_handler_may_abort(self) -> None:
        """A handler that aborts its channel gets no answer out, whatever it returns."""

        async def later() -> bool:
            return True

        def on_request(name: bytes, data: bytes) -> bool | Awaitable[bool]:
            ends.far.abort()
            return outcomes[name]()

        outcomes: dict[bytes, Callable[[], bool | Awaitable[bool]]] = {
            b"true": lambda: True,
            b"false": lambda: False,
            b"later": later,
            b"never": lambda: Deferred(lambda _: cancelled.append(1)),
        }
        cancelled: list[int] = []
        for name in outcomes:
            ends = Ends()
            ends.far.on_request = on_request
            self.ask(ends, name)
            self.assertEqual(ends.answered, [MSG_CHANNEL_CLOSE])
        self.assertEqual(len(cancelled), 1)

    def test_a_raising_handler_ends_its_channel(self) -> None:
        """An exception, at once or later, is logged once and closes the channel."""

        def at_once(name: bytes, data: bytes) -> bool:
            raise ValueError("a bug")

        async def later(name: bytes, data: bytes) -> bool:
            raise ValueError("a bug")

        for on_request in (at_once, later):
            ends = Ends()
            ends.far.on_request = on_request
            self.ask(ends, b"x")
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
            self.assertEqual(ends.answered, [MSG_CHANNEL_CLOSE])
            self.assertEqual(ends.far_receiver.reasons, ["internal error"])
            self.assertTrue(ends.pair.server.is_open)


class SentRequestTests(SynchronousTestCase):
    """Channel requests of ours."""

    def test_success_and_failure(self) -> None:
        """The Deferred says what the peer answered."""
        ends = Ends()
        ends.far.on_request = lambda name, data: name == b"good" and data == b"data"
        good = ends.near.send_request(b"good", b"data")
        bad = ends.near.send_request(b"bad", b"data")
        ends.pair.pump()
        self.assertIs(self.successResultOf(good), None)
        self.assertIn("'bad'", str(self.failureResultOf(bad, RequestFailed).value))

    def test_without_want_reply(self) -> None:
        """A request that wants no answer is done when it is sent."""
        ends = Ends()
        self.successResultOf(ends.near.send_request(b"x", want_reply=False))
        ends.pair.pump()
        self.assertEqual(ends.answered, [])

    def test_fails_when_the_channel_ends(self) -> None:
        """Closing, at either end, fails what waits and what comes later."""
        for end in ("near", "far"):
            ends = Ends()
            answer = ends.near.send_request(b"x")
            getattr(ends, end).abort()
            ends.far.on_request = lambda name, data: Deferred()
            ends.pair.pump()
            self.failureResultOf(answer, ConnectionClosed)
            self.failureResultOf(ends.near.send_request(b"x"), ConnectionClosed)

    def test_fails_as_soon_as_we_close(self) -> None:
        """With our CLOSE sent, no answer is waited for."""
        ends = Ends()
        answer = ends.near.send_request(b"x")
        ends.near.close()
        self.failureResultOf(answer, ConnectionClosed)

    def test_an_answer_may_cross_our_close(self) -> None:
        """Answers to requests that we gave up with the channel are no fault."""
        ends = Ends()
        ends.far.on_request = lambda name, data: True
        answer = ends.near.send_request(b"x")
        ends.near.abort()
        self.failureResultOf(answer, ConnectionClosed)
        ends.pair.pump()
        self.assertIn(MSG_CHANNEL_SUCCESS, ends.answered)
        self.assertTrue(ends.pair.client.is_open)
        self.assertEqual(ends.pair.client.open_channels, 0)

    def test_outstanding_requests(self) -> None:
        """We do not send more than may wait for an answer."""
        ends = Ends(limits=ChannelLimits(outstanding_requests=2))
        waiting = [ends.near.send_request(b"x") for _ in range(2)]
        self.failureResultOf(ends.near.send_request(b"x"), RequestFailed)
        self.assertEqual(ends.sent, [MSG_CHANNEL_REQUEST] * 2)
        ends.pair.pump()
        for answer in waiting:
            self.failureResultOf(answer, RequestFailed)
