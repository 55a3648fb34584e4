"""Tests for :mod:`rtunnel.proxy.refusal_rate`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.events import JoinRefused, LoginRefused
from rtunnel.config import AuditConfig
from rtunnel.proxy.refusal_rate import RefusalRate

LOGIN = LoginRefused(proxy="p-1", source="192.0.2.1", reason="no")
TOKEN = JoinRefused(proxy="p-1", source="192.0.2.1", reason="no")


class RefusalRateTests(SynchronousTestCase):
    """:class:`RefusalRate`, as it is by default."""

    def setUp(self) -> None:
        limits = AuditConfig()
        self.rate = RefusalRate(
            limits.refused_logins_per_second, limits.refused_logins_burst, 0.0, "p-1"
        )

    def written(self, count: int, seconds: float) -> int:
        """How many of so many are."""
        return sum(
            self.rate.allows(LOGIN, seconds, 1000.0 + seconds) for _ in range(count)
        )

    def test_a_hundred_at_once_then_ten_a_second(self) -> None:
        """After a quiet time as many at once again, and no more."""
        self.assertEqual(self.written(500, 0.0), 100)
        self.assertEqual(self.written(500, 1.0), 10)
        self.assertEqual(self.written(500, 3.5), 25)
        self.assertEqual(self.written(500, 1000.0), 100)
        self.assertEqual(self.rate.total, 4 * 500 - 235)

    def test_nothing_is_told_while_nothing_was_left_out(self) -> None:
        """All were written."""
        self.written(100, 0.0)
        self.assertIsNone(self.rate.left_out(1000.0))

    def test_what_was_left_out_is_told_until_it_has_been_written(self) -> None:
        """From the first of them on, by event."""
        self.written(101, 5.0)
        self.rate.allows(TOKEN, 5.0, 1005.0)
        for now in (1006.0, 1015.0):
            told = self.rate.left_out(now)
            assert told is not None
            self.assertEqual(told.seconds, now - 1005.0)
            self.assertEqual(
                told.reason,
                "1 join_refused and 1 login_refused since 1970-01-01T00:16:45.000Z "
                "were left out, for there were more than 10 a second",
            )
        self.rate.told()
        self.assertIsNone(self.rate.left_out(1016.0))
        self.written(111, 6.0)
        told = self.rate.left_out(1006.0)
        assert told is not None
        self.assertTrue(told.reason.startswith("101 login_refused since "), told.reason)
