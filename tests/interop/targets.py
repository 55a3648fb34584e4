"""TCP targets that do one thing, as a program: ``targets.py BEHAVIOUR PORT``.

``half-close``  reads to the end of input, then answers and closes
``silent``      accepts and never reads
``echo``        sends back what comes
``zeros``       sends without end
``reset``       reads a little and resets the connection, what it sent on its way
``refuse``      resets the connection before anything is read
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

#: What ``half-close`` answers: no multiple of any buffer, packet or window size.
REPLY_BYTES = 200_011


def reply_after(received: int) -> bytes:
    """Return what ``half-close`` sends after it has read `received` bytes."""
    head = f"{received} bytes\n".encode()
    return head + bytes(index % 251 for index in range(REPLY_BYTES - len(head)))


def half_close(connection: socket.socket) -> None:
    """Read to the end of input, then answer."""
    received = 0
    while data := connection.recv(65536):
        received += len(data)
    connection.sendall(reply_after(received))
    connection.close()


def silent(connection: socket.socket) -> None:
    """Hold the connection, and leave in the kernel what comes."""
    while True:
        time.sleep(3600)
        connection.fileno()


def echo(connection: socket.socket) -> None:
    """Send everything back."""
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()


def zeros(connection: socket.socket) -> None:
    """Send as much as is taken."""
    data = bytes(65536)
    while True:
        connection.sendall(data)


def reset(connection: socket.socket) -> None:
    """Send, read, and reset."""
    connection.sendall(bytes(65536))
    connection.recv(65536)
    refuse(connection)


def refuse(connection: socket.socket) -> None:
    """Reset."""
    linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


BEHAVIOURS: dict[str, Callable[[socket.socket], None]] = {
    "half-close": half_close,
    "silent": silent,
    "echo": echo,
    "zeros": zeros,
    "reset": reset,
    "refuse": refuse,
}


def main() -> None:
    """Serve one behaviour on a port of 127.0.0.1, a thread for each connection."""
    behaviour, port = BEHAVIOURS[sys.argv[1]], int(sys.argv[2])
    with socket.create_server(("127.0.0.1", port), backlog=128) as server:
        if behaviour is silent:
            # What is not read is to wait with the sender, not in the kernel.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=behaviour, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
