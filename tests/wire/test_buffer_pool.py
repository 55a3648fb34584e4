"""Tests for :mod:`rtunnel.wire.buffer_pool`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.wire.buffer_pool import BufferPool


class BufferPoolTests(SynchronousTestCase):
    """:class:`BufferPool`."""

    def test_what_is_given_back_is_used_again(self) -> None:
        """And not while somebody has it."""
        pool = BufferPool(100)
        one, other = pool.take(10), pool.take(100)
        self.assertIsNot(one.obj, other.obj)
        self.assertEqual((len(one), len(other)), (100, 100))
        pool.give_back(one)
        self.assertIs(pool.take(50).obj, one.obj)

    def test_who_wants_more_gets_more(self) -> None:
        """Whatever lies ready."""
        pool = BufferPool(100)
        pool.give_back(pool.take(100))
        self.assertEqual(len(pool.take(300)), 300)

    def test_only_so_many_are_kept(self) -> None:
        """After a peak the memory goes back."""
        pool = BufferPool(100, spare=2)
        taken = [pool.take(100) for _ in range(5)]
        for each in taken:
            pool.give_back(each)
        again = [pool.take(100) for _ in range(3)]
        known = [any(each.obj is one.obj for one in taken) for each in again]
        self.assertEqual(known, [True, True, False])
