"""Tests for :mod:`rtunnel.ssh.handshake_turns`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.handshake_turns import HandshakeTurns

#: Seconds that a key exchange costs.
COST = 0.0025


class RunningClock(Clock):
    """Time passes while it is looked at; as a reactor's, it takes no negative delay."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def seconds(self) -> float:
        """A little later each time."""
        self.rightNow += self.step
        return super().seconds()

    def callLater(  # type: ignore[override]
        self, when: float, what: Any, *args: Any, **kw: Any
    ) -> Any:
        """Later, that is."""
        assert when >= 0, when
        return super().callLater(when, what, *args, **kw)


class HandshakeTurnsTests(SynchronousTestCase):
    """:class:`HandshakeTurns`."""

    def setUp(self) -> None:
        """Half of the time is for strangers while others send."""
        self.clock = Clock()
        self.turns = HandshakeTurns(self.clock, 0.5)
        self.done: list[str] = []

    def work(self, name: str) -> Callable[[], None]:
        """A key exchange, that takes its time."""

        def go() -> None:
            with self.turns.working():
                self.clock.rightNow += COST
            self.done.append(name)

        return go

    def go_round(self, seconds: float = 0) -> None:
        """One turn of the reactor; what it schedules is for the next, as in a real one.

        :param seconds: that it takes.
        """
        self.clock.rightNow += seconds
        now = self.clock.seconds()
        for call in [c for c in self.clock.calls if c.getTime() <= now]:
            self.clock.calls.remove(call)
            call.called = 1
            call.func()

    def test_the_first_goes_at_once(self) -> None:
        """And the second does not, in the same turn of the reactor."""
        self.assertTrue(self.turns.may_go())
        self.work("first")()
        self.assertFalse(self.turns.may_go())

    def test_one_in_each_turn_of_the_reactor(self) -> None:
        """With nobody else to serve, every turn has one."""
        self.work("first")()
        for index in range(5):
            self.turns.wait("a", self.work(str(index)))
        self.assertEqual(self.done, ["first"])
        for count in range(2, 7):
            self.go_round()
            self.assertEqual(len(self.done), count)
        self.assertEqual(len(self.turns), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_rest_may_be_over_while_it_is_looked_at(self) -> None:
        """Nobody waits for ever then."""
        for part in range(1, 50):
            self.clock = RunningClock(COST / part)
            self.turns = HandshakeTurns(self.clock, 0.5)
            self.done.clear()
            for index in range(3):
                self.turns.wait("a", self.work(str(index)))
            for _ in range(200):
                self.turns.traffic += 1
                self.go_round()
            self.assertEqual(len(self.done), 3)

    def test_who_waits_comes_before_who_comes(self) -> None:
        """However long the last work is ago."""
        self.turns.wait("a", self.work("waiting"))
        self.clock.rightNow += 10
        self.assertFalse(self.turns.may_go())

    def test_half_of_the_time_belongs_to_those_who_have_logged_in(self) -> None:
        """While they send, in whichever turn of the reactor."""
        for index in range(1000):
            self.turns.wait("a", self.work(str(index)))
        started = self.clock.seconds()
        while self.clock.seconds() - started < 1:
            self.turns.traffic += 1
            self.go_round(0.0003)
        share = len(self.done) * COST
        self.assertTrue(0.4 <= share <= 0.55, share)

    def test_all_of_the_time_when_they_have_stopped(self) -> None:
        """From the next look on, a millisecond later."""
        self.turns.traffic += 1
        self.work("first")()
        self.turns.traffic += 1
        for index in range(3):
            self.turns.wait("a", self.work(str(index)))
        self.go_round()
        self.assertEqual(self.done, ["first"])
        for _ in range(3):
            self.go_round(0.001)
        self.assertEqual(len(self.done), 4)

    def test_sources_take_turns(self) -> None:
        """One that has many waiting does not hold up the others."""
        for index in range(4):
            self.turns.wait("many", self.work(f"many {index}"))
        self.turns.wait("one", self.work("one"))
        self.turns.wait("two", self.work("two"))
        for _ in range(6):
            self.go_round()
        self.assertEqual(
            self.done, ["many 0", "one", "two", "many 1", "many 2", "many 3"]
        )

    def test_giving_up(self) -> None:
        """Who has gone is not served, and giving up twice is nothing."""
        gone = self.work("gone")
        self.turns.wait("a", gone)
        self.turns.wait("a", self.work("stays"))
        for _ in range(2):
            self.turns.give_up("a", gone)
        self.turns.give_up("nobody", gone)
        self.go_round()
        self.assertEqual(self.done, ["stays"])

    def test_a_clock_that_is_set_stops_nobody(self) -> None:
        """Neither back by an hour nor forward in the middle of work."""
        with self.turns.working():
            self.clock.rightNow += 3600
        self.clock.rightNow += 0.2
        self.assertTrue(self.turns.may_go())
        self.work("x")()
        self.clock.rightNow -= 3600
        self.assertTrue(self.turns.may_go())

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 0.002)),
            max_size=40,
        )
    )
    def test_everybody_has_a_turn(self, steps: list[tuple[str, bool, float]]) -> None:
        """Once, whatever else happens."""
        self.setUp()
        for index, (source, traffic, seconds) in enumerate(steps):
            self.turns.wait(source, self.work(str(index)))
            self.turns.traffic += traffic
            self.go_round(seconds)
        while self.clock.getDelayedCalls():
            self.go_round(0.001)
        self.assertEqual(sorted(self.done, key=int), list(map(str, range(len(steps)))))
        self.assertEqual(len(self.turns), 0)
