"""A Twisted TCP connection read into buffers of ours, and written without a queue.

Twisted reads every time into new ``bytes``, and sends only when the reactor comes round
again. For bulk data both are dear: most of the time goes into memory that is allocated,
copied and thrown away. So this puts itself beside an ordinary TCP transport, which goes
on to own the connection: its queue, its producer, half-close and end are Twisted's.

All that is not Twisted's public API is here, and ``tests/test_direct_socket.py`` fails
should it change: ``doRead`` and ``doWrite`` of ``IReadWriteDescriptor`` are replaced on
one transport, their results being what the reactor takes from the originals;
``dataBuffer`` and ``_tempDataBuffer`` are looked at to see that nothing waits in
Twisted's queue, ``producer``, ``streamingProducer``, ``producerPaused`` and
``bufferSize`` to pause whom Twisted would, ``_aborting`` and ``disconnected`` to see
that anything may be sent; ``_writeDisconnecting``, ``_writeDisconnected`` and
``_closeWriteConnection`` half-close at once.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from twisted.internet import main, tcp

from rtunnel.wire.packet_cipher import Buffer

#: How many times the memory is kept that is needed; of less than that, a copy.
_WORTH_KEEPING = 4

#: Pieces for one system call; Linux takes 1024.
_PIECES_AT_ONCE = 64

_GiveBack: TypeAlias = Callable[[memoryview], None]


class BufferedReceiver(Protocol):
    """Says where to read to; the names are those of asyncio's BufferedProtocol."""

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the peer go. Not empty."""

    def buffer_updated(self, nbytes: int) -> None:
        """So many have been put there."""


class DirectSocket:
    """The way round a transport's own reading and writing.

    Made by :func:`direct_socket`. What the kernel does not take waits here, in the
    memory that it came in, and not in Twisted's queue, which joins and cuts it. The
    producer is paused and resumed, and the connection ended, as Twisted does it: while
    something waits, ``doWrite`` is ours, and hands over when nothing does.
    """

    __slots__ = ("_queue", "_queued", "_socket", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._socket: socket.socket = transport.getHandle()
        # A list, as an empty deque has 760 bytes and most tunnels are idle.
        self._queue: list[_Piece] = []
        self._queued = 0

    @property
    def queued(self) -> int:
        """Bytes that wait for the kernel to take them."""
        return self._queued

    def read_into(self, receiver: BufferedReceiver) -> None:
        """Have the reactor read into what ``receiver`` gives.

        One read each time: how much a buffer holds is how long the others wait.
        """
        handle = self._socket

        def do_read() -> Exception | None:
            try:
                size = handle.recv_into(receiver.get_buffer())
            except BlockingIOError:
                return None
            except OSError:
                return main.CONNECTION_LOST
            if not size:
                return main.CONNECTION_DONE
            receiver.buffer_updated(size)
            return None

        self._transport.doRead = do_read

    def write(self, data: Buffer) -> None:
        """Send what the kernel takes now, and a copy of the rest later.

        The memory of ``data`` is the caller's again when this returns.
        """
        sent = self._send(data)
        if sent < len(data):
            self._keep_copy(memoryview(data)[sent:])

    def write_lent(
        self, data: memoryview, memory: memoryview, give_back: _GiveBack
    ) -> None:
        """Send what the kernel takes now, and the rest later.

        :param data: unchanged until its memory is given back.
        :param memory: what ``data`` is a part of.
        :param give_back: called with ``memory`` when all has been sent or never will.
        """
        sent = self._send(data)
        left = len(data) - sent
        if left * _WORTH_KEEPING > len(memory) and not self._twisted_has_some():
            self._keep(_Piece(data[sent:], memory, give_back))
            return
        if sent < len(data):
            self._keep_copy(data[sent:])
        give_back(memory)

    def write_eof(self) -> None:
        """Send FIN, once all that waits has been sent. No producer is registered."""
        transport = self._transport
        if self._queue or self._twisted_has_some():
            transport.loseWriteConnection()
        else:
            # Twisted would wait until the socket can be written to.
            transport._writeDisconnecting = transport._writeDisconnected = True
            transport._closeWriteConnection()

    def _send(self, data: Buffer) -> int:
        """Send what can be sent at once; how many bytes need no more care."""
        transport = self._transport
        if transport._aborting or transport.disconnected:
            return len(data)
        if self._queue or transport.dataBuffer or transport._tempDataBuffer:
            return 0
        try:
            return self._socket.send(data)
        except OSError:
            # Full, or broken: doWrite will meet it again.
            return 0

    def _twisted_has_some(self) -> bool:
        """Whether something that was written past us waits in Twisted's queue."""
        transport = self._transport
        return bool(transport.dataBuffer or transport._tempDataBuffer)

    def _keep_copy(self, data: memoryview) -> None:
        if self._twisted_has_some():
            self._transport.write(bytes(data))
        else:
            self._keep(_Piece(bytes(data)))

    def _keep(self, piece: _Piece) -> None:
        transport = self._transport
        self._queue.append(piece)
        self._queued += len(piece.data)
        transport.doWrite = self._do_write
        transport.startWriting()
        producer = transport.producer
        if (
            producer is not None
            and transport.streamingProducer
            and self._queued > transport.bufferSize
        ):
            transport.producerPaused = True
            producer.pauseProducing()

    def _do_write(self) -> Exception | int | None:
        queue = self._queue
        while queue:
            try:
                sent = self._socket.sendmsg(
                    [piece.data for piece in queue[:_PIECES_AT_ONCE]]
                )
            except BlockingIOError:
                return None
            except OSError:
                return main.CONNECTION_LOST
            self._queued -= sent
            while queue and sent >= len(queue[0].data):
                sent -= len(queue[0].data)
                queue.pop(0).release()
            if sent:
                queue[0].data = queue[0].data[sent:]
                return None
        # Nothing is left: what Twisted does then, resuming and closing, it does.
        transport = self._transport
        del transport.doWrite
        result: Exception | int | None = transport.doWrite()
        return result

    def release(self) -> None:
        """The connection is gone: let go of the transport, and of all that waits."""
        self._transport.__dict__.pop("doRead", None)
        self._transport.__dict__.pop("doWrite", None)
        while self._queue:
            self._queue.pop(0).release()
        self._queued = 0


class _Piece:
    """Bytes that wait, and whose memory they are in.

    :param memory: None when it is a copy of our own.
    """

    __slots__ = ("_give_back", "_memory", "data")

    def __init__(
        self,
        data: bytes | memoryview,
        memory: memoryview | None = None,
        give_back: _GiveBack | None = None,
    ) -> None:
        self.data = memoryview(data)
        self._memory = memory
        self._give_back = give_back

    def release(self) -> None:
        """All of it has been sent, or never will be."""
        if self._memory is not None and self._give_back is not None:
            self._give_back(self._memory)


def direct_socket(transport: object) -> DirectSocket | None:
    """The direct way to a transport's socket.

    :return: None when the transport is anything but plain TCP: wrapped, TLS, a fake.
    """
    if not isinstance(transport, tcp.Connection) or transport.TLS:
        return None
    if transport.getHandle().family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return DirectSocket(transport)
