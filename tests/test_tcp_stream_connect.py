"""Tests for :mod:`rtunnel.tcp_stream`: connecting, and what is said when that fails."""

from __future__ import annotations

import errno
import socket
import struct

from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import OpenRefused
from rtunnel.tcp_stream import TcpStream, connect_tcp
from tests.tcp_streams import TIMEOUT, Collector, TcpStreamTestCase, tcp


class ConnectTests(TcpStreamTestCase):
    """Dialling a target."""

    async def test_refused(self) -> None:
        """A closed port says so, with code 2."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            with self.assertRaises(OpenRefused) as raised:
                await connect_tcp(tcp, "127.0.0.1", port, TIMEOUT)
        self.assertEqual(raised.exception.reason_code, 2)
        self.assertEqual(
            raised.exception.text, f"connection to 127.0.0.1:{port} refused"
        )

    async def test_what_is_started_as_soon_as_it_is_there_reads_on(self) -> None:
        """A stream that is started where the dial is awaited is not paused again."""
        port, accepting = await self.listen()
        stream = await connect_tcp(tcp, "127.0.0.1", port, TIMEOUT)
        receiver = Collector()
        stream.start(receiver)
        self.streams.append(stream)
        self.addCleanup(self.let_go)
        (await accepting).write(b"hello")
        await receiver.until(lambda: receiver.data == b"hello")

    async def test_a_connection_reset_at_once(self) -> None:
        """A target that resets what it accepted is found out by reading."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            port = listening.getsockname()[1]
            stream = await connect_tcp(tcp, "127.0.0.1", port, TIMEOUT)
            accepted, _ = listening.accept()
            accepted.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            accepted.close()
        receiver = Collector()
        stream.start(receiver)
        self.assertEqual(await receiver.until_closed(), "connection reset")


class ConnectErrorTests(SynchronousTestCase):
    """What can go wrong with a dial, as sentences."""

    def dial(
        self, address: str = "10.0.0.5", name: str = ""
    ) -> tuple[MemoryReactorClock, Deferred[TcpStream]]:
        """Begin to dial port 22."""
        memory = MemoryReactorClock()
        return memory, connect_tcp(memory, address, 22, 7.5, name=name)

    def refusal(self, failed: Exception, address: str = "10.0.0.5") -> tuple[int, str]:
        """Code and sentence when connecting fails with ``failed``."""
        memory, dialling = self.dial(address)
        connector = memory.connectors[0]
        factory = memory.tcpClients[0][2]
        factory.clientConnectionFailed(connector, Failure(failed))
        refused = self.failureResultOf(dialling, OpenRefused).value
        return refused.reason_code, refused.text

    def test_sentences(self) -> None:
        """Each kind of failure has its own."""
        for failed, expected in [
            (
                error.ConnectionRefusedError(errno.ECONNREFUSED),
                (2, "connection to 10.0.0.5:22 refused"),
            ),
            (
                error.TimeoutError(),
                (2, "connection to 10.0.0.5:22 timed out after 7.5 s"),
            ),
            (
                error.TCPTimedOutError(errno.ETIMEDOUT),
                (2, "connection to 10.0.0.5:22 timed out after 7.5 s"),
            ),
            (error.NoRouteError(errno.ENETUNREACH), (2, "no route to 10.0.0.5:22")),
            (error.ConnectError(errno.EHOSTUNREACH), (2, "no route to 10.0.0.5:22")),
            (
                error.ConnectError(errno.EACCES),
                (2, "connection to 10.0.0.5:22 failed: Permission denied"),
            ),
            (
                error.ConnectBindError(errno.EMFILE, "Too many open files"),
                (4, "no file descriptor left to connect to 10.0.0.5:22"),
            ),
            (error.ConnectError(), (2, "connection to 10.0.0.5:22 failed")),
        ]:
            self.assertEqual(self.refusal(failed), expected)

    def test_ipv6(self) -> None:
        """IPv6 addresses are dialled, and written in brackets."""
        self.assertEqual(
            self.refusal(error.ConnectionRefusedError(), "fd00::1"),
            (2, "connection to [fd00::1]:22 refused"),
        )

    def test_named(self) -> None:
        """The name that the client asked for appears instead of the address."""
        memory, dialling = self.dial(name="web1")
        memory.tcpClients[0][2].clientConnectionFailed(
            memory.connectors[0], Failure(error.ConnectionRefusedError())
        )
        refused = self.failureResultOf(dialling, OpenRefused).value
        self.assertEqual(refused.text, "connection to web1:22 refused")

    def test_timeout_is_passed_on(self) -> None:
        """The dial takes no longer than it was given."""
        memory, dialling = self.dial()
        self.assertEqual(memory.tcpClients[0][3], 7.5)
        dialling.cancel()
        self.failureResultOf(dialling)

    def test_cancelling_stops_the_dial(self) -> None:
        """A cancelled dial is a cancellation, not a refusal, and stops connecting."""
        memory, dialling = self.dial()
        dialling.cancel()
        self.failureResultOf(dialling, CancelledError)
        self.assertTrue(memory.connectors[0].stoppedConnecting)
