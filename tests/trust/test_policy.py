"""Who may reach what: :mod:`rtunnel.trust.policy`."""

from __future__ import annotations

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import InvalidName
from rtunnel.trust.policy import Allow, AllowRule, Deny, Policy
from tests.wire.examples import NOW


@attrs.frozen
class Somebody:
    """The part of an identity that rules look at."""

    name: str
    principals: tuple[str, ...]


ALICE = Somebody("alice", ("alice", "ops"))
BOB = Somebody("bob", ("bob",))


def policy(*rules: tuple[str, str, str]) -> Policy:
    """A policy from rules of users, clusters and targets separated by blanks."""
    return Policy(
        tuple(AllowRule.parse(*(part.split() for part in rule)) for rule in rules)
    )


class AllowRuleTests(SynchronousTestCase):
    """What a rule may say."""

    def test_malformed_patterns_are_refused(self) -> None:
        """Names that cannot exist are mistakes."""
        for users, clusters, targets in [
            ("a%b", "b", "*:22"),
            ("[ab]", "b", "*:22"),
            ("alice?", "b", "*:22"),
            ("alice", "B", "*:22"),
            ("alice", "b.c", "*:22"),
            ("alice", "b?", "*:22"),
            ("alice", "b", "web1"),
        ]:
            self.assertRaises(
                InvalidName, AllowRule.parse, [users], [clusters], [targets]
            )
        self.assertRaises(InvalidName, AllowRule.parse, [""], ["b"], [])
        self.assertRaises(InvalidName, AllowRule.parse, ["a"], [""], [])


class PolicyTests(SynchronousTestCase):
    """Decisions on one target."""

    def assert_allows(
        self, rules: Policy, user: Somebody, cluster: str, host: str, port: int = 22
    ) -> None:
        """Check that access is granted."""
        self.assertIsInstance(rules.decide(user, cluster, host, port, NOW), Allow)

    def assert_denies(
        self, rules: Policy, user: Somebody, cluster: str, host: str, port: int = 22
    ) -> None:
        """Check that access is refused."""
        self.assertIsInstance(rules.decide(user, cluster, host, port, NOW), Deny)

    def test_all_three_parts_of_a_rule_must_match(self) -> None:
        """User, cluster and target, in one and the same rule."""
        rules = policy(("alice", "b", "web1:22"), ("bob", "c", "db1:5432"))
        self.assert_allows(rules, ALICE, "b", "web1")
        self.assert_denies(rules, BOB, "b", "web1")
        self.assert_denies(rules, ALICE, "c", "web1")
        self.assert_denies(rules, ALICE, "b", "db1", 5432)
        self.assert_denies(rules, ALICE, "b", "web1", 23)

    def test_any_principal_of_the_user_counts(self) -> None:
        """A group is a principal."""
        rules = policy(("ops", "b", "*:22"))
        self.assert_allows(rules, ALICE, "b", "web1")
        self.assert_denies(rules, BOB, "b", "web1")

    def test_name_alone_is_no_principal(self) -> None:
        """Only what the certificate lists as principal is compared."""
        rules = policy(("mallory", "*", "*:*"))
        self.assert_denies(rules, Somebody("mallory", ("guest",)), "b", "web1")

    def test_user_without_principals_reaches_nothing(self) -> None:
        """Not even where everybody may go."""
        rules = policy(("*", "*", "*:*"))
        self.assert_denies(rules, Somebody("nobody", ()), "b", "web1")

    def test_star_stands_for_any_characters(self) -> None:
        """In users and clusters, at any place; case counts for users."""
        rules = policy(("team-*", "site-*-eu", "*:22"))
        member = Somebody("x", ("team-a",))
        self.assert_allows(rules, member, "site-12-eu", "web1")
        self.assert_denies(rules, member, "site-12-us", "web1")
        self.assert_denies(rules, Somebody("x", ("Team-a",)), "site-1-eu", "web1")
        self.assert_denies(rules, Somebody("x", ("a-team-a",)), "site-1-eu", "web1")

    def test_address_asked_for_is_compared_as_an_address(self) -> None:
        """However it is spelled."""
        rules = policy(("*", "*", "10.0.0.0/8:22"))
        self.assert_allows(rules, BOB, "b", "10.1.2.3")
        self.assert_allows(rules, BOB, "b", "::ffff:10.1.2.3")
        self.assert_denies(rules, BOB, "b", "11.1.2.3")
        self.assert_denies(rules, BOB, "b", "web1")

    def test_own_host_of_the_agent_is_localhost(self) -> None:
        """``ssh -J proxy b``."""
        self.assert_allows(policy(("*", "b", "localhost:22")), BOB, "b", "")
        self.assert_allows(policy(("*", "b", "*:22")), BOB, "b", "")
        self.assert_denies(policy(("*", "b", "web1:22")), BOB, "b", "")

    def test_grant_names_the_first_rule(self) -> None:
        """For the log."""
        rules = policy(("bob", "*", "*:*"), ("ops", "*", "*:22"), ("*", "*", "*:*"))
        self.assertEqual(rules.decide(ALICE, "b", "web1", 22, NOW), Allow(1))

    def test_refusal_says_who_and_what(self) -> None:
        """It is what ``ssh`` shows."""
        rules = policy(("alice", "b", "*:22"))
        self.assertEqual(
            rules.decide(BOB, "b", "web1", 22, NOW),
            Deny("no rule of this proxy lets bob reach web1.b:22"),
        )
        self.assertEqual(
            rules.decide(BOB, "b", "", 22, NOW),
            Deny("no rule of this proxy lets bob reach b:22"),
        )

    def test_loosely_spelled_address_is_refused_with_the_reason(self) -> None:
        """Even where everything is allowed."""
        decision = policy(("*", "*", "*:*")).decide(BOB, "b", "0x7f.1", 22, NOW)
        assert isinstance(decision, Deny)
        self.assertIn("looks like an IPv4 address", decision.reason)

    def test_rule_with_times_holds_at_those(self) -> None:
        """Others hold always; the refusal says that it is a matter of time."""
        morning = AllowRule.parse(["*"], ["*"], ["*:22"], ["mon", "fri 08:00-10:00"])
        always = AllowRule.parse(["ops"], ["*"], ["*:22"])
        rules = Policy((morning, always))
        # 15 January 2027 is a Friday, 08:00 UTC.
        for when, answer in (
            (NOW - 1, "at this time"),
            (NOW, Allow(0)),
            (NOW + 2 * 3600 - 1, Allow(0)),
            (NOW + 2 * 3600, "at this time"),
            (NOW + 3 * 86400, Allow(0)),
        ):
            decision = rules.decide(BOB, "b", "web1", 22, when)
            if isinstance(decision, Deny):
                self.assertTrue(decision.other_times)
                self.assertIn(str(answer), decision.reason)
            else:
                self.assertEqual(decision, answer)
            self.assertIsInstance(rules.decide(ALICE, "b", "web1", 22, when), Allow)
        denied = rules.decide(BOB, "b", "web1", 23, NOW - 1)
        self.assertEqual(
            denied, Deny("no rule of this proxy lets bob reach web1.b:23", False)
        )

    def test_clusters_that_a_user_reaches(self) -> None:
        """For lists; a rule without targets reaches nothing."""
        rules = policy(("ops", "b", "*:22"), ("bob", "c*", "web1:1"), ("*", "d", ""))
        for user, reached in [(ALICE, ["b"]), (BOB, ["c", "cc"])]:
            names = [n for n in ("b", "c", "cc", "d") if rules.reaches_cluster(user, n)]
            self.assertEqual(names, reached)


USERS = st.sampled_from(["alice", "bob", "ops", "team-a"])
PEOPLE = st.builds(Somebody, USERS, st.lists(USERS, max_size=3).map(tuple))
CLUSTERS = st.sampled_from(["a", "b", "site-1"])
HOSTS = st.sampled_from(["web1", "db.lan", "", "10.0.0.5", "fd00::5", "127.1", "ü"])
PORTS = st.sampled_from([22, 80])
RULES = st.builds(
    AllowRule.parse,
    st.lists(USERS | st.sampled_from(["*", "team-*"]), max_size=2),
    st.lists(CLUSTERS | st.sampled_from(["*", "site-*"]), max_size=2),
    st.lists(
        st.sampled_from(["*:22", "web1:*", "*.lan:80", "10.0.0.0/8:22", "[::/0]:22"]),
        max_size=2,
    ),
    st.lists(st.sampled_from(["fri", "mon-thu", "07:00-09:00"]), max_size=2),
)


class PolicyLawTests(SynchronousTestCase):
    """Laws of any policy."""

    @settings(deadline=None, max_examples=50)
    @given(PEOPLE, CLUSTERS, HOSTS | st.text(max_size=10), PORTS)
    def test_no_rule_no_access(
        self, user: Somebody, cluster: str, host: str, port: int
    ) -> None:
        """Default deny, with a reason that can be printed."""
        decision = Policy().decide(user, cluster, host, port, NOW)
        assert isinstance(decision, Deny)
        self.assertTrue(decision.reason.isprintable())

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(RULES, max_size=4), RULES, st.integers(0, 4),
        PEOPLE, CLUSTERS, HOSTS, PORTS,
    )  # fmt: skip
    def test_another_rule_never_removes_access(
        self,
        rules: list[AllowRule],
        extra: AllowRule,
        at: int,
        user: Somebody,
        cluster: str,
        host: str,
        port: int,
    ) -> None:
        """Wherever it is put, and access never exceeds what single rules give."""
        before = Policy(tuple(rules)).decide(user, cluster, host, port, NOW)
        longer = [*rules[:at], extra, *rules[at:]]
        after = Policy(tuple(longer)).decide(user, cluster, host, port, NOW)
        alone = Policy((extra,)).decide(user, cluster, host, port, NOW)
        self.assertEqual(
            isinstance(after, Allow),
            isinstance(before, Allow) or isinstance(alone, Allow),
        )
        if isinstance(after, Allow):
            self.assertTrue(Policy(tuple(longer)).reaches_cluster(user, cluster))
            one = Policy((longer[after.rule],)).decide(user, cluster, host, port, NOW)
            self.assertIsInstance(one, Allow)
