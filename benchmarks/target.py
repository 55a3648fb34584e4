"""The far end of every measured connection: sink, source and echo on one port.

The first nine bytes of a connection say what it does: ``U`` and a count, take that many
bytes and answer one; ``D`` and a count, send that many; ``E``, send everything back.
What arrives at the sink is dropped in the kernel (MSG_TRUNC), so that the target costs
as little as can be.

    python -m benchmarks.target PORT
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import threading

REQUEST = struct.Struct(">cQ")
UPLOAD, DOWNLOAD, ECHO = b"U", b"D", b"E"

_BLOCK = 1024 * 1024


def _sink(connection: socket.socket, count: int) -> None:
    room = bytearray(_BLOCK)
    with connection:
        while count > 0:
            dropped = connection.recv_into(room, _BLOCK, socket.MSG_TRUNC)
            if not dropped:
                return
            count -= dropped
        connection.sendall(b"!")
        connection.recv(1)


def _source(connection: socket.socket, count: int) -> None:
    block = memoryview(bytes(_BLOCK))
    with connection:
        while count > 0:
            count -= connection.send(block[: min(count, _BLOCK)])
        connection.recv(1)


def _bulk(work: object, connection: socket.socket, count: int) -> None:
    try:
        work(connection, count)  # type: ignore[operator]
    except OSError:
        connection.close()


class _Target:
    """One thread for all echoes, one for each bulk stream."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._listener, selectors.EVENT_READ, self._accept)

    def run(self) -> None:
        """Serve for ever."""
        while True:
            for key, _ in self._ready.select():
                key.data(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ready.register(connection, selectors.EVENT_READ, self._first)

    def _first(self, connection: socket.socket) -> None:
        try:
            request = connection.recv(REQUEST.size, socket.MSG_WAITALL)
        except OSError:
            request = b""
        if len(request) < REQUEST.size:
            self._close(connection)
            return
        kind, count = REQUEST.unpack(request)
        if kind == ECHO:
            connection.setblocking(False)
            self._ready.modify(connection, selectors.EVENT_READ, self._echo)
            return
        self._ready.unregister(connection)
        work = _sink if kind == UPLOAD else _source
        threading.Thread(
            target=_bulk, args=(work, connection, count), daemon=True
        ).start()

    def _echo(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
            if data:
                connection.send(data)
                return
        except OSError:
            pass
        self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self._ready.unregister(connection)
        connection.close()


if __name__ == "__main__":
    _Target(int(sys.argv[1])).run()
