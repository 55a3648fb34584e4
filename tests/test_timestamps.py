"""Moments as people, log collectors and JSON records have them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.timestamps import rfc3339, seconds_of


class Rfc3339Tests(SynchronousTestCase):
    """UTC, always with the same number of digits."""

    def test_moments_are_utc_and_of_fixed_width(self) -> None:
        """A whole second shows its milliseconds too, so that lines can be sorted."""
        self.assertEqual(rfc3339(1767225600), "2026-01-01T00:00:00.000Z")
        self.assertEqual(rfc3339(1767225600.25), "2026-01-01T00:00:00.250Z")

    def test_precision_can_be_chosen(self) -> None:
        """Status documents speak of seconds."""
        self.assertEqual(rfc3339(1767225600.9, "seconds"), "2026-01-01T00:00:00Z")


class SecondsOfTests(SynchronousTestCase):
    """What others may have written into a record."""

    def test_numbers_that_can_be_seconds(self) -> None:
        """Whole or not, from 0."""
        for value in (0, 1767225600, 0.5, 2**64 - 1):
            self.assertEqual(seconds_of(value), float(value))

    def test_anything_else_is_none(self) -> None:
        """Though JSON, or Python's reading of it, calls it a number."""
        infinite = float("inf")
        for value in (-1, -0.5, infinite, float("nan"), 10**400, True, "1", None, [1]):
            self.assertIsNone(seconds_of(value), value)
