"""Tests for :mod:`rtunnel.ssh.admission`."""

from __future__ import annotations

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_TOO_MANY_CONNECTIONS,
    ProtocolError,
)
from rtunnel.ssh.admission import Admission, Ticket, source_of
from rtunnel.ssh.limits import DEFAULT_LIMITS


def admission(in_all: int = 100, per_source: int = 10) -> Admission:
    """One with these limits."""
    return Admission(
        attrs.evolve(
            DEFAULT_LIMITS,
            unauthenticated=in_all,
            unauthenticated_per_source=per_source,
        )
    )


class AdmissionTests(SynchronousTestCase):
    """:class:`Admission`."""

    def refused(self, where: Admission, address: str | None) -> None:
        """Assert that there is no place for another, and that trying leaves none."""
        before = where.unauthenticated
        with self.assertRaises(ProtocolError) as caught:
            where.enter(address)
        self.assertEqual(caught.exception.reason_code, DISCONNECT_TOO_MANY_CONNECTIONS)
        self.assertEqual(where.unauthenticated, before)

    def test_so_many_of_one_source(self) -> None:
        """10; others still get in, and so does it when one has left."""
        where = admission()
        tickets = [where.enter("192.0.2.1") for _ in range(10)]
        self.refused(where, "192.0.2.1")
        where.enter("192.0.2.2")
        tickets[0].leave()
        where.enter("192.0.2.1")
        self.refused(where, "192.0.2.1")

    def test_so_many_in_all(self) -> None:
        """100, from wherever they are."""
        where = admission()
        for index in range(100):
            where.enter(f"192.0.2.{index}")
        self.refused(where, "198.51.100.1")
        self.refused(where, "")
        self.refused(where, None)

    def test_leaving_twice_is_leaving_once(self) -> None:
        """By login and by the end of the connection."""
        where = admission()
        first, second = where.enter("192.0.2.1"), where.enter("192.0.2.1")
        first.leave()
        first.leave()
        self.assertEqual(where.unauthenticated, 1)
        second.leave()
        self.assertEqual(where.unauthenticated, 0)

    def test_no_address_is_no_source(self) -> None:
        """All who come through a UNIX socket cannot be told apart."""
        where = admission()
        for _ in range(50):
            where.enter("")

    def test_an_address_that_is_found_later_counts_from_then_on(self) -> None:
        """Behind the PROXY protocol the peer's address comes with its first bytes."""
        where = admission(per_source=1)
        first, second = where.enter(None), where.enter(None)
        first.found("192.0.2.1")
        with self.assertRaises(ProtocolError):
            second.found("192.0.2.1")
        second.leave()
        self.refused(where, "192.0.2.1")
        first.leave()
        where.enter("192.0.2.1")

    def test_draining_lets_nobody_in(self) -> None:
        """And says so; who is in, stays in."""
        where = admission()
        ticket = where.enter("192.0.2.1")
        where.draining = True
        with self.assertRaises(ProtocolError) as caught:
            where.enter("192.0.2.1")
        self.assertEqual(caught.exception.reason_code, DISCONNECT_BY_APPLICATION)
        self.assertEqual(str(caught.exception), "this proxy is going away")
        ticket.leave()
        self.assertEqual(where.unauthenticated, 0)

    def test_only_so_many_hear_why_they_are_refused(self) -> None:
        """As many as may be in; there is room for more when they are gone."""
        where = admission(in_all=2)
        self.assertEqual([where.turn_away() for _ in range(3)], [True, True, False])
        where.gone()
        self.assertEqual([where.turn_away() for _ in range(2)], [True, False])
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
                    tickets.append(where.enter(address))
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
                where.enter(address).leave()
            first, second = where.enter(address), where.enter(address)
            first.leave()
            second.leave()
        self.assertEqual(where.unauthenticated, 0)


class SourceTests(SynchronousTestCase):
    """:func:`source_of`."""

    def test_what_counts_as_one_source(self) -> None:
        """An IPv4 address, an IPv6 /64, and what is no address for itself."""
        self.assertEqual(source_of("192.0.2.1"), "192.0.2.1")
        self.assertEqual(source_of("2001:db8:1:2::1"), source_of("2001:db8:1:2:ffff::"))
        self.assertNotEqual(source_of("2001:db8:1:2::1"), source_of("2001:db8:1:3::1"))
        self.assertEqual(source_of("somewhere"), "somewhere")
