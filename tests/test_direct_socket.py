"""Tests for :mod:`rtunnel.direct_socket`: that Twisted is what it relies on."""

from __future__ import annotations

import socket
from typing import Any, cast

from twisted.internet import error, reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IReactorTCP
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from rtunnel.direct_socket import DirectSocket, direct_socket
from rtunnel.testing import RecordingProducer

tcp = cast(IReactorTCP, reactor)


@implementer(IHalfCloseableProtocol)
class Reader(Protocol):
    """Reads into a buffer of its own, and notes everything."""

    direct: DirectSocket

    def __init__(self) -> None:
        self.made: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self.reason = Failure(connectionDone.value)
        self.room = bytearray(1000)
        self.data = bytearray()
        self.has_eof = False

    def connectionMade(self) -> None:
        direct = direct_socket(self.transport)
        assert direct is not None
        self.direct = direct
        direct.read_into(self)
        self.made.callback(None)

    def get_buffer(self) -> memoryview:
        return memoryview(self.room)

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.room[:nbytes]

    def dataReceived(self, data: bytes) -> None:
        raise AssertionError("Twisted has read by itself")

    def readConnectionLost(self) -> None:
        self.has_eof = True

    def writeConnectionLost(self) -> None:
        """Nothing to note."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.direct.release()
        self.reason = reason
        self.lost.callback(None)


class DirectSocketTests(TestCase):
    """:class:`DirectSocket` on real connections."""

    timeout = 30

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        """See :meth:`connect`."""
        return Deferred.fromCoroutine(self.connect())

    async def connect(self) -> None:
        """A connection: our protocol at one end, a plain socket at the other."""
        self.reader = Reader()
        factory = ServerFactory()
        factory.protocol = lambda: self.reader
        factory.noisy = False
        port: Any = tcp.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.peer = socket.create_connection(("127.0.0.1", port.getHost().port))
        self.addCleanup(self.peer.close)
        self.peer.setblocking(False)
        await self.reader.made
        self.transport: Any = self.reader.transport
        self.addCleanup(self.let_go)

    async def let_go(self) -> None:
        """Close what the test left open."""
        if not self.reader.lost.called:
            self.transport.abortConnection()
            await self.reader.lost

    async def pause(self) -> None:
        """Let the reactor run."""
        await deferLater(reactor, 0.02, lambda: None)

    async def receive(self, count: int) -> bytes:
        """So many bytes at the peer."""
        data = b""
        while len(data) < count:
            try:
                data += self.peer.recv(count - len(data))
            except BlockingIOError:
                await self.pause()
        return data

    def fill(self) -> int:
        """Write until the kernel takes no more; how many bytes."""
        count = 0
        while not self.reader.direct.queued:
            self.reader.direct.write(bytes(100_000))
            count += 100_000
        return count

    async def test_reads_into_the_buffer_that_is_given(self) -> None:
        """In order, however small it is."""
        data = bytes(range(256)) * 20
        self.peer.sendall(data)
        while len(self.reader.data) < len(data):
            await self.pause()
        self.assertEqual(self.reader.data, data)

    async def test_end_of_data_is_twisteds(self) -> None:
        """A FIN is half a close, and what is written after it still goes out."""
        self.peer.shutdown(socket.SHUT_WR)
        while not self.reader.has_eof:
            await self.pause()
        self.reader.direct.write(b"still here")
        self.assertEqual(await self.receive(10), b"still here")

    async def test_a_reset_is_twisteds(self) -> None:
        """The protocol hears of it from the reactor."""
        linger = b"\1\0\0\0\0\0\0\0"
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.peer.close()
        await self.reader.lost
        self.assertIsNotNone(self.reader.reason.check(error.ConnectionLost))

    async def test_writes_leave_at_once(self) -> None:
        """Before the reactor comes round again."""
        self.reader.direct.write(memoryview(b"now"))
        self.assertEqual(self.peer.recv(100), b"now")
        self.assertEqual(self.transport.dataBuffer, b"")

    async def test_half_a_close_happens_at_once_when_nothing_waits(self) -> None:
        """FIN is there before the reactor comes round; the other way goes on."""
        self.reader.direct.write_eof()
        self.assertEqual(self.peer.recv(1), b"")
        self.peer.sendall(b"still here")
        while self.reader.data != b"still here":
            await self.pause()
        self.transport.loseConnection()
        await self.reader.lost

    async def test_what_twisted_queued_goes_first(self) -> None:
        """Twisted's queue is seen; should it be called otherwise, this fails."""
        self.transport.write(b"first ")
        self.assertEqual(self.transport._tempDataBuffer, [b"first "])
        self.reader.direct.write(b"second")
        self.assertEqual(await self.receive(12), b"first second")

    async def test_what_the_kernel_refuses_is_copied(self) -> None:
        """The caller's memory is its own again, and the order stays."""
        count = self.fill()
        data = bytearray(b"abc")
        self.reader.direct.write(data)
        data[:] = b"xyz"
        received = await self.receive(count + 3)
        self.assertEqual(received[-3:], b"abc")
        self.assertEqual(received[:count], bytes(count))
        self.reader.direct.write(b"direct again")
        self.assertEqual(self.peer.recv(100), b"direct again")

    async def test_the_producer_is_paused_and_resumed(self) -> None:
        """When the kernel and then the queue are full, and when they are not."""
        producer = RecordingProducer()
        self.transport.registerProducer(producer, True)
        count = self.fill()
        while not producer.paused:
            self.reader.direct.write(bytes(10_000))
            count += 10_000
        await self.receive(count)
        await self.pause()
        self.assertFalse(producer.paused)

    async def test_lent_memory_comes_back_when_it_was_sent(self) -> None:
        """At once, or when the peer has read enough; the order stays."""
        returned: list[memoryview] = []
        memory = memoryview(bytearray(b"a" * 200_000))
        self.reader.direct.write_lent(memory[:3], memory, returned.append)
        self.assertEqual(returned, [memory])
        self.assertEqual(await self.receive(3), b"aaa")
        count = self.fill()
        self.reader.direct.write_lent(memory, memory, returned.append)
        self.reader.direct.write(b"end")
        self.assertEqual(len(returned), 1)
        received = await self.receive(count + 200_003)
        self.assertEqual(received[count:], b"a" * 200_000 + b"end")
        while len(returned) < 2:
            await self.pause()
        self.assertEqual(self.reader.direct.queued, 0)

    async def test_lent_memory_comes_back_when_the_connection_is_gone(self) -> None:
        """It will never be sent."""
        returned: list[memoryview] = []
        self.fill()
        memory = memoryview(bytearray(200_000))
        self.reader.direct.write_lent(memory, memory, returned.append)
        self.transport.abortConnection()
        await self.reader.lost
        self.assertEqual(returned, [memory])
        self.assertNotIn("doWrite", vars(self.transport))

    async def test_closing_sends_what_waits(self) -> None:
        """All of it, and then FIN."""
        count = self.fill()
        self.transport.loseConnection()
        self.assertEqual(await self.receive(count), bytes(count))
        await self.reader.lost
        self.assertEqual(self.peer.recv(1), b"")

    async def test_half_a_close_comes_after_what_waits(self) -> None:
        """And the other way goes on."""
        count = self.fill()
        self.reader.direct.write_eof()
        self.assertEqual(await self.receive(count), bytes(count))
        while True:
            try:
                self.assertEqual(self.peer.recv(1), b"")
                break
            except BlockingIOError:
                await self.pause()
        self.peer.sendall(b"still here")
        while self.reader.data != b"still here":
            await self.pause()

    async def test_a_reset_while_data_waits_is_twisteds(self) -> None:
        """The protocol hears of it from the reactor, and nothing is kept."""
        self.fill()
        linger = b"\1\0\0\0\0\0\0\0"
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.peer.close()
        await self.reader.lost
        self.assertIsNotNone(self.reader.reason.check(error.ConnectionLost))
        self.assertEqual(self.reader.direct.queued, 0)

    async def test_writing_after_the_end_is_ignored(self) -> None:
        """As Twisted ignores it."""
        self.transport.abortConnection()
        await self.reader.lost
        self.reader.direct.write(b"too late")

    async def test_nothing_is_sent_after_an_abort(self) -> None:
        """Though the socket is still there until the reactor comes round."""
        self.transport.abortConnection()
        self.reader.direct.write(b"too late")
        await self.reader.lost
        self.assertRaises(ConnectionResetError, self.peer.recv, 100)

    async def test_release_gives_reading_back(self) -> None:
        """Nothing of ours stays on the transport."""
        self.reader.direct.release()
        self.assertNotIn("doRead", vars(self.transport))
        self.reader.direct.release()


class DirectSocketOfOthersTests(SynchronousTestCase):
    """:func:`direct_socket` for what it is not made for."""

    def test_only_plain_tcp_has_one(self) -> None:
        """Not fakes, and not what wraps TCP."""
        self.assertIsNone(direct_socket(StringTransport()))
        self.assertIsNone(direct_socket(None))
