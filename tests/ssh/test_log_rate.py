"""Tests for :mod:`rtunnel.ssh.log_rate`."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.log_rate import LINES_AT_ONCE, LogRate


class LogRateTests(SynchronousTestCase):
    """:class:`LogRate`."""

    def test_so_many_at_once_then_so_many_a_second(self) -> None:
        """100 and 10."""
        clock = Clock()
        rate = LogRate(clock)
        self.assertEqual(sum(rate.allows() for _ in range(500)), LINES_AT_ONCE)
        clock.advance(1)
        self.assertEqual(sum(rate.allows() for _ in range(500)), 10)

    def test_what_was_left_out_is_counted(self) -> None:
        """One line says how many, before the next that is logged."""
        clock = Clock()
        rate = LogRate(clock)
        with capturedLogs() as events:
            for _ in range(LINES_AT_ONCE + 7):
                rate.allows()
            self.assertEqual(events, [])
            clock.advance(1)
            self.assertTrue(rate.allows())
            self.assertTrue(rate.allows())
        self.assertEqual([event["suppressed"] for event in events], [7])
