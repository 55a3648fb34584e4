"""Moments as people and log collectors read them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.timestamps import rfc3339


class Rfc3339Tests(SynchronousTestCase):
    """UTC, always with the same number of digits."""

    def test_moments_are_utc_and_of_fixed_width(self) -> None:
        """A whole second shows its milliseconds too, so that lines can be sorted."""
        self.assertEqual(rfc3339(1767225600), "2026-01-01T00:00:00.000Z")
        self.assertEqual(rfc3339(1767225600.25), "2026-01-01T00:00:00.250Z")

    def test_precision_can_be_chosen(self) -> None:
        """Status documents speak of seconds."""
        self.assertEqual(rfc3339(1767225600.9, "seconds"), "2026-01-01T00:00:00Z")
