"""Tests for :mod:`rtunnel.ssh.penalties`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.penalties import Offence, Penalties, PenaltyLimits

SOURCE = "192.0.2.1"


class PenaltiesTests(SynchronousTestCase):
    """:class:`Penalties`, as OpenSSH's but for those who share a source."""

    def setUp(self) -> None:
        """With the default limits."""
        self.penalties = Penalties(PenaltyLimits())

    def test_figures_are_those_of_openssh(self) -> None:
        """Seconds, as sshd_config(5) has them."""
        self.assertEqual(
            {offence.name: offence.value for offence in Offence},
            {
                "NO_LOGIN": 1.0,
                "LOGIN_REFUSED": 5.0,
                "GRACE_EXCEEDED": 10.0,
                "PROTOCOL_BROKEN": 90.0,
            },
        )
        limits = PenaltyLimits()
        self.assertEqual(
            (limits.act_from, limits.longest, limits.sources), (15.0, 600.0, 65_536)
        )

    def test_two_refused_logins_do_not_act_and_three_do(self) -> None:
        """15 s is where a penalty begins to act, and then until it is over."""
        for _ in range(2):
            self.penalties.add(SOURCE, Offence.LOGIN_REFUSED, 0.0)
        self.assertEqual(self.penalties.remaining(SOURCE, 0.0), 0)
        self.penalties.add(SOURCE, Offence.LOGIN_REFUSED, 0.0)
        self.assertEqual(self.penalties.remaining(SOURCE, 0.0), 15)
        self.assertEqual(self.penalties.remaining(SOURCE, 14.0), 1)
        self.assertEqual(self.penalties.remaining(SOURCE, 15.0), 0)
        self.assertEqual(len(self.penalties), 0)

    def test_one_broken_protocol_is_enough(self) -> None:
        """90 s, for that source and no other."""
        self.penalties.add(SOURCE, Offence.PROTOCOL_BROKEN, 0.0)
        self.assertEqual(self.penalties.remaining(SOURCE, 0.0), 90)
        self.assertEqual(self.penalties.remaining("192.0.2.2", 0.0), 0)

    def test_what_is_spread_out_never_acts(self) -> None:
        """A refused login every 6 s is over before the next."""
        for index in range(100):
            self.penalties.add(SOURCE, Offence.LOGIN_REFUSED, index * 6.0)
            self.assertEqual(self.penalties.remaining(SOURCE, index * 6.0), 0)

    def test_penalties_grow_to_ten_minutes(self) -> None:
        """And not by a second more."""
        for _ in range(50):
            self.penalties.add(SOURCE, Offence.PROTOCOL_BROKEN, 0.0)
        self.assertEqual(self.penalties.remaining(SOURCE, 0.0), 600)

    def test_a_source_where_somebody_is_logged_in_gets_none(self) -> None:
        """Nor for ten minutes after, nor what it had before."""
        for _ in range(2):
            self.penalties.add(SOURCE, Offence.LOGIN_REFUSED, 0.0)
        self.penalties.logged_in(SOURCE)
        self.penalties.logged_in(SOURCE)
        self.penalties.add(SOURCE, Offence.PROTOCOL_BROKEN, 0.0)
        self.penalties.logged_out(SOURCE, 0.0)
        self.penalties.add(SOURCE, Offence.PROTOCOL_BROKEN, 5000.0)
        self.penalties.logged_out(SOURCE, 5000.0)
        self.penalties.add(SOURCE, Offence.PROTOCOL_BROKEN, 5599.0)
        self.assertEqual(self.penalties.remaining(SOURCE, 5599.0), 0)
        self.penalties.add(SOURCE, Offence.PROTOCOL_BROKEN, 5600.0)
        self.assertEqual(self.penalties.remaining(SOURCE, 5600.0), 90)

    def test_a_login_ends_a_penalty_that_acts(self) -> None:
        """One that had begun before the penalty did."""
        self.penalties.add(SOURCE, Offence.PROTOCOL_BROKEN, 0.0)
        self.penalties.logged_in(SOURCE)
        self.assertEqual(self.penalties.remaining(SOURCE, 0.0), 0)

    def test_so_many_sources_are_remembered(self) -> None:
        """The one that has been left alone the longest is forgotten first."""
        penalties = Penalties(PenaltyLimits(sources=3))
        for name in ("a", "b", "c", "a", "d"):
            penalties.add(name, Offence.PROTOCOL_BROKEN, 0.0)
        self.assertEqual(len(penalties), 3)
        self.assertEqual(
            [name for name in "abcd" if penalties.remaining(name, 0.0)],
            ["a", "c", "d"],
        )

    def test_so_many_logins_are_remembered(self) -> None:
        """Of those that are gone; who is there stays known."""
        penalties = Penalties(PenaltyLimits(sources=2))
        for name in "ab":
            penalties.logged_in(name)
        penalties.logged_out("b", 0.0)
        penalties.logged_in("c")
        for name in "abc":
            penalties.add(name, Offence.PROTOCOL_BROKEN, 0.0)
        self.assertEqual(
            [name for name in "abc" if penalties.remaining(name, 0.0)], ["b"]
        )

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from("abcde"),
                st.sampled_from(["add", "in", "out"]),
                st.sampled_from(list(Offence)),
                st.floats(0, 100),
            ),
            max_size=60,
        )
    )
    def test_no_penalty_is_too_long_and_no_table_too_large(
        self, steps: list[tuple[str, str, Offence, float]]
    ) -> None:
        """Whatever happens; and who is logged in is never refused."""
        penalties = Penalties(PenaltyLimits(sources=3))
        here = dict.fromkeys("abcde", 0)
        now = 0.0
        for source, what, offence, seconds in steps:
            now += seconds
            if what == "add":
                penalties.add(source, offence, now)
            elif what == "in":
                here[source] += 1
                penalties.logged_in(source)
            elif here[source]:
                here[source] -= 1
                penalties.logged_out(source, now)
            self.assertLessEqual(len(penalties), 3)
            for name in here:
                self.assertTrue(0 <= penalties.remaining(name, now) <= 600)
                if here[name]:
                    self.assertEqual(penalties.remaining(name, now), 0)
