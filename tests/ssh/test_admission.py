"""Tests for :mod:`rtunnel.ssh.admission`."""

from __future__ import annotations

from ipaddress import ip_network

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_SERVICE_NOT_AVAILABLE,
    DISCONNECT_TOO_MANY_CONNECTIONS,
    ProtocolError,
)
from rtunnel.ssh.admission import Admission, Refused, Ticket, source_of
from rtunnel.ssh.limits import DEFAULT_LIMITS
from rtunnel.ssh.penalties import Offence, PenaltyLimits
from tests.ssh.admitting import enter


def admission(
    in_all: int = 100, per_source: int = 10, clock: Clock | None = None
) -> Admission:
    """One with these limits, in which nobody is displaced before all is full."""
    return Admission(
        attrs.evolve(
            DEFAULT_LIMITS,
            unauthenticated=in_all,
            unauthenticated_per_source=per_source,
        ),
        clock or Clock(),
        lambda: 1.0,
    )


class AdmissionTests(SynchronousTestCase):
    """:class:`Admission`."""

    def refused(self, where: Admission, address: str | None) -> None:
        """Assert that there is no place for another, and that trying leaves none."""
        before = where.unauthenticated
        with self.assertRaises(ProtocolError) as caught:
            enter(where, address)
        self.assertEqual(caught.exception.reason_code, DISCONNECT_TOO_MANY_CONNECTIONS)
        self.assertEqual(where.unauthenticated, before)

    def test_so_many_of_one_source(self) -> None:
        """10; others still get in, and so does it when one has left."""
        where = admission()
        tickets = [enter(where, "192.0.2.1") for _ in range(10)]
        self.refused(where, "192.0.2.1")
        enter(where, "192.0.2.2")
        tickets[0].leave()
        enter(where, "192.0.2.1")
        self.refused(where, "192.0.2.1")

    def test_so_many_in_all(self) -> None:
        """100, from wherever they are."""
        where = admission()
        for index in range(100):
            enter(where, f"192.0.2.{index}")
        self.refused(where, "198.51.100.1")
        self.refused(where, "")
        self.refused(where, None)

    def test_leaving_twice_is_leaving_once(self) -> None:
        """By login and by the end of the connection."""
        where = admission()
        first, second = enter(where, "192.0.2.1"), enter(where, "192.0.2.1")
        first.leave()
        first.leave()
        self.assertEqual(where.unauthenticated, 1)
        second.leave()
        self.assertEqual(where.unauthenticated, 0)

    def test_no_address_is_no_source(self) -> None:
        """All who come through a UNIX socket cannot be told apart."""
        where = admission()
        for _ in range(50):
            enter(where, "")

    def test_an_address_that_is_found_later_counts_from_then_on(self) -> None:
        """Behind the PROXY protocol the peer's address comes with its first bytes."""
        where = admission(per_source=1)
        first, second = enter(where, None), enter(where, None)
        first.found("192.0.2.1")
        with self.assertRaises(ProtocolError):
            second.found("192.0.2.1")
        second.leave()
        self.refused(where, "192.0.2.1")
        first.leave()
        enter(where, "192.0.2.1")

    def test_draining_lets_nobody_in(self) -> None:
        """And says so; who is in, stays in."""
        where = admission()
        ticket = enter(where, "192.0.2.1")
        where.draining = True
        with self.assertRaises(ProtocolError) as caught:
            enter(where, "192.0.2.1")
        self.assertEqual(caught.exception.reason_code, DISCONNECT_BY_APPLICATION)
        self.assertEqual(str(caught.exception), "this proxy is going away")
        ticket.leave()
        self.assertEqual(where.unauthenticated, 0)

    def test_closed_lets_nobody_in_and_says_why(self) -> None:
        """As long as it is, and with no fault of who came."""
        closed: str | None = "come again later"
        where = Admission(DEFAULT_LIMITS, Clock(), lambda: 1.0, lambda: closed)
        with self.assertRaises(Refused) as caught:
            enter(where, "192.0.2.1")
        self.assertEqual(str(caught.exception), "come again later")
        self.assertEqual(caught.exception.reason_code, DISCONNECT_SERVICE_NOT_AVAILABLE)
        self.assertEqual(where.unauthenticated, 0)
        closed = None
        enter(where, "192.0.2.1")

    def test_only_so_many_hear_why_they_are_refused(self) -> None:
        """As many as may be in; there is room for more when they are gone."""
        where = admission(in_all=2)
        self.assertEqual([where.turn_away("") for _ in range(3)], [True, True, False])
        where.gone()
        self.assertEqual([where.turn_away("") for _ in range(2)], [True, False])
        self.assertEqual(where.unauthenticated, 0)

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["enter", "find", "leave"]),
                st.sampled_from(["192.0.2.1", "192.0.2.2", "", None]),
                st.integers(0, 10),
            ),
            max_size=60,
        )
    )
    def test_counts_are_exact(self, steps: list[tuple[str, str | None, int]]) -> None:
        """Whatever happens, never over a limit, and nothing is left at the end."""
        where = admission(in_all=5, per_source=2)
        tickets: list[Ticket] = []
        for what, address, index in steps:
            try:
                if what == "enter":
                    tickets.append(where.enter(address, lambda reason: None))
                elif tickets and what == "find":
                    tickets[index % len(tickets)].found(address or "192.0.2.3")
                elif tickets:
                    tickets[index % len(tickets)].leave()
            except ProtocolError:
                pass
            counted = sum(ticket.counted for ticket in tickets)
            self.assertEqual(where.unauthenticated, counted)
            self.assertTrue(counted <= 5)
        for ticket in tickets:
            ticket.leave()
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
            for _ in range(2):
                enter(where, address).leave()
            first, second = enter(where, address), enter(where, address)
            first.leave()
            second.leave()
        self.assertEqual(where.unauthenticated, 0)


class PenaltyTests(SynchronousTestCase):
    """What those get that come in vain."""

    def setUp(self) -> None:
        """With 192.0.2.128/25 exempt."""
        self.clock = Clock()
        exempt = (ip_network("192.0.2.128/25"),)
        self.limits = attrs.evolve(
            DEFAULT_LIMITS, penalties=PenaltyLimits(exempt=exempt)
        )
        self.where = Admission(self.limits, self.clock, lambda: 1.0)

    def offend(self, address: str, offence: Offence = Offence.PROTOCOL_BROKEN) -> None:
        """Come and go."""
        enter(self.where, address).leave(offence)

    def test_the_source_is_refused_and_told_for_how_long(self) -> None:
        """An IPv4 address alone, of IPv6 the /64."""
        self.offend("192.0.2.1")
        with self.assertRaises(Refused) as caught:
            enter(self.where, "192.0.2.1")
        self.assertIn("again in 90 seconds", str(caught.exception))
        self.assertEqual(self.where.unauthenticated, 0)
        enter(self.where, "192.0.2.2")
        self.offend("2001:db8:1:2::1")
        with self.assertRaises(Refused):
            enter(self.where, "2001:db8:1:2:ffff::1")
        enter(self.where, "2001:db8:1:3::1")
        self.clock.advance(90)
        enter(self.where, "192.0.2.1")

    def test_exempt_networks_get_none(self) -> None:
        """Whatever comes from there."""
        for _ in range(20):
            self.offend("192.0.2.200")
        enter(self.where, "192.0.2.200")

    def test_this_machine_is_exempt_unless_told_otherwise(self) -> None:
        """Its balancer may be here, and its tests."""
        self.where = Admission(DEFAULT_LIMITS, self.clock, lambda: 1.0)
        for address in ("127.0.0.1", "127.1.2.3", "::1"):
            self.offend(address)
            enter(self.where, address)

    def test_no_address_no_penalty(self) -> None:
        """A UNIX socket's peers, and a balancer's health checks."""
        for _ in range(20):
            self.offend("")
        enter(self.where, "")

    def test_a_source_with_a_login_is_let_off(self) -> None:
        """While it lasts, and for ten minutes."""
        ticket = enter(self.where, "192.0.2.1")
        ticket.logged_in()
        self.assertEqual(self.where.unauthenticated, 0)
        self.offend("192.0.2.1")
        ticket.leave()
        self.offend("192.0.2.1")
        self.clock.advance(601)
        self.offend("192.0.2.1")
        with self.assertRaises(Refused):
            enter(self.where, "192.0.2.1")

    def test_penalties_can_be_off(self) -> None:
        """And then nothing is remembered."""
        self.where = Admission(
            attrs.evolve(DEFAULT_LIMITS, penalties=None), self.clock, lambda: 1.0
        )
        self.offend("192.0.2.1")
        ticket = enter(self.where, "192.0.2.1")
        ticket.logged_in()
        ticket.leave()
        enter(self.where, "192.0.2.1")

    def test_a_displaced_one_gets_one_for_not_logging_in(self) -> None:
        """Once: its end is nothing more."""
        where = Admission(
            attrs.evolve(self.limits, unauthenticated=1), self.clock, lambda: 0.0
        )
        assert where.penalties is not None
        for _ in range(15):
            ticket = where.enter("192.0.2.1", lambda reason: None)
            self.assertEqual(where.penalties.remaining("192.0.2.1", 0.0), 0)
            self.clock.advance(2)
            enter(where, "192.0.2.2").leave()
            ticket.leave(Offence.PROTOCOL_BROKEN)
            self.clock.rightNow -= 2
        self.assertEqual(where.penalties.remaining("192.0.2.1", 2.0), 15)


class TurningAwayTests(SynchronousTestCase):
    """Who of those that are refused is told why."""

    def test_no_source_is_told_too_often(self) -> None:
        """10 at once, then 8 a second; the rest is cut off unheard."""
        clock = Clock()
        where = admission(clock=clock)
        told = [where.turn_away("192.0.2.1") for _ in range(20)]
        self.assertEqual(told.count(True), 10)
        self.assertTrue(where.turn_away("192.0.2.2"))
        self.assertTrue(where.turn_away(""))
        clock.advance(1)
        told = [where.turn_away("192.0.2.1") for _ in range(20)]
        self.assertEqual(told.count(True), 8)

    def test_no_more_are_told_at_a_time_than_may_be_there(self) -> None:
        """Each has its place until it is gone."""
        where = admission(in_all=3)
        told = [where.turn_away(f"192.0.2.{index}") for index in range(5)]
        self.assertEqual(told, [True] * 3 + [False] * 2)
        where.gone()
        self.assertTrue(where.turn_away("192.0.2.9"))

    def test_who_would_be_refused_unheard_is_not_looked_at(self) -> None:
        """Over its limit or under a penalty, and too fast."""
        clock = Clock()
        where = admission(clock=clock)
        for _ in range(10):
            enter(where, "192.0.2.1")
        self.assertTrue(where.is_hopeless("192.0.2.1"))
        self.assertFalse(where.is_hopeless("192.0.2.2"))
        self.assertFalse(where.is_hopeless(""))
        clock.advance(0.125)
        # Now there is time to say why.
        self.assertFalse(where.is_hopeless("192.0.2.1"))
        for _ in range(10):
            enter(where, "192.0.2.3").leave(Offence.PROTOCOL_BROKEN)
            if where.penalties and where.penalties.remaining("192.0.2.3", 1.0):
                break
        for _ in range(10):
            where.turn_away("192.0.2.3")
        self.assertTrue(where.is_hopeless("192.0.2.3"))


class SourceTests(SynchronousTestCase):
    """:func:`source_of`."""

    def test_what_counts_as_one_source(self) -> None:
        """An IPv4 address, an IPv6 /64, and what is no address for itself."""
        self.assertEqual(source_of("192.0.2.1"), "192.0.2.1")
        self.assertEqual(source_of("2001:db8:1:2::1"), source_of("2001:db8:1:2:ffff::"))
        self.assertNotEqual(source_of("2001:db8:1:2::1"), source_of("2001:db8:1:3::1"))
        self.assertEqual(source_of("somewhere"), "somewhere")
