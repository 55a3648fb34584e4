"""A TCP connection as a :class:`~rtunnel.splice.Stream`, and dialling one.

Nothing is read before :meth:`TcpStream.start`, so that what a target says first waits
in the kernel until somebody can take it.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import cast

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IConnector,
    IConsumer,
    IHalfCloseableProtocol,
    IProducer,
    IPushProducer,
    IReactorTCP,
    ISystemHandle,
    ITCPTransport,
)
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.direct_socket import DirectSocket, direct_socket
from rtunnel.errors import (
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
    OpenRefused,
)
from rtunnel.socket_buffers import ReceiveBuffer, limit_unsent
from rtunnel.splice import StreamReceiver, deliver
from rtunnel.wire.byte_queue import ByteQueue
from rtunnel.wire.packet_cipher import Buffer
from rtunnel.wire.packet_run import OVERHEAD
from rtunnel.wire.passing_memory import PassingMemory

#: Seconds of silence before the first keepalive probe, and between the others.
KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 15

#: Probes without an answer before a silent connection is given up.
KEEPALIVE_PROBES = 4

#: Bytes delivered at a time of what came before anybody took it.
_PIECE = 65536

#: Bytes read at a time, where Twisted can be passed by: one packet's.
READ_SIZE = 256 * 1024

#: Where they are read to, with room around for what makes a packet of them. One for
#: all streams: what came is delivered, or copied, before the next read.
_received = memoryview(PassingMemory(READ_SIZE + 2 * OVERHEAD))[OVERHEAD:-OVERHEAD]


@implementer(IHalfCloseableProtocol, IConsumer, IPushProducer)
class TcpStream(Protocol):
    """One TCP connection. See :class:`~rtunnel.splice.Stream` for the methods.

    TCP_NODELAY and keepalive are on, and the kernel keeps little of what waits, see
    :mod:`rtunnel.socket_buffers`. ``closed`` is told "connection reset" when the
    peer reset the connection or stopped answering.

    :param user_timeout: seconds that data may stay unacknowledged, or unsent because
        the peer takes none, before the connection is given up (TCP_USER_TIMEOUT, where
        there is one); 0 for the system's default. Linux counts a peer that is alive
        but does not read, so it does not suit connections that people may pause.
    """

    _log = Logger()
    transport: ITCPTransport

    def __init__(self, user_timeout: float = 0) -> None:
        self._user_timeout = user_timeout
        self._receiver: StreamReceiver | None = None
        self._direct: DirectSocket | None = None
        self._receive_buffer: ReceiveBuffer | None = None
        # Bytes that have been read.
        self._count = 0
        self._held = ByteQueue()
        self._paused = False
        self._delivering = False
        self._deaf = False
        self._eof_received = False
        self._eof_delivered = False
        self._eof_sent = False
        self._closing = False
        self._lost = False
        self._finished = False
        self._reason: str | None = None

    @property
    def peer_address(self) -> str:
        """The IP address that it is connected to."""
        host: str = self.transport.getPeer().host
        return host

    # What Twisted calls.

    def connectionMade(self) -> None:
        """Set the socket's options, and stop reading."""
        self._prepare()
        self._producing_transport.pauseProducing()

    def _prepare(self) -> None:
        self._direct = direct_socket(self.transport)
        if self._direct is not None:
            self._direct.read_into(self)
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        if ISystemHandle.providedBy(self.transport):
            handle = cast(ISystemHandle, self.transport).getHandle()
            if isinstance(handle, socket.socket):
                set_timeouts(handle, self._user_timeout)
                limit_unsent(handle)
                if self._direct is not None:
                    self._receive_buffer = ReceiveBuffer(handle)

    def dataReceived(self, data: bytes) -> None:
        """Data from the peer."""
        self._take(data)

    def get_buffer(self) -> memoryview:
        """Where the next data from the peer goes."""
        return _received

    def buffer_updated(self, nbytes: int) -> None:
        """Data from the peer, where :meth:`get_buffer` said."""
        self._count += nbytes
        buffer = self._receive_buffer
        if buffer is not None and self._count >= buffer.next_look:
            buffer.look(self._count)
        self._take(_received[:nbytes])

    def _take(self, data: Buffer) -> None:
        if self._deaf:
            return
        receiver = self._receiver
        if receiver is None or self._paused or self._held or self._delivering:
            self._held.append(data)
        else:
            self._deliver(receiver, data)

    def readConnectionLost(self) -> None:
        """The peer's FIN: end of its data."""
        self._eof_received = True
        self._deliver_held()

    def writeConnectionLost(self) -> None:
        """Our FIN has been sent."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._lost = True
        if self._direct is not None:
            self._direct.release()
            self._direct = None
        if self._closing or reason.check(error.ConnectionDone):
            self._deliver_held()
        elif reason.check(error.ConnectionAborted):
            self._finish("aborted")
        elif reason.check(error.ConnectionLost):
            self._finish("connection reset")
        else:
            self._finish(reason.getErrorMessage())

    # Stream.

    def start(self, receiver: StreamReceiver) -> None:
        """Read from now on, and deliver to ``receiver``. Once only."""
        if self._receiver is not None:
            raise RuntimeError("this stream has a receiver already")
        self._receiver = receiver
        if self._finished:
            self._tell_closed()
            return
        self._deliver_held()
        self._read()

    def write(self, data: bytes) -> None:
        """Send ``data``. Ignored after :meth:`write_eof` or the end."""
        self.write_buffer(data)

    def write_buffer(self, data: Buffer) -> None:
        """The same; the memory is the caller's again when this returns."""
        if self._eof_sent or self._lost:
            return
        if self._direct is not None:
            self._direct.write(data)
        else:
            self.transport.write(bytes(data))

    def write_eof(self) -> None:
        """Send FIN once everything written has been sent."""
        if self._eof_sent or self._lost:
            return
        self._eof_sent = True
        # Twisted sends no FIN while a producer is paused.
        self.unregisterProducer()
        if self._direct is not None:
            self._direct.write_eof()
        else:
            self.transport.loseWriteConnection()

    def close(self) -> None:
        """Send what was written, then close. Nothing more is delivered."""
        if self._closing or self._lost:
            return
        self._closing = self._eof_sent = True
        self._stop_delivering()
        self.unregisterProducer()
        self.transport.loseConnection()

    def abort(self) -> None:
        """Reset the connection; ``closed`` follows when the reactor gets to it."""
        if not self._lost:
            self._closing = False
            self._eof_sent = True
            self._stop_delivering()
            self.unregisterProducer()
            self.transport.abortConnection()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Pause ``producer`` while the transport's buffer is full.

        :param streaming: has to be true: push producers only.
        """
        if not streaming:
            raise RuntimeError("a stream takes push producers only")
        if self._eof_sent or self._lost:
            producer.stopProducing()
        else:
            cast(IConsumer, self.transport).registerProducer(producer, True)

    def unregisterProducer(self) -> None:
        """The producer writes no more."""
        if not self._lost:
            cast(IConsumer, self.transport).unregisterProducer()

    def pauseProducing(self) -> None:
        """Stop reading."""
        self._paused = True
        if not self._lost:
            self._producing_transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            self._deliver_held()
            self._read()

    def stopProducing(self) -> None:
        """Nothing more is wanted: the same as :meth:`close`."""
        self.close()

    # Delivering.

    @property
    def _producing_transport(self) -> IPushProducer:
        return cast(IPushProducer, self.transport)

    def _read(self) -> None:
        # After the peer's FIN Twisted would report the end over and over.
        if (
            self._receiver is not None
            and not self._paused
            and not self._eof_received
            and not self._deaf
            and not self._lost
        ):
            self._producing_transport.resumeProducing()

    def _deliver(self, receiver: StreamReceiver, data: Buffer) -> None:
        self._delivering = True
        try:
            deliver(receiver, data)
        except Exception:
            self._receiver_raised()
        finally:
            self._delivering = False

    def _deliver_held(self) -> None:
        if self._delivering or self._finished:
            return
        if self._receiver is not None:
            while self._held and not self._paused and not self._deaf:
                self._deliver(self._receiver, self._held.take(_PIECE))
            if self._eof_received and not self._eof_delivered and not self._held:
                self._eof_delivered = True
                self._deliver_eof()
        if self._lost and not self._held:
            self._finish(None)

    def _deliver_eof(self) -> None:
        if self._deaf or self._receiver is None:
            return
        self._delivering = True
        try:
            self._receiver.eof_received()
        except Exception:
            self._receiver_raised()
        finally:
            self._delivering = False

    def _stop_delivering(self) -> None:
        self._deaf = True
        self._held.clear()

    def _receiver_raised(self) -> None:
        self._log.failure("The receiver of a TCP stream failed.")
        self.abort()

    def _finish(self, reason: str | None) -> None:
        if self._finished:
            return
        self._finished = True
        self._reason = reason
        self._stop_delivering()
        if self._receiver is not None:
            self._tell_closed()

    def _tell_closed(self) -> None:
        assert self._receiver is not None
        try:
            self._receiver.closed(self._reason)
        except Exception:
            self._log.failure("The receiver of a TCP stream failed.")


def set_timeouts(handle: socket.socket, user_timeout: float = 0) -> None:
    """Notice a dead TCP peer in minutes rather than hours.

    :param user_timeout: seconds, see :class:`TcpStream`.
    """
    options = {
        "TCP_KEEPIDLE": KEEPALIVE_IDLE,
        "TCP_KEEPINTVL": KEEPALIVE_INTERVAL,
        "TCP_KEEPCNT": KEEPALIVE_PROBES,
    }
    if user_timeout:
        options["TCP_USER_TIMEOUT"] = int(user_timeout * 1000)
    for name, value in options.items():
        option = getattr(socket, name, None)
        if option is not None:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)


class _DialledStream(TcpStream):
    """A stream that tells its dial of itself."""

    def __init__(self, dial: _Dial) -> None:
        super().__init__()
        self._dial = dial

    def connectionMade(self) -> None:
        self._prepare()
        self._dial.connected(self)
        # It may have been started, which reads on, or ended.
        if self._receiver is None and not (self._deaf or self._lost):
            self._producing_transport.pauseProducing()


class _Dial(ClientFactory):
    """One attempt to connect.

    ``done`` fires with the stream, or fails with OpenRefused. Cancelling it gives up.

    :param target: for people.
    :param timeout: seconds, likewise.
    """

    # Two lines for each connection, which say nothing, are two too many.
    noisy = False

    def __init__(self, target: str, timeout: float) -> None:
        self.done: Deferred[TcpStream] = Deferred(self._cancelled)
        self._target = target
        self._timeout = timeout
        self._connector: IConnector | None = None

    def startedConnecting(self, connector: IConnector) -> None:
        self._connector = connector

    def buildProtocol(self, addr: object) -> TcpStream:
        return _DialledStream(self)

    def connected(self, stream: TcpStream) -> None:
        """It has worked."""
        self._connector = None
        self.done.callback(stream)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        # It is also said of an attempt that was given up.
        if self._connector is not None:
            self._connector = None
            if isinstance(reason.value, error.ConnectError):
                reason = Failure(_refused(self._target, reason.value, self._timeout))
            self.done.errback(reason)

    def _cancelled(self, done: Deferred[TcpStream]) -> None:
        connector, self._connector = self._connector, None
        if connector is not None:
            connector.stopConnecting()


def connect_tcp(
    reactor: IReactorTCP,
    address: str,
    port: int,
    timeout: float,
    *,
    name: str = "",
) -> Deferred[TcpStream]:
    """Connect to ``address``; cancelling gives up the attempt.

    :param reactor: also an IReactorTime.
    :param address: IPv4 or IPv6 address.
    :param timeout: seconds.
    :param name: what to call the host in errors; the address if empty.
    :return: fails with OpenRefused when it does not come up; a sentence that says why.
    """
    host = name or address
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    dial = _Dial(target, timeout)
    reactor.connectTCP(address, port, dial, timeout)
    return dial.done


def _refused(target: str, failed: error.ConnectError, timeout: float) -> OpenRefused:
    number = failed.osError
    if isinstance(failed, error.ConnectionRefusedError):
        text = f"connection to {target} refused"
    elif isinstance(failed, error.TimeoutError | error.TCPTimedOutError):
        text = f"connection to {target} timed out after {timeout:g} s"
    elif isinstance(failed, error.NoRouteError) or number == errno.EHOSTUNREACH:
        text = f"no route to {target}"
    elif number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS):
        return OpenRefused(
            OPEN_RESOURCE_SHORTAGE, f"no file descriptor left to connect to {target}"
        )
    elif isinstance(number, int):
        text = f"connection to {target} failed: {os.strerror(number)}"
    else:
        text = f"connection to {target} failed"
    return OpenRefused(OPEN_CONNECT_FAILED, text)
