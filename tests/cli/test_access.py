"""``rtunnel access check``."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.running import CommandTestCase, Outcome, rtunnel

RULES = """
[[allow]]  # everybody
users = ["*"]
clusters = ["b"]
targets = ["web1:22"]

[[ allow ]]
users = ["ops"]
clusters = ["*"]
targets = ["*:*"]
times = ["mon-fri 08:00-18:00"]
"""


class AccessCheckTests(CommandTestCase):
    """Answers from ``proxy.toml``."""

    def setUp(self) -> None:
        super().setUp()
        self.init(
            *("--set", "allow=[]", "--set", 'local.allow=["*.lan:22"]'),
        )
        self.path = self.state / "proxy.toml"
        lines = self.path.read_text().splitlines(keepends=True)
        others = [line for line in lines if not line.startswith("allow = []")]
        self.path.write_text("".join(others) + RULES)

    def check(self, *arguments: str) -> Outcome:
        """Ask."""
        return rtunnel("access", "check", *arguments, "--state", self.state)

    def asked(self, *arguments: str) -> dict[str, Any]:
        """The answer as programs get it."""
        answer: dict[str, Any] = json.loads(self.check(*arguments, "--json").out)
        return answer

    def test_yes_names_the_rule_and_its_line(self) -> None:
        """And the exit code is 0."""
        outcome = self.check("alice", "web1.b")
        self.assertEqual((outcome.code, outcome.err), (0, ""))
        lines = self.path.read_text().split("\n")
        number = lines.index("[[allow]]  # everybody") + 1
        self.assertEqual(
            outcome.out, f"yes: [[allow]] rule 1 of {self.path}, line {number}\n"
        )
        answer = self.asked(
            *("alice", "db1.c:5432", "--principal", "ops"),
            *("--at", "2026-11-23T08:00"),
        )
        self.assertEqual((answer["allowed"], answer["rule"]), (True, 2))
        self.assertEqual(answer["line"], lines.index("[[ allow ]]") + 1)

    def test_no_says_why(self) -> None:
        """And the exit code is 1, with nothing on standard error."""
        outcome = self.check("alice", "web2.b:22")
        self.assertEqual((outcome.code, outcome.err), (1, ""))
        self.assertEqual(
            outcome.out, "no: no rule of this proxy lets alice reach web2.b:22\n"
        )
        self.assertEqual(
            self.asked("alice", "web2.b"),
            {
                "allowed": False,
                "rule": None,
                "line": None,
                "reason": "no rule of this proxy lets alice reach web2.b:22",
            },
        )

    def test_times_count(self) -> None:
        """In UTC, unless the question says otherwise."""
        for when, code in (
            ("2026-11-23T07:59:59", 1),
            ("2026-11-23T08:00", 0),
            ("2026-11-23T17:59:59Z", 0),
            ("2026-11-23T18:00", 1),
            ("2026-11-23T18:30+01:00", 0),
            ("2026-11-22", 1),
        ):
            outcome = self.check("alice", "db1.c", "--principal", "ops", "--at", when)
            self.assertEqual(outcome.code, code, when)
            if code:
                self.assertIn("at this time", outcome.out)

    def test_own_cluster_asks_local_allow_too(self) -> None:
        """Nothing is dialled there that it does not list."""
        ops = ("--principal", "ops", "--at", "2026-11-23T08:00")
        self.assertEqual(self.check("alice", "db.lan.a", *ops).code, 0)
        outcome = self.check("alice", "db.a", *ops)
        self.assertEqual(outcome.code, 1)
        self.assertIn("[local] allow does not", outcome.out)

    def test_spellings_of_addresses_are_refused(self) -> None:
        """As the proxy does."""
        ops = ("--principal", "ops", "--at", "2026-11-23T08:00")
        for host in ("127.1", "2130706433", "0177.0.0.1", "0x7f.1"):
            outcome = self.check("alice", f"{host}.b", *ops)
            self.assertEqual(outcome.code, 1)
            self.assertIn("looks like an IPv4 address", outcome.out)
        self.assertEqual(self.check("alice", "fd00::5.b:80", *ops).code, 0)

    def test_rules_in_one_array_have_numbers_only(self) -> None:
        """Where a line cannot be told."""
        self.path.write_text(
            'cluster = "a"\nallow = [{users=["*"], clusters=["*"], targets=["*:22"]}]\n'
        )
        answer = self.asked("alice", "web1.b")
        self.assertEqual((answer["rule"], answer["line"]), (1, None))

    def test_wrong_usage(self) -> None:
        """One line, exit code 2."""
        for arguments in (
            (),
            ("alice",),
            ("%h", "web1.b"),
            ("alice", "web1.B!"),
            ("alice", "web1.b:0"),
            ("alice", "web1.b:ssh"),
            ("alice", "web1.b", "--at", "tomorrow"),
        ):
            self.assert_wrong_usage(
                "access", "check", *arguments, "--state", self.state
            )

    def test_broken_file_is_said_to_be_broken(self) -> None:
        """With every mistake, as at start."""
        self.path.write_text("cluster = 5\n")
        outcome = self.check("alice", "web1.b")
        self.assertEqual((outcome.code, outcome.out), (1, ""))
        self.assertIn("cluster", outcome.err)
