"""Tests for :mod:`rtunnel.wire.random_pool`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.wire.random_pool import BLOCK, RandomPool


class RandomPoolTests(SynchronousTestCase):
    """:class:`RandomPool`."""

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 600), max_size=60))
    def test_no_byte_is_given_out_twice(self, counts: list[int]) -> None:
        """Whatever is asked for; what is left of a block is left."""
        given_out = 0

        def source(count: int) -> bytes:
            nonlocal given_out
            given_out += 1
            return b"".join(
                (given_out * BLOCK + at).to_bytes(4, "big")
                for at in range((count + 3) // 4)
            )[:count]

        pool = RandomPool(source)
        seen: set[bytes] = set()
        for count in counts:
            taken = pool(count * 4)
            self.assertEqual(len(taken), count * 4)
            words = [taken[at : at + 4] for at in range(0, len(taken), 4)]
            self.assertFalse(seen.intersection(words))
            seen.update(words)
            self.assertEqual(len(set(words)), len(words))

    def test_the_kernel_is_asked_once_for_many_packets(self) -> None:
        """Once for a block."""
        asked: list[int] = []

        def source(count: int) -> bytes:
            asked.append(count)
            return bytes(count)

        pool = RandomPool(source)
        for _ in range(BLOCK // 16):
            pool(16)
        self.assertEqual(asked, [BLOCK])
