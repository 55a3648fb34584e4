"""Tests for :mod:`rtunnel.ssh.admission` when more come than there is room for."""

from __future__ import annotations

from functools import partial
from random import Random

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.admission import Admission, Refused, Ticket
from rtunnel.ssh.limits import DEFAULT_LIMITS
from rtunnel.ssh.penalties import Offence
from tests.ssh.admitting import enter


class CrowdTests(SynchronousTestCase):
    """What happens to those that are silent when many are there."""

    def setUp(self) -> None:
        """10 places; a chance of 0 displaces whenever it may, one of 1 never."""
        self.clock = Clock()
        self.chance = 0.0
        self.displaced: list[str] = []
        self.where = Admission(
            attrs.evolve(DEFAULT_LIMITS, unauthenticated=10),
            self.clock,
            lambda: self.chance,
        )

    def enter(self, count: int, name: str = "192.0.2.{}") -> list[Ticket]:
        """So many, each from a source of its own."""
        addresses = [name.format(index) for index in range(count)]
        return [
            self.where.enter(address, partial(self.note_displaced, address))
            for address in addresses
        ]

    def note_displaced(self, address: str, reason: str) -> None:
        """It has to go."""
        self.displaced.append(address)

    def test_a_newcomer_takes_the_place_of_the_one_that_is_silent_longest(self) -> None:
        """When all is full, for certain."""
        self.chance = 1.0
        tickets = self.enter(10)
        self.clock.advance(1)
        tickets[0].heard()
        self.clock.advance(1)
        self.enter(1, "198.51.100.1")
        self.assertEqual(self.displaced, ["192.0.2.1"])
        self.assertEqual(self.where.unauthenticated, 10)
        tickets[1].leave()
        self.assertEqual(self.where.unauthenticated, 10)

    def test_those_who_get_on_with_it_stay(self) -> None:
        """Silent is who took no step for 2 seconds; the lot can fall on newcomers."""
        self.chance = 0.9
        self.enter(10)
        self.clock.advance(1.9)
        with self.assertRaises(Refused):
            self.enter(1, "198.51.100.1")
        self.assertEqual(self.displaced, [])

    def test_those_who_wait_for_us_stay(self) -> None:
        """It is not their fault that nothing is heard of them."""
        tickets = self.enter(10)
        for ticket in tickets[:9]:
            ticket.waits()
        self.clock.advance(60)
        self.enter(1, "198.51.100.1")[0].waits()
        self.assertEqual(self.displaced, ["192.0.2.9"])
        tickets[3].heard()
        self.clock.advance(60)
        tickets[4].heard()
        self.enter(1, "198.51.100.2")
        self.assertEqual(self.displaced[1:], ["192.0.2.3"])

    def test_the_chance_rises_from_30_percent_at_half_to_certainty(self) -> None:
        """As with MaxStartups."""
        self.enter(5)
        self.clock.advance(10)
        self.chance = 0.31
        self.enter(1, "198.51.100.1")
        self.assertEqual(self.displaced, [])
        # 6 of 10: 30 % and a fifth of the rest.
        self.chance = 0.45
        self.enter(1, "198.51.100.2")
        self.assertEqual(self.displaced, [])
        self.chance = 0.57
        self.enter(1, "198.51.100.3")
        self.assertEqual(self.displaced, ["192.0.2.0"])

    def test_below_half_nobody_is_displaced(self) -> None:
        """However silent."""
        self.enter(4)
        self.clock.advance(19)
        self.enter(1, "198.51.100.1")
        self.assertEqual(self.displaced, [])

    def test_one_source_displaces_nobody_beyond_its_own_limit(self) -> None:
        """Ten of its own, whoever else is there."""
        self.enter(9)
        self.clock.advance(10)
        for _ in range(10):
            enter(self.where, "203.0.113.1")
        before = list(self.displaced)
        with self.assertRaises(Refused):
            enter(self.where, "203.0.113.1")
        self.assertEqual(self.displaced, before)

    def test_a_refused_newcomer_leaves_no_trace(self) -> None:
        """Its source has as many places as before."""
        self.enter(10)
        self.chance = 0.9
        for _ in range(20):
            with self.assertRaises(Refused):
                enter(self.where, "198.51.100.1")
        self.chance = 0.0
        self.clock.advance(10)
        for _ in range(10):
            enter(self.where, "198.51.100.1")


class LotTests(SynchronousTestCase):
    """Who goes when all places are taken and nobody has been silent for long."""

    def setUp(self) -> None:
        """100 places, and a chance of its own that always falls alike."""
        self.clock = Clock()
        self.where = Admission(DEFAULT_LIMITS, self.clock, Random(4).random)
        self.displaced: list[tuple[str, str]] = []

    def enter(self, address: str) -> Ticket | None:
        """None for one that is refused."""
        try:
            return self.where.enter(
                address, lambda reason: self.displaced.append((address, reason))
            )
        except Refused:
            return None

    def test_between_equals_a_coin_decides(self) -> None:
        """About half of the newcomers get in, each for one of those that are there."""
        for index in range(100):
            self.enter(f"192.0.2.{index}")
        tried = [self.enter(f"198.51.100.{index}") for index in range(200)]
        taken = len(tried) - tried.count(None)
        self.assertTrue(70 < taken < 130, taken)
        self.assertEqual(len(self.displaced), taken)
        self.assertEqual(self.where.unauthenticated, 100)
        self.assertIn("too many connections", self.displaced[0][1])

    def test_a_source_with_one_goes_before_a_source_with_many(self) -> None:
        """As newcomer it gets in for certain, and those with many cannot expel it."""
        crowd = [f"192.0.2.{index % 10}" for index in range(100)]
        for address in crowd:
            self.enter(address)
        self.assertIsNotNone(self.enter("198.51.100.1"))
        for address in crowd * 10:
            self.enter(address)
        self.assertNotIn("198.51.100.1", [address for address, _ in self.displaced])
        self.assertEqual(self.where.unauthenticated, 100)

    def test_those_who_wait_for_us_take_part(self) -> None:
        """Else a hundred of these would keep everybody out."""
        for index in range(100):
            ticket = self.enter(f"192.0.2.{index}")
            assert ticket is not None
            ticket.waits()
        tried = [self.enter(f"198.51.100.{index}") for index in range(20)]
        self.assertTrue(self.displaced)
        self.assertEqual(20 - tried.count(None), len(self.displaced))

    def test_who_has_lost_gets_no_penalty(self) -> None:
        """And is gone for good."""
        tickets = [self.enter(f"192.0.2.{index}") for index in range(100)]
        while not self.displaced:
            self.enter("198.51.100.1")
        assert self.where.penalties is not None
        for ticket in tickets:
            assert ticket is not None
            if not ticket.counted:
                ticket.leave(Offence.PROTOCOL_BROKEN)
        self.assertEqual(len(self.where.penalties), 0)

    def test_honest_newcomers_get_through_a_flood(self) -> None:
        """300 strangers a second from as many addresses, who stay as long as they can.

        A login takes 0.2 s. More than a third of the first tries succeed, where as good
        as none would if those who are there were left their places for 2 s.
        """
        logins = []
        for second in range(100):
            honest = None
            for step in range(300):
                self.enter(f"10.{second}.{step // 250}.{step % 250}")
                if step == 100:
                    honest = self.enter("198.51.100.1")
                if step == 160 and honest is not None and honest.counted:
                    honest.logged_in()
                    honest.leave()
                    logins.append(second)
                self.clock.advance(1 / 300)
            if honest is not None:
                honest.leave()
        self.assertGreater(len(logins), 35)

    def test_no_places_no_lot(self) -> None:
        """A listener without any refuses."""
        self.where = Admission(
            attrs.evolve(DEFAULT_LIMITS, unauthenticated=0), self.clock, lambda: 0.0
        )
        self.assertIsNone(self.enter("192.0.2.1"))
