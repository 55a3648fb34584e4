"""Tests for :mod:`rtunnel.ssh.source_pace`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.source_pace import SourcePace


class SourcePaceTests(SynchronousTestCase):
    """:class:`SourcePace`."""

    def setUp(self) -> None:
        """8 a second, 10 at once, 3 sources."""
        self.pace = SourcePace(8.0, 10, 3)

    def enter(self, count: int, now: float, source: str = "a") -> list[float]:
        """How long each of so many has to wait."""
        return [self.pace.enter(source, now) for _ in range(count)]

    def test_so_many_at_once_and_then_so_many_a_second(self) -> None:
        """10 are answered at once; the next ones an eighth of a second apart."""
        self.assertEqual(self.enter(10, 0.0), [0.0] * 10)
        self.assertFalse(self.pace.has_room("a", 0.0))
        self.assertEqual(self.enter(3, 0.0), [0.125, 0.25, 0.375])
        self.assertEqual(self.enter(1, 0.0, "b"), [0.0])

    def test_after_a_quiet_time_all_is_as_before(self) -> None:
        """In a burst's time."""
        self.enter(10, 0.0)
        self.assertFalse(self.pace.has_room("a", 0.1))
        self.assertTrue(self.pace.has_room("a", 0.125))
        self.assertEqual(self.enter(11, 1.25), [0.0] * 10 + [0.125])

    def test_nobody_waits_for_longer_than_a_burst_takes(self) -> None:
        """However many came before and went away."""
        self.assertEqual(max(self.enter(10_000, 0.0)), 1.25)

    def test_who_logs_in_does_not_count(self) -> None:
        """So a site of many may come back at once."""
        for _ in range(100):
            self.assertEqual(self.pace.enter("a", 0.0), 0.0)
            self.pace.give_back("a")
        self.pace.give_back("nobody")

    def test_so_many_sources_are_remembered(self) -> None:
        """And none that has nothing to remember."""
        for name in "abcd":
            self.pace.enter(name, 0.0)
        self.assertEqual(len(self.pace), 3)
        self.pace.enter("e", 100.0)
        self.assertEqual(len(self.pace), 1)
