"""Tests for :mod:`rtunnel.tcp_stream`, most of them over real sockets."""

from __future__ import annotations

import socket
from typing import Any, cast

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IPushProducer
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from rtunnel.socket_buffers import FIRST, PROVEN, UNSENT
from rtunnel.splice import SpliceReport, splice
from rtunnel.tcp_stream import TcpStream
from rtunnel.testing import RecordingProducer, RecordingReceiver
from tests.tcp_streams import TIMEOUT, Collector, TcpStreamTestCase, clock, pause


class StreamTests(TcpStreamTestCase):
    """A TCP connection as a stream."""

    async def test_provides_twisteds_interfaces(self) -> None:
        """Twisted finds its interfaces, and half-close with them."""
        near, _ = await self.pair()
        for interface in (IConsumer, IPushProducer, IHalfCloseableProtocol):
            self.assertTrue(verifyObject(interface, near))

    async def test_nothing_is_read_before_start(self) -> None:
        """What comes early waits in the kernel, not in our memory."""
        near, far = await self.pair()
        far.start(Collector())
        far.write(b"x" * 2_000_000)
        await pause()
        self.assertEqual(len(near._held), 0)
        receiver = Collector()
        near.start(receiver)
        await receiver.until(lambda: len(receiver.data) == 2_000_000)

    async def test_half_close(self) -> None:
        """100,000 bytes and FIN there, then 200,011 bytes and FIN back."""
        near, near_receiver, far, far_receiver = await self.started()
        near.write(b"a" * 100_000)
        near.write_eof()
        await far_receiver.until(lambda: far_receiver.has_eof)
        self.assertEqual(len(far_receiver.data), 100_000)
        await pause()
        self.assertEqual(near_receiver.events, [])
        far.write(b"b" * 200_011)
        far.write_eof()
        await near_receiver.until(lambda: near_receiver.has_eof)
        self.assertEqual(bytes(near_receiver.data), b"b" * 200_011)
        near.close()
        far.close()
        self.assertIs(await near_receiver.until_closed(), None)
        self.assertIs(await far_receiver.until_closed(), None)
        self.assertEqual(near_receiver.events, ["data", "eof", "closed"])
        self.assertEqual(far_receiver.events, ["data", "eof", "closed"])

    async def test_fin_follows_all_data_though_a_producer_is_paused(self) -> None:
        """write_eof with a full buffer and a paused producer still ends in FIN."""
        near, _, far, far_receiver = await self.started()
        far.pauseProducing()
        producer = RecordingProducer()
        near.registerProducer(producer, True)
        near.write(b"x" * 20_000_000)
        self.assertTrue(producer.paused)
        near.write_eof()
        await pause()
        far.resumeProducing()
        await far_receiver.until(lambda: far_receiver.has_eof)
        self.assertEqual(len(far_receiver.data), 20_000_000)

    async def test_fin_is_told_once(self) -> None:
        """Pausing and resuming after the peer's FIN does not tell it again."""
        near, _, far, far_receiver = await self.started()
        near.write_eof()
        await far_receiver.until(lambda: far_receiver.has_eof)
        for _ in range(3):
            far.pauseProducing()
            far.resumeProducing()
            await pause(0.01)
        self.assertEqual(far_receiver.events, ["eof"])

    async def test_close_sends_what_was_written(self) -> None:
        """Data written before close arrives, then FIN; both hear an orderly end."""
        near, near_receiver, far, far_receiver = await self.started()
        near.write(b"x" * 5_000_000)
        near.close()
        near.write(b"late")
        await far_receiver.until(lambda: far_receiver.has_eof)
        self.assertEqual(len(far_receiver.data), 5_000_000)
        self.assertIs(await near_receiver.until_closed(), None)
        far.close()
        self.assertIs(await far_receiver.until_closed(), None)

    async def test_close_though_a_producer_is_paused(self) -> None:
        """A producer that was never unregistered does not keep the stream open."""
        near, near_receiver, far, far_receiver = await self.started()
        far.pauseProducing()
        producer = RecordingProducer()
        near.registerProducer(producer, True)
        near.write(b"x" * 20_000_000)
        self.assertTrue(producer.paused)
        near.close()
        await pause()
        far.resumeProducing()
        self.assertIs(await near_receiver.until_closed(), None)
        await far_receiver.until(lambda: far_receiver.has_eof)
        self.assertEqual(len(far_receiver.data), 20_000_000)

    async def test_close_before_start(self) -> None:
        """A stream that nobody started closes, and tells whoever starts it."""
        near, far = await self.pair()
        near.close()
        await pause()
        receiver = Collector()
        near.start(receiver)
        self.assertEqual(receiver.reasons, [None])
        far_receiver = Collector()
        far.start(far_receiver)
        await far_receiver.until(lambda: far_receiver.has_eof)

    async def test_close_delivers_nothing_more(self) -> None:
        """Data that comes after close is not delivered."""
        near, near_receiver, far, _ = await self.started()
        far.write(b"x")
        near.close()
        await near_receiver.until_closed()
        self.assertEqual(near_receiver.events, ["closed"])

    async def test_abort_resets(self) -> None:
        """The peer of an aborted stream hears of a reset."""
        near, near_receiver, _, far_receiver = await self.started()
        near.write(b"x" * 20_000_000)
        near.abort()
        self.assertEqual(await near_receiver.until_closed(), "aborted")
        self.assertEqual(await far_receiver.until_closed(), "connection reset")
        self.assertNotIn("eof", far_receiver.events)

    async def test_abort_after_close(self) -> None:
        """A close that does not get on can be cut short."""
        near, near_receiver, far, _ = await self.started()
        far.pauseProducing()
        near.write(b"x" * 20_000_000)
        near.close()
        await pause()
        self.assertFalse(near_receiver.is_closed)
        near.abort()
        self.assertEqual(await near_receiver.until_closed(), "aborted")
        self.assertEqual(near_receiver.events, ["closed"])

    async def test_a_slow_peer_pauses_the_producer(self) -> None:
        """The producer is paused while the buffer is full, and resumed after."""
        near, _, far, far_receiver = await self.started()
        far.pauseProducing()
        producer = RecordingProducer()
        near.registerProducer(producer, True)
        written = 0
        while not (producer.paused and written > 10_000_000):
            producer.paused = False
            near.write(bytes(1_000_000))
            written += 1_000_000
            await pause(0.001)
        far.resumeProducing()
        await far_receiver.until(lambda: len(far_receiver.data) == written)
        await pause(0.01)
        self.assertFalse(producer.paused)

    async def test_the_kernel_takes_little_of_what_nobody_reads(self) -> None:
        """The rest waits with whoever writes, who is told."""
        near, _, far, _ = await self.started()
        far.pauseProducing()
        near.write(bytes(20_000_000))
        await pause()
        assert near._direct is not None
        taken = 20_000_000 - near._direct.queued
        self.assertLess(taken, UNSENT + 2 * FIRST + 2 * 65536)

    async def test_the_kernel_takes_more_once_somebody_reads(self) -> None:
        """Its receive buffer is looked at again when that is proven."""
        near, _, far, receiver = await self.started()
        assert far._receive_buffer is not None
        self.assertEqual(far._receive_buffer.next_look, PROVEN)
        near.write(bytes(PROVEN))
        await receiver.until(lambda: len(receiver.data) == PROVEN)
        self.assertGreater(far._receive_buffer.next_look, PROVEN)

    async def test_a_paused_stream_delivers_nothing(self) -> None:
        """Pausing inside data_received stops delivery until resumed."""
        near, far = await self.pair()
        receiver = Collector(lambda data: far.pauseProducing())
        far.start(receiver)
        near.start(Collector())
        near.write(bytes(500_000))
        await receiver.until(lambda: bool(receiver.data))
        first = len(receiver.data)
        await pause()
        self.assertEqual(len(receiver.data), first)
        while len(receiver.data) < 500_000:
            far.resumeProducing()
            await pause(0.001)

    async def test_a_producer_of_an_ended_stream_is_stopped(self) -> None:
        """There is nothing left to produce for."""
        near, near_receiver, _, _ = await self.started()
        near.write_eof()
        producer = RecordingProducer()
        near.registerProducer(producer, True)
        self.assertTrue(producer.stopped)
        near.abort()
        await near_receiver.until_closed()
        again = RecordingProducer()
        near.registerProducer(again, True)
        self.assertTrue(again.stopped)
        near.unregisterProducer()
        near.pauseProducing()
        near.resumeProducing()
        near.write(b"x")
        near.write_eof()
        near.close()
        near.abort()
        self.assertEqual(near_receiver.events, ["closed"])

    async def test_a_raising_receiver_resets_its_connection(self) -> None:
        """An exception in data_received is logged once and ends the stream."""

        def fail(data: bytes) -> None:
            raise ValueError("a bug")

        near, far = await self.pair()
        receiver = Collector(fail)
        far.start(receiver)
        near.start(Collector())
        near.write(b"x")
        self.assertEqual(await receiver.until_closed(), "aborted")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    async def test_socket_options(self) -> None:
        """Small packets go at once, dead peers are noticed in minutes."""
        near, _ = await self.pair()
        handle = cast(Any, near.transport).getHandle()
        self.assertTrue(handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        self.assertTrue(handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        self.assertEqual(handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 60)
        self.assertEqual(
            handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), 0
        )

    async def test_user_timeout(self) -> None:
        """A stream may be told to give up on a peer that takes no data."""
        near, _ = await self.pair()
        stream = TcpStream(user_timeout=12.5)
        transport = near.transport
        transport.protocol = stream  # type: ignore[attr-defined]
        stream.makeConnection(transport)
        handle = cast(Any, transport).getHandle()
        self.assertEqual(
            handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), 12_500
        )

    async def test_spliced(self) -> None:
        """Half-close both ways through two TCP connections joined."""
        near, middle_in = await self.pair()
        middle_out, far = await self.pair()
        reports: Deferred[SpliceReport] = Deferred()
        splice(middle_in, middle_out, clock, reports.callback)
        near_receiver, far_receiver = Collector(), Collector()
        near.start(near_receiver)
        far.start(far_receiver)
        near.write(b"a" * 100_000)
        near.write_eof()
        await far_receiver.until(lambda: far_receiver.has_eof)
        far.write(b"b" * 200_011)
        far.close()
        await near_receiver.until(lambda: near_receiver.has_eof)
        near.close()
        report = await reports.addTimeout(TIMEOUT, clock)
        self.assertEqual(len(far_receiver.data), 100_000)
        self.assertEqual(len(near_receiver.data), 200_011)
        self.assertEqual((report.bytes_in, report.bytes_out), (100_000, 200_011))
        self.assertEqual(report.reason, "")

    async def test_a_reset_passes_through_a_splice(self) -> None:
        """A reset on one side resets the other."""
        near, middle_in = await self.pair()
        middle_out, far = await self.pair()
        reports: Deferred[SpliceReport] = Deferred()
        splice(middle_in, middle_out, clock, reports.callback)
        far_receiver = Collector()
        far.start(far_receiver)
        near.start(Collector())
        near.write(b"x")
        await far_receiver.until(lambda: bool(far_receiver.data))
        near.abort()
        self.assertEqual(await far_receiver.until_closed(), "connection reset")
        report = await reports.addTimeout(TIMEOUT, clock)
        self.assertEqual(report.reason, "connection reset")


class HeldDataTests(SynchronousTestCase):
    """Data that a transport delivers although it was told to pause."""

    def make(self) -> tuple[TcpStream, RecordingReceiver]:
        """A connected stream over a transport that takes orders late."""

        class Transport(StringTransport):
            def setTcpNoDelay(self, enabled: bool) -> None:
                """There is no TCP."""

            def setTcpKeepAlive(self, enabled: bool) -> None:
                """There is no TCP."""

        stream = TcpStream()
        stream.makeConnection(Transport())
        return stream, RecordingReceiver()

    def test_before_start(self) -> None:
        """It is delivered by start, with the end of data after it."""
        stream, receiver = self.make()
        stream.dataReceived(b"early ")
        stream.dataReceived(b"bytes")
        stream.readConnectionLost()
        stream.start(receiver)
        self.assertEqual(bytes(receiver.data), b"early bytes")
        self.assertEqual(receiver.events, ["data", "eof"])

    def test_while_paused(self) -> None:
        """It is delivered by resumeProducing, before anything newer."""
        stream, receiver = self.make()
        stream.start(receiver)
        stream.pauseProducing()
        stream.dataReceived(b"1")
        self.assertEqual(receiver.events, [])
        stream.resumeProducing()
        stream.dataReceived(b"2")
        self.assertEqual(bytes(receiver.data), b"12")

    def test_before_an_orderly_end(self) -> None:
        """Held data is delivered before ``closed`` when the end was in order."""
        stream, receiver = self.make()
        stream.start(receiver)
        stream.pauseProducing()
        stream.dataReceived(b"last")
        stream.connectionLost(Failure(error.ConnectionDone()))
        self.assertEqual(receiver.events, [])
        stream.resumeProducing()
        self.assertEqual(receiver.events, ["data", "closed"])
        self.assertEqual(receiver.reasons, [None])

    def test_before_a_reset(self) -> None:
        """Held data goes with a connection that was reset."""
        stream, receiver = self.make()
        stream.start(receiver)
        stream.pauseProducing()
        stream.dataReceived(b"last")
        stream.connectionLost(Failure(error.ConnectionLost()))
        self.assertEqual(receiver.events, ["closed"])
        self.assertEqual(receiver.reasons, ["connection reset"])

    def test_start_is_called_once(self) -> None:
        """A second receiver is a mistake of the owner's."""
        stream, receiver = self.make()
        stream.start(receiver)
        with self.assertRaises(RuntimeError):
            stream.start(receiver)

    def test_push_producers_only(self) -> None:
        """A pull producer is a mistake of the owner's."""
        stream, _ = self.make()
        with self.assertRaises(RuntimeError):
            stream.registerProducer(RecordingProducer(), False)
