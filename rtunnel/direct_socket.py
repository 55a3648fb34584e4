"""A Twisted TCP connection read into buffers of ours, and written without a queue.

Twisted reads every time into new ``bytes``, and sends only when the reactor comes round
again. For bulk data both are dear: most of the time goes into memory that is allocated,
copied and thrown away. So this puts itself beside an ordinary TCP transport, which goes
on to own the connection: its queue, its producer, half-close and end are Twisted's.

All that is not Twisted's public API is here, and ``tests/test_direct_socket.py`` fails
should it change: ``IReadDescriptor.doRead`` is replaced on one transport, its result
being what the reactor takes from the original; ``dataBuffer`` and ``_tempDataBuffer``
are looked at to see that nothing waits to be sent, ``_aborting`` that anything may be.
"""

from __future__ import annotations

import socket
from typing import Any, Protocol

from twisted.internet import main, tcp

from rtunnel.wire.packet_cipher import Buffer


class BufferedReceiver(Protocol):
    """Says where to read to; the names are those of asyncio's BufferedProtocol."""

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the peer go. Not empty."""

    def buffer_updated(self, nbytes: int) -> None:
        """So many have been put there."""


class DirectSocket:
    """The way round a transport's own reading and writing.

    Made by :func:`direct_socket`.
    """

    __slots__ = ("_socket", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._socket: socket.socket = transport.getHandle()

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
        """Send what the kernel takes now; the transport gets a copy of the rest.

        The memory of ``data`` is the caller's again when this returns.
        """
        transport = self._transport
        if transport._aborting:
            return
        sent = 0
        if not transport.dataBuffer and not transport._tempDataBuffer:
            try:
                sent = self._socket.send(data)
            except OSError:
                # Full, or broken: the transport will meet it again, and knows what
                # to do.
                sent = 0
            if sent == len(data):
                return
        transport.write(bytes(memoryview(data)[sent:]))

    def release(self) -> None:
        """The connection is gone: let go of the transport."""
        self._transport.__dict__.pop("doRead", None)


def direct_socket(transport: object) -> DirectSocket | None:
    """The direct way to a transport's socket.

    :return: None when the transport is anything but plain TCP: wrapped, TLS, a fake.
    """
    if not isinstance(transport, tcp.Connection) or transport.TLS:
        return None
    if transport.getHandle().family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return DirectSocket(transport)
