"""What goes through a tunnel while it is measured: bulk, single bytes, new connections.

Everything here blocks, and speaks to :mod:`benchmarks.target` through a local port.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.target import DOWNLOAD, ECHO, REQUEST, UPLOAD

_BLOCK = 1024 * 1024

#: Seconds that nothing may take longer than.
PATIENCE = 120.0


def connect(port: int, kind: bytes, count: int = 0) -> socket.socket:
    """A connection that has said what it wants."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(REQUEST.pack(kind, count))
    return connection


def transfer(port: int, upload: bool, streams: int, size: int) -> float:
    """Move ``size`` bytes one way, in equal parts; seconds that it took.

    From the first byte until the far end, or ours, has the last one.
    """
    part = size // streams
    connections = [
        connect(port, UPLOAD if upload else DOWNLOAD, part) for _ in range(streams)
    ]
    move = _upload if upload else _download
    begun = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        for done in [pool.submit(move, each, part) for each in connections]:
            done.result()
    seconds = time.perf_counter() - begun
    for each in connections:
        each.close()
    return seconds


def _upload(connection: socket.socket, count: int) -> None:
    block = memoryview(bytes(_BLOCK))
    while count > 0:
        count -= connection.send(block[: min(count, _BLOCK)])
    if connection.recv(1) != b"!":
        raise RuntimeError("the far end did not get everything")


def _download(connection: socket.socket, count: int) -> None:
    room = bytearray(_BLOCK)
    while count > 0:
        dropped = connection.recv_into(room, min(count, _BLOCK), socket.MSG_TRUNC)
        if not dropped:
            raise RuntimeError("the far end did not send everything")
        count -= dropped


def round_trips(port: int, count: int, warm_up: int = 50) -> list[float]:
    """Seconds of ``count`` round trips of one byte, one after the other."""
    times = []
    with connect(port, ECHO) as connection:
        for _ in range(warm_up + count):
            begun = time.perf_counter()
            connection.send(b".")
            if not connection.recv(1):
                raise RuntimeError("the echo has ended")
            times.append(time.perf_counter() - begun)
    return times[warm_up:]


def open_one(port: int) -> None:
    """Connect, echo one byte, close."""
    with connect(port, ECHO) as connection:
        connection.send(b".")
        if not connection.recv(1):
            raise RuntimeError("a connection was not opened")


def opens_per_second(port: int, at_once: int, seconds: float) -> float:
    """How many connections are opened, used and closed in each second."""
    end = time.perf_counter() + seconds

    def open_until_end() -> int:
        count = 0
        while time.perf_counter() < end:
            open_one(port)
            count += 1
        return count

    begun = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        counts = [pool.submit(open_until_end) for _ in range(at_once)]
        total = sum(each.result() for each in counts)
    return total / (time.perf_counter() - begun)


@contextmanager
def endless_upload(port: int) -> Iterator[Callable[[], int]]:
    """A bulk stream for as long as the block lasts; gives what has gone in so far."""
    connection = connect(port, UPLOAD, 2**62)
    sent = 0
    ending = False

    def pump() -> None:
        nonlocal sent
        block = bytes(_BLOCK)
        try:
            while not ending:
                sent += connection.send(block)
        except OSError:
            if not ending:
                raise

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        time.sleep(0.3)
        yield lambda: sent
    finally:
        ending = True
        connection.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
        connection.close()


@contextmanager
def idle_connections(port: int, count: int) -> Iterator[None]:
    """Connections that are open and silent, each proven by one echo."""
    held: list[socket.socket] = []
    try:
        for _ in range(count):
            connection = connect(port, ECHO)
            held.append(connection)
            connection.send(b".")
            connection.recv(1)
        yield
    finally:
        for connection in held:
            connection.close()
