"""Tests for back-pressure in :mod:`rtunnel.ssh.channel` and its two halves."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.testing import RecordingProducer, RecordingReceiver
from rtunnel.wire.data_types import uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from tests.ssh.channel_ends import KIB, Ends


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
