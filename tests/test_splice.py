"""Tests for :mod:`rtunnel.splice`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.splice import Splice, SpliceReport, StreamReceiver, splice
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.testing import (
    AcceptingHandler,
    ConnectionPair,
    MemoryStream,
    RecordingReceiver,
)
from rtunnel.write_batch import BATCH


class SpliceTests(SynchronousTestCase):
    """Two streams joined."""

    def setUp(self) -> None:
        """Two streams of memory, and what the splice reports."""
        self.clock = Clock()
        self.a = MemoryStream()
        self.b = MemoryStream()
        self.reports: list[SpliceReport] = []

    def join(self) -> Splice:
        """Join ``a`` and ``b``."""
        return splice(self.a, self.b, self.clock, self.reports.append)

    def test_data_passes_both_ways(self) -> None:
        """What comes from one is written to the other."""
        self.join()
        self.a.feed(b"to b")
        self.b.feed(b"to a")
        self.assertEqual(self.b.take(), b"to b")
        self.assertEqual(self.a.take(), b"to a")

    def test_a_slow_stream_pauses_the_other(self) -> None:
        """Each way on its own, and resumes it when there is room."""
        self.join()
        self.a.feed(bytes(self.b.capacity + 1))
        self.assertTrue(self.a.paused)
        self.assertFalse(self.b.paused)
        self.b.take()
        self.assertFalse(self.a.paused)

    def test_end_of_data_passes_one_way(self) -> None:
        """EOF from one leaves the other way running."""
        self.join()
        self.a.feed(bytes(100_000))
        self.a.feed_eof()
        self.assertTrue(self.b.eof_written)
        self.assertFalse(self.a.eof_written)
        self.assertFalse(self.b.closing)
        self.b.feed(bytes(200_011))
        self.assertEqual(len(self.a.take()), 200_011)
        self.assertEqual(self.reports, [])

    def test_end_of_data_both_ways_closes_both(self) -> None:
        """With EOF passed both ways, both streams are closed in order."""
        self.join()
        self.a.feed_eof()
        self.b.feed(b"last words")
        self.b.feed_eof()
        self.assertTrue(self.a.closing and self.b.closing)
        self.assertEqual(self.reports, [])
        self.clock.advance(2.5)
        self.a.take()
        self.assertEqual(self.a.taken, b"last words")
        self.assertEqual(self.reports, [SpliceReport(0, 10, 2.5, "")])

    def test_end_of_data_and_the_close_that_it_causes_leave_together(self) -> None:
        """A channel that collects both sends them in one write."""
        sent: list[list[str]] = []

        class Collecting(MemoryStream):
            def write_eof(self) -> None:
                super().write_eof()
                self.collected = ["eof"]
                BATCH.add(self)

            def close(self) -> None:
                super().close()
                self.collected.append("close")

            def flush(self) -> None:
                sent.append(self.collected)

        self.a = Collecting()
        self.join()
        self.a.feed_eof()
        self.b.feed_eof()
        self.assertEqual(sent, [["eof", "close"]])

    def test_a_stream_that_closes_in_order_closes_the_other(self) -> None:
        """What was written to the other is still taken."""
        self.join()
        self.a.feed(b"data")
        self.a.finish(None)
        self.assertTrue(self.b.closing)
        self.assertFalse(self.b.finished)
        self.assertEqual(self.b.take(), b"data")
        self.assertEqual(self.reports, [SpliceReport(4, 0, 0.0, "")])

    def test_a_stream_that_fails_aborts_the_other(self) -> None:
        """Failure passes through at once, and its reason is reported."""
        self.join()
        self.a.feed(b"data")
        self.b.finish("connection reset")
        self.assertTrue(self.a.finished)
        self.assertEqual(self.reports, [SpliceReport(4, 0, 0.0, "connection reset")])

    def test_abort(self) -> None:
        """Both streams are ended, what is on its way is dropped, the reason kept."""
        joined = self.join()
        self.a.feed(b"data")
        joined.abort("kicked")
        self.assertTrue(self.a.finished and self.b.finished)
        self.assertEqual(self.b.written, b"")
        joined.abort("again")
        self.assertEqual(self.reports, [SpliceReport(4, 0, 0.0, "kicked")])

    def test_abort_while_one_is_closing(self) -> None:
        """A stream that does not finish closing can still be aborted."""
        joined = self.join()
        self.a.feed(b"data")
        self.a.finish(None)
        joined.abort("drained")
        self.assertTrue(self.b.finished)
        self.assertEqual(self.reports, [SpliceReport(4, 0, 0.0, "drained")])

    def test_a_failing_write_does_not_reach_the_other_stream(self) -> None:
        """What writing to one raises is logged once, and never gets into the other."""

        class Broken(MemoryStream):
            def write(self, data: bytes) -> None:
                raise ValueError("a bug")

        self.b = Broken()
        self.join()
        self.a.feed(b"data")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertTrue(self.a.finished and self.b.finished)
        self.assertEqual([report.reason for report in self.reports], ["internal error"])

    def test_a_failing_write_eof_does_not_reach_the_other_stream(self) -> None:
        """The same for end of data, and for closing and aborting that fail."""

        class Broken(MemoryStream):
            def write_eof(self) -> None:
                raise ValueError("a bug")

            def abort(self) -> None:
                super().abort()
                raise ValueError("another bug")

        self.b = Broken()
        self.join()
        self.a.feed_eof()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.assertEqual(len(self.reports), 1)

    def test_a_failing_owner_is_logged(self) -> None:
        """What ``done`` raises does not get into the stream that closed last."""

        def fail(report: SpliceReport) -> None:
            raise ValueError("a bug")

        splice(self.a, self.b, self.clock, fail)
        self.a.finish(None)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_stream_that_ends_while_being_joined(self) -> None:
        """A stream that was gone before is reported like any other."""

        class Gone(MemoryStream):
            def start(self, receiver: StreamReceiver) -> None:
                self.finish("gone")
                super().start(receiver)

        for a, b in [(Gone(), MemoryStream()), (MemoryStream(), Gone())]:
            reports: list[SpliceReport] = []
            splice(a, b, self.clock, reports.append)
            self.assertEqual([report.reason for report in reports], ["gone"])

    def test_progress_can_be_read(self) -> None:
        """The byte counts are there while the splice runs."""
        joined = self.join()
        self.a.feed(b"12345")
        self.b.feed(b"123")
        self.assertEqual((joined.bytes_in, joined.bytes_out), (5, 3))

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.booleans(),
                st.sampled_from(
                    ["feed", "eof", "take", "finish", "fail", "abort", "advance"]
                ),
            ),
            max_size=30,
        )
    )
    def test_every_order_ends_once(self, steps: list[tuple[bool, str]]) -> None:
        """Whatever happens first, both streams end and ``done`` is called once.

        The counts are what was fed, and nothing arrives that was not.
        """
        a, b = MemoryStream(50), MemoryStream(50)
        reports: list[SpliceReport] = []
        clock = Clock()
        joined = splice(a, b, clock, reports.append)
        fed = {True: b"", False: b""}
        eof = {True: False, False: False}
        counter = 0
        for side, action in steps:
            stream = a if side else b
            over = stream.finished or stream.closing
            if action == "feed" and not (over or stream.paused or eof[side]):
                counter += 1
                data = bytes([counter]) * 40
                fed[side] += data
                stream.feed(data)
            elif action == "eof" and not (over or eof[side]):
                eof[side] = True
                stream.feed_eof()
            elif action == "take":
                stream.take()
            elif action == "finish" and not stream.finished:
                stream.finish(None)
            elif action == "fail" and not stream.finished:
                stream.finish("broken")
            elif action == "abort":
                joined.abort("aborted")
            elif action == "advance":
                clock.advance(1)
        for side, sink in ((True, b), (False, a)):
            self.assertTrue(fed[side].startswith(bytes(sink.taken + sink.written)))
        joined.abort("over")
        self.assertEqual(len(reports), 1)
        self.assertEqual(reports[0].bytes_in, len(fed[True]))
        self.assertEqual(reports[0].bytes_out, len(fed[False]))
        self.assertTrue(a.finished and b.finished)


class ChannelSpliceTests(SynchronousTestCase):
    """Channels of two connections joined, as a proxy joins client and tunnel."""

    def setUp(self) -> None:
        """client == (left) == proxy == (right) == agent."""
        self.clock = Clock()
        limits = ChannelLimits(initial_window=65536, window=65536)
        self.left_handler = AcceptingHandler()
        self.left = ConnectionPair(
            server_handler=self.left_handler,
            clock=self.clock,
            client_limits=limits,
            server_limits=limits,
        )
        self.right_handler = AcceptingHandler()
        self.right = ConnectionPair(
            server_handler=self.right_handler,
            clock=self.clock,
            client_limits=limits,
            server_limits=limits,
        )
        self.reports: list[SpliceReport] = []
        self.client, self.client_receiver, near = self.open(self.left)
        far, _, self.agent = self.open(self.right, start=False)
        self.agent_receiver = RecordingReceiver()
        self.agent.start(self.agent_receiver)
        self.near, self.far = near, far
        splice(near, far, self.clock, self.reports.append)

    def open(
        self, pair: ConnectionPair, start: bool = True
    ) -> tuple[Channel, RecordingReceiver, Channel]:
        """Open a channel; its client end, the receiver of that, its server end."""
        opened = Deferred.fromCoroutine(pair.client.open_channel(b"x"))
        pair.pump()
        channel = self.successResultOf(opened)
        receiver = RecordingReceiver()
        if start:
            channel.start(receiver)
        handler = pair.server_handler
        assert isinstance(handler, AcceptingHandler)
        return channel, receiver, handler.channels[-1]

    def pump(self) -> None:
        """Move everything there is."""
        while self.left.pump() + self.right.pump():
            pass

    def test_half_close_through_two_connections(self) -> None:
        """100,000 bytes and EOF there, 200,011 bytes and EOF back."""
        self.client.write(bytes(100_000))
        self.client.write_eof()
        self.pump()
        self.assertEqual(len(self.agent_receiver.data), 100_000)
        self.assertEqual(self.agent_receiver.events, ["data", "eof"])
        self.agent.write(b"z" * 200_011)
        self.agent.write_eof()
        self.pump()
        self.assertEqual(bytes(self.client_receiver.data), b"z" * 200_011)
        self.client.close()
        self.agent.close()
        self.pump()
        self.assertEqual(self.client_receiver.events, ["data", "eof", "closed"])
        self.assertEqual(self.reports, [SpliceReport(100_000, 200_011, 0.0, "")])
        for pair in (self.left, self.right):
            self.assertEqual(pair.client.open_channels, 0)
            self.assertEqual(pair.server.open_channels, 0)

    def test_a_slow_reader_bounds_what_is_held_anywhere(self) -> None:
        """With the agent not reading, the client is stopped; each hop holds little."""
        self.agent.pauseProducing()
        for _ in range(100):
            self.client.write(bytes(32768))
            self.pump()
        self.assertGreater(self.client.queued, 100 * 32768 - 5 * 65536)
        for channel in (self.near, self.far, self.agent):
            self.assertLessEqual(channel.held, 65536)
            self.assertLessEqual(channel.queued, 3 * 65536)
        self.agent.resumeProducing()
        self.pump()
        self.assertEqual(len(self.agent_receiver.data), 100 * 32768)

    def test_other_channels_go_on_beside_a_stalled_one(self) -> None:
        """A stalled channel does not hold up another of the same two connections."""
        self.agent.pauseProducing()
        self.client.write(bytes(2**20))
        self.pump()
        client, _, near = self.open(self.left)
        far, _, agent = self.open(self.right, start=False)
        receiver = RecordingReceiver()
        agent.start(receiver)
        splice(near, far, self.clock, self.reports.append)
        client.write(bytes(2**20))
        self.pump()
        self.assertEqual(len(receiver.data), 2**20)

    def test_a_violation_on_one_connection_spares_the_other(self) -> None:
        """A peer that breaks its channel loses it; the tunnel only sees it closed."""
        other, _, other_near = self.open(self.right, start=False)
        other.start(RecordingReceiver())
        other_receiver = RecordingReceiver()
        other_near.start(other_receiver)
        self.near.data_arrived(bytes(65537), 65537)
        self.pump()
        self.assertEqual(len(self.reports), 1)
        self.assertIn("65537 bytes", self.reports[0].reason)
        self.assertEqual(self.agent_receiver.events, ["closed"])
        self.assertTrue(self.right.client.is_open)
        other.write(b"still there")
        self.pump()
        self.assertEqual(bytes(other_receiver.data), b"still there")

    def test_a_lost_connection_aborts_the_other_channel(self) -> None:
        """The client's connection goes: the agent's channel is closed, no more."""
        self.client.write(b"data")
        self.left.pump()
        self.left.lose("cut")
        self.assertEqual([report.reason for report in self.reports], ["cut"])
        self.pump()
        self.assertTrue(self.agent_receiver.is_closed)
        self.assertTrue(self.right.client.is_open)
        self.assertEqual(self.right.client.open_channels, 0)
