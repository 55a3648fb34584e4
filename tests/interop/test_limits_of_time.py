"""Limits that are times, passed by peers that wait while the other tests go on."""

from __future__ import annotations

from tests.interop.limit_testing import LimitTestCase


class TimeTests(LimitTestCase):
    """When a silent peer is sent away. They were started with the deployment."""

    def assert_sent_away(self, limit: str, seconds: float, reason: str) -> None:
        """Not before its time, and not much later; it hears why."""
        for peer in self.waiting_peers(limit):
            after, said = peer.result()
            self.assertIn(reason, said)
            self.assertTrue(seconds - 0.1 < after < seconds + 2, after)

    def test_p3_time_from_accept_to_login(self) -> None:
        """20 s, whatever has been said until then."""
        self.assert_sent_away("login", 20, "not authenticated within 20 seconds")

    def test_c13_time_of_a_key_exchange(self) -> None:
        """30 s."""
        reason = "the key exchange took over 30 seconds"
        self.assert_sent_away("exchange", 30, reason)
