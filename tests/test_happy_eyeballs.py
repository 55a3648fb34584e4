"""Several ways to one end, side by side."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.happy_eyeballs import ATTEMPT_DELAY, first_success


class Refused(Exception):
    """An attempt failed."""


class FirstSuccessTests(SynchronousTestCase):
    """Attempts a little apart; the first that works is taken."""

    def setUp(self) -> None:
        """Attempts that end when the test says so."""
        self.clock = Clock()
        self.started: list[Deferred[str]] = []
        self.cancelled: list[int] = []

    def attempt(self) -> Deferred[str]:
        """Begin one."""
        number = len(self.started)
        self.started.append(Deferred(lambda _: self.cancelled.append(number)))
        return self.started[-1]

    def race(self, count: int) -> Deferred[str]:
        """Begin that many."""
        return first_success([self.attempt] * count, self.clock)

    def test_first_success_ends_it(self) -> None:
        """Nothing else is started."""
        race = self.race(3)
        self.started[0].callback("a")
        self.assertEqual(self.successResultOf(race), "a")
        self.clock.advance(10)
        self.assertEqual(len(self.started), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_attempt_is_joined_by_the_next(self) -> None:
        """A quarter of a second apart; those that lose are cancelled."""
        race = self.race(3)
        self.clock.advance(ATTEMPT_DELAY)
        self.clock.advance(ATTEMPT_DELAY)
        self.assertEqual(len(self.started), 3)
        self.started[1].callback("b")
        self.assertEqual(self.successResultOf(race), "b")
        self.assertEqual(self.cancelled, [0, 2])

    def test_failure_starts_the_next_at_once(self) -> None:
        """Nobody waits for a refusal."""
        race = self.race(2)
        self.started[0].errback(Refused("a"))
        self.assertEqual(len(self.started), 2)
        self.started[1].callback("b")
        self.assertEqual(self.successResultOf(race), "b")

    def test_last_failure_waits_for_those_that_still_run(self) -> None:
        """The slow one may yet succeed."""
        race = self.race(2)
        self.clock.advance(ATTEMPT_DELAY)
        self.started[1].errback(Refused("b"))
        self.assertNoResult(race)
        self.started[0].callback("a")
        self.assertEqual(self.successResultOf(race), "a")

    def test_all_failed_says_why_the_best_did(self) -> None:
        """The first attempt's reason, whatever order they failed in."""
        race = self.race(2)
        self.clock.advance(ATTEMPT_DELAY)
        self.started[1].errback(Refused("b"))
        self.started[0].errback(Refused("a"))
        self.assertEqual(str(self.failureResultOf(race, Refused).value), "a")

    def test_attempts_that_end_at_once(self) -> None:
        """Before they return, failing or not."""
        attempts: list[Callable[[], Deferred[str]]] = [
            lambda: fail(Refused("a")),
            lambda: fail(Refused("b")),
            lambda: succeed("c"),
        ]
        race = first_success(attempts, self.clock)
        self.assertEqual(self.successResultOf(race), "c")
        race = first_success(attempts[:2], self.clock)
        self.assertEqual(str(self.failureResultOf(race, Refused).value), "a")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelling_cancels_everything(self) -> None:
        """And starts nothing more."""
        race = self.race(3)
        self.clock.advance(ATTEMPT_DELAY)
        race.cancel()
        self.failureResultOf(race)
        self.assertEqual(self.cancelled, [0, 1])
        self.clock.advance(10)
        self.assertEqual(len(self.started), 2)

    def test_nothing_to_attempt_is_a_fault_of_ours(self) -> None:
        """Such a race would never end."""
        self.assertRaises(ValueError, first_success, [], self.clock)
