"""Tests for :mod:`rtunnel.wire.byte_queue`."""

from __future__ import annotations

import sys
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.wire.byte_queue import ByteQueue


class ByteQueueTests(SynchronousTestCase):
    """First in, first out, counted in bytes."""

    def test_empty(self) -> None:
        """A new queue is empty and gives nothing."""
        queue = ByteQueue()
        self.assertFalse(queue)
        self.assertEqual(queue.take(10), b"")

    def test_clear_says_how_much_it_dropped(self) -> None:
        """After clear there is nothing left, and new data is not mixed with old."""
        queue = ByteQueue()
        queue.append(b"x" * 5000)
        queue.take(10)
        self.assertEqual(queue.clear(), 4990)
        queue.append(b"new")
        self.assertEqual(queue.take(10), b"new")

    def test_whole_pieces_are_not_copied(self) -> None:
        """A large piece that is taken whole is the very object that was appended."""
        queue = ByteQueue()
        piece = bytes(5000)
        queue.append(piece)
        self.assertIs(queue.take(5000), piece)

    def test_small_pieces_cost_little_memory(self) -> None:
        """A hundred thousand pieces of 2 bytes take memory near 200,000 bytes."""
        queue = ByteQueue()
        for _ in range(100_000):
            queue.append(b"ab")
        memory = sys.getsizeof(queue._pieces) + sum(map(sys.getsizeof, queue._pieces))
        self.assertLess(memory, 300_000)

    def test_time_is_linear(self) -> None:
        """Taking 16 MiB out of one piece, 1 KiB at a time, copies each byte once."""
        queue = ByteQueue()
        queue.append(bytes(16 * 1024 * 1024))
        started = time.perf_counter()
        while queue:
            queue.take(1024)
        self.assertLess(time.perf_counter() - started, 2.0)

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("append"), st.integers(0, 10_000)),
                st.tuples(st.just("take"), st.integers(0, 40_000)),
            ),
            max_size=60,
        )
    )
    def test_nothing_is_lost_or_reordered(self, steps: list[tuple[str, int]]) -> None:
        """What comes out is what went in, whatever the sizes of the pieces."""
        queue = ByteQueue()
        expected = bytearray()
        counter = 0
        for action, size in steps:
            if action == "append":
                data = bytes((counter + i) % 251 for i in range(size))
                counter += size
                queue.append(data)
                expected += data
            else:
                taken = queue.take(size)
                self.assertLessEqual(len(taken), size)
                self.assertEqual(bool(taken), bool(size and expected))
                self.assertEqual(taken, bytes(expected[: len(taken)]))
                del expected[: len(taken)]
            self.assertEqual(len(queue), len(expected))
