"""Tests for :mod:`rtunnel.socket_buffers`, over real sockets."""

from __future__ import annotations

import socket
import sys
import threading
import time
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.socket_buffers import (
    ENOUGH,
    FIRST,
    MIB,
    PROVEN,
    UNSENT,
    ReceiveBuffer,
    limit_unsent,
)

#: What Linux puts into one buffer of its own, of which one may be begun.
ONE_MORE = 64 * 1024


def connected(test: SynchronousTestCase) -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection; the second one's receive buffer is small."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    for each in (near, far):
        test.addCleanup(each.close)
    return near, far


def receive_buffer(handle: socket.socket) -> int:
    """Bytes, as Linux counts."""
    return handle.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@skipUnless(sys.platform.startswith("linux"), "it is about Linux's sockets")
class LimitUnsentTests(SynchronousTestCase):
    """What the kernel takes for a peer that does not read."""

    def taken(self, handle: socket.socket) -> int:
        """Bytes that it takes."""
        handle.setblocking(False)
        count = 0
        still_since = time.monotonic()
        while time.monotonic() < still_since + 0.3:
            try:
                count += handle.send(bytes(FIRST))
            except BlockingIOError:
                time.sleep(0.01)
            else:
                still_since = time.monotonic()
        return count

    def test_little_waits_for_a_peer_that_does_not_read(self) -> None:
        """What it takes without, it does not take with the limit."""
        without, _ = connected(self)
        near, _ = connected(self)
        limit_unsent(near)
        self.assertGreater(self.taken(without), 2 * UNSENT)
        self.assertLessEqual(self.taken(near), UNSENT + ONE_MORE)

    def test_a_socket_that_is_closed_is_left_alone(self) -> None:
        """Nothing is raised."""
        near, _ = connected(self)
        near.close()
        limit_unsent(near)
        ReceiveBuffer(near)


@skipUnless(sys.platform.startswith("linux"), "it is about Linux's sockets")
class ReceiveBufferTests(SynchronousTestCase):
    """What the kernel takes from a peer that sends without end."""

    def setUp(self) -> None:
        self.near, self.far = connected(self)
        self.buffer = ReceiveBuffer(self.near)
        self.room = bytearray(FIRST)

    def send_without_end(self) -> None:
        """Until the test ends."""

        def send() -> None:
            try:
                while True:
                    self.far.sendall(bytes(FIRST))
            except OSError:
                pass

        thread = threading.Thread(target=send)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.near.close)

    def read(self, total: int) -> None:
        """As much as that, as a stream does."""
        count = 0
        while count < total:
            count += self.near.recv_into(self.room)
            if count >= self.buffer.next_look:
                self.buffer.look(count)

    def test_first_it_is_small(self) -> None:
        """However fast it is, until it has moved what proves that somebody reads."""
        self.send_without_end()
        self.read(PROVEN - MIB)
        self.assertLessEqual(receive_buffer(self.near), 2 * FIRST)

    def test_then_it_grows_as_it_would(self) -> None:
        """Linux is told so, and not before: with no limit it may come to 6 MiB."""
        self.send_without_end()
        self.read(PROVEN)
        before = receive_buffer(self.near)
        # How fast it grows is a matter of how busy the machine is.
        deadline = time.monotonic() + 20
        while receive_buffer(self.near) == before and time.monotonic() < deadline:
            count = 0
            while count < 16 * MIB:
                count += self.near.recv_into(self.room)
        self.assertGreater(receive_buffer(self.near), before)

    def test_it_grows_no_more_when_it_is_large_enough(self) -> None:
        """From the first look on at which it is."""
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ENOUGH)
        if receive_buffer(self.near) < ENOUGH:
            self.skipTest("net.core.rmem_max is less")
        self.buffer.look(PROVEN)
        large = receive_buffer(self.near)
        self.send_without_end()
        self.read(256 * MIB)
        self.assertEqual(receive_buffer(self.near), large)
        self.assertGreater(self.buffer.next_look, 2**40)
