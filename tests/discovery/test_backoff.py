"""Waiting after failures."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.discovery.backoff import BASE, CAP, Backoff


class BackoffTests(SynchronousTestCase):
    """Full jitter, decorrelated."""

    def test_no_failure_no_wait(self) -> None:
        """The first dial is at once."""
        backoff = Backoff(lambda: 0.5)
        self.assertEqual(backoff.wait(), 0.0)
        self.assertFalse(backoff.failed)

    def test_longest_draws_triple_up_to_the_cap(self) -> None:
        """With the worst luck: 1.5, 4.5, 13.5, then 30 s."""
        backoff = Backoff(lambda: 1.0)
        waits = []
        for _ in range(5):
            backoff.add()
            waits.append(backoff.wait())
        self.assertEqual(waits, [1.5, 4.5, 13.5, 30.0, 30.0])

    def test_shortest_draws_stay_at_the_base(self) -> None:
        """With the best luck: half a second each time."""
        backoff = Backoff(lambda: 0.0)
        for _ in range(5):
            backoff.add()
            self.assertEqual(backoff.wait(), BASE)

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40))
    def test_waits_stay_between_base_and_cap(self, draws: list[float]) -> None:
        """Whatever chance says, and under every lower limit too."""
        remaining = iter(draws)
        backoff = Backoff(lambda: next(remaining))
        for _ in draws:
            backoff.add()
            self.assertTrue(BASE <= backoff.wait() <= CAP)
            self.assertTrue(BASE <= backoff.wait(5.0) <= 5.0)

    def test_waits_at_the_cap_are_spread(self) -> None:
        """After many failures a thousand agents do not come in one moment."""
        generator = random.Random(1)
        for limit in (None, 5.0):
            waits = []
            for _ in range(1000):
                backoff = Backoff(generator.random)
                for _ in range(20):
                    backoff.add()
                waits.append(backoff.wait(limit))
            top = limit or CAP
            for part in range(5):
                low, high = top * part / 5, top * (part + 1) / 5
                inside = sum(low <= wait < high for wait in waits)
                self.assertGreater(inside, 50, f"between {low} and {high} s")

    def test_ease_takes_one_failure_back(self) -> None:
        """As many failures as signs of life: the wait does not grow."""
        backoff = Backoff(lambda: 1.0)
        for _ in range(10):
            backoff.add()
            self.assertEqual(backoff.wait(), 1.5)
            backoff.ease()

    def test_reset_forgets(self) -> None:
        """After it the next failure counts as the first."""
        backoff = Backoff(lambda: 1.0)
        for _ in range(5):
            backoff.add()
        backoff.reset()
        self.assertEqual(backoff.wait(), 0.0)
        backoff.add()
        self.assertEqual(backoff.wait(), 1.5)
