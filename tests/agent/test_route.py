"""The pace of dials to one address."""

from __future__ import annotations

import math
import random

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent.route import FEWEST_LANDINGS, PINNED_BASE, Route, patience
from rtunnel.discovery.backoff import BASE, CAP


def route(chance: float = 0.5) -> Route:
    """A route that always draws the same."""
    return Route("lb:3023", lambda: chance)


class PatienceTests(SynchronousTestCase):
    """How many landings on claimed proxies luck explains."""

    def test_grows_as_the_coupon_collector_has_it(self) -> None:
        """Three times n·Hₙ, and never fewer than eight."""
        self.assertEqual(patience(0), FEWEST_LANDINGS)
        self.assertEqual(patience(1), FEWEST_LANDINGS)
        self.assertEqual(patience(2), 9)
        self.assertEqual(patience(5), 35)
        self.assertEqual(patience(10), 88)

    def test_fair_balancer_is_hardly_ever_blamed(self) -> None:
        """One missing proxy of n is overlooked so often in less than 1 of 100 runs."""
        for count in range(2, 21):
            overlooked = (1 - 1 / count) ** patience(count)
            self.assertLess(overlooked, 0.01, f"{count} proxies")


class RouteTests(SynchronousTestCase):
    """One address and what came of dialling it."""

    def test_new_address_may_be_dialled_at_once(self) -> None:
        """Unless it is told to wait."""
        self.assertEqual(route().ready_at(CAP), -math.inf)
        self.assertEqual(Route("a:1", lambda: 0.5, 7.0).ready_at(CAP), 7.0)

    def test_dials_are_counted_for_taking_turns(self) -> None:
        """0, 1, 2 …"""
        subject = route()
        self.assertEqual([subject.dialled(1.0) for _ in range(3)], [0, 1, 2])
        self.assertEqual(subject.dialled_at, 1.0)

    def test_failure_waits_and_failures_wait_longer(self) -> None:
        """The backoff's waits, from the moment of the failure."""
        subject = route(1.0)
        subject.failed(100.0)
        self.assertEqual(subject.ready_at(CAP), 101.5)
        subject.failed(102.0)
        self.assertEqual(subject.ready_at(CAP), 106.5)
        self.assertTrue(subject.failing)

    def test_lower_limit_holds_for_waits_that_run(self) -> None:
        """The last tunnel is lost: who waits for 30 s now waits for 5 at most."""
        subject = route(1.0)
        for _ in range(5):
            subject.failed(100.0)
        self.assertEqual(subject.ready_at(CAP), 130.0)
        self.assertEqual(subject.ready_at(5.0), 105.0)

    def test_landing_waits_a_fraction_of_a_second(self) -> None:
        """Between 50 and 250 ms at first."""
        for chance, least, most in ((0.0, 0.05, 0.06), (1.0, 0.25, 0.3)):
            subject = route(chance)
            subject.landed("p", 10, 100.0)
            wait = subject.ready_at(CAP) - 100.0
            self.assertTrue(least <= wait <= most, wait)

    def test_landings_wait_a_little_more_each(self) -> None:
        """But not as failures do: five proxies' worth only doubles it."""
        subject = route()
        waits = []
        for _ in range(5):
            subject.landed("p", 5, 0.0)
            waits.append(subject.ready_at(CAP))
        self.assertEqual(waits, sorted(waits))
        self.assertLess(waits[-1], 2.1 * 0.15)

    def test_landing_is_no_failure(self) -> None:
        """It takes one back: the address answers."""
        subject = route(1.0)
        for _ in range(10):
            subject.failed(0.0)
            subject.landed("p", 10, 0.0)
            self.assertFalse(subject.failing)
        self.assertLessEqual(subject.ready_at(CAP), 1.5)

    def test_landings_that_luck_does_not_explain_stretch_the_dials(self) -> None:
        """From the k-th on the waits are those of a pinned balancer, up to 30 s."""
        subject = Route("lb:3023", random.Random(1).random)
        for _ in range(patience(2) - 1):
            subject.landed("p", 2, 0.0)
        self.assertFalse(subject.pinned)
        self.assertLess(subject.ready_at(CAP), 2.0)
        waits = []
        for _ in range(50):
            subject.landed("p", 2, 0.0)
            self.assertTrue(subject.pinned)
            waits.append(subject.ready_at(CAP))
        self.assertGreaterEqual(min(waits), PINNED_BASE)
        self.assertLessEqual(max(waits), CAP)
        self.assertGreater(sum(waits) / len(waits), 5.0)

    def test_landings_are_remembered_for_the_notice(self) -> None:
        """Which proxies, how often, since when."""
        subject = route()
        for proxy, now in (("p", 10.0), ("q", 11.0), ("p", 12.0)):
            subject.landed(proxy, 5, now)
        self.assertEqual(subject.given, {"p": 2, "q": 1})
        self.assertEqual((subject.landings, subject.landing_since), (3, 10.0))

    def test_new_proxy_reached_forgets_landings_but_not_failures(self) -> None:
        """Only a tunnel that lasts makes an address good again."""
        subject = route(1.0)
        subject.failed(0.0)
        subject.failed(0.0)
        for _ in range(20):
            subject.landed("p", 2, 0.0)
        subject.failed(100.0)
        subject.reached(101.0)
        self.assertFalse(subject.pinned)
        self.assertFalse(subject.failing)
        self.assertEqual((subject.landings, subject.given), (0, {}))
        self.assertLessEqual(subject.ready_at(CAP), 101.0)
        subject.failed(102.0)
        self.assertGreater(subject.ready_at(CAP), 103.0)
        subject.settled()
        self.assertLessEqual(subject.ready_at(CAP), 102.0)

    def test_lost_tunnel_waits_less_than_a_failure(self) -> None:
        """Half a second at most, drawn, so that agents do not come all at once."""
        for chance in (0.0, 0.5, 1.0):
            subject = route(chance)
            subject.lost(100.0)
            self.assertEqual(subject.ready_at(CAP), 100.0 + chance * BASE)
