"""``rtunnel token`` without a running proxy; with one see tests/interop."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from rtunnel.state_directory import load_public_key
from rtunnel.trust.join_token import JoinLine, hash_of
from tests.cli.running import CommandTestCase


class TokenTests(CommandTestCase):
    """Tokens go to the registry, and their lines to whoever asked."""

    def setUp(self) -> None:
        super().setUp()
        self.init()

    def token(self, verb: str, *arguments: str) -> str:
        """``rtunnel token``."""
        return self.assert_done("token", verb, "--state", self.state, *arguments)

    def listed(self) -> list[dict[str, Any]]:
        """The tokens that are good."""
        records: list[dict[str, Any]] = json.loads(self.token("ls", "--json"))
        return records

    def test_add_prints_the_line_and_nothing_else(self) -> None:
        """With what the newcomer has to know."""
        printed = self.token("add", "b")
        line = JoinLine.parse(printed)
        self.assertEqual(printed, f"{line}\n")
        host_ca, _ = load_public_key(self.state / "host_ca.pub")
        self.assertEqual((line.kind, line.cluster), ("agent", "b"))
        self.assertEqual(line.addresses, ("lb.example.com:3023",))
        self.assertEqual(line.host_cas, (host_ca.fingerprint,))

    def test_a_token_is_good_once_and_for_an_hour(self) -> None:
        """Unless told otherwise."""
        line = JoinLine.parse(self.token("add", "b"))
        (record,) = self.listed()
        self.assertEqual(record["id"], hash_of(line.token)[:12])
        self.assertEqual((record["kind"], record["cluster"]), ("agent", "b"))
        self.assertEqual((record["uses"], record["label"]), (1, ""))
        self.assertTrue(record["created"].endswith("Z"))
        self.token("add", "c", "--ttl", "2d", "--uses", "5", "--label", "shop 7")
        _, later = self.listed()
        self.assertEqual((later["cluster"], later["uses"]), ("c", 5))
        self.assertEqual(later["label"], "shop 7")
        created, expires = (
            datetime.fromisoformat(later[name]) for name in ("created", "expires")
        )
        self.assertEqual(expires - created, timedelta(days=2))

    def test_a_token_for_a_proxy(self) -> None:
        """It is of the proxies' own cluster, and may have a name."""
        line = JoinLine.parse(self.token("add", "--proxy", "--name", "proxy-2"))
        self.assertEqual((line.kind, line.cluster), ("proxy", "a"))
        (record,) = self.listed()
        self.assertEqual((record["kind"], record["names"]), ("proxy", ["proxy-2"]))

    def test_the_token_itself_is_kept_nowhere(self) -> None:
        """Only its hash is."""
        line = JoinLine.parse(self.token("add", "b"))
        for path in self.state.iterdir():
            self.assertNotIn(line.token.encode(), path.read_bytes(), path.name)
        self.assertNotIn(line.token, self.token("ls") + self.token("ls", "--json"))

    def test_tokens_are_listed_and_withdrawn(self) -> None:
        """By the beginning of their ids, too."""
        self.assertEqual(self.token("ls"), "No token is good at the moment.\n")
        self.token("add", "b", "--label", "shop 7")
        (record,) = self.listed()
        table = self.token("ls")
        self.assertIn(record["id"], table)
        self.assertIn("shop 7", table)
        self.assertIn(record["id"], self.token("rm", record["id"][:6]))
        self.assertEqual(self.listed(), [])
        refused = self.assert_refused(
            "token", "rm", record["id"], "--state", self.state
        )
        self.assertIn("is not the id of a token; `rtunnel token ls`", refused)
        refused = self.assert_refused("token", "rm", "", "--state", self.state)
        self.assertIn("the id of a token is missing; `rtunnel token ls`", refused)

    def test_adding_and_withdrawing_are_audited(self) -> None:
        """As a running proxy would."""
        self.token("add", "b")
        (record,) = self.listed()
        self.token("rm", record["id"])
        lines = (self.state / "audit.jsonl").read_text().splitlines()
        events = [
            (each["event"], each["target"])
            for each in map(json.loads, lines)
            if each["event"].startswith("token")
        ]
        target = f"token:{record['id']}"
        self.assertEqual(events, [("token_added", target), ("token_removed", target)])

    def test_what_cannot_be_is_wrong_usage_or_refused(self) -> None:
        """In one line."""
        state = ("--state", self.state)
        for arguments in (
            (),
            ("B",),
            ("b", "--proxy"),
            ("b", "--name", "x"),
            ("b", "--uses", "0"),
            ("b", "--ttl", "1"),
            ("b", "--ttl", "80w"),
            ("b", "--label", "a\nb"),
            ("b", "--label", "x" * 65),
        ):
            self.assert_wrong_usage("token", "add", *state, *arguments)
        self.assertIn(
            "--proxy, not both",
            self.assert_wrong_usage("token", "add", *state, "b", "--proxy"),
        )
        self.assertIn("own cluster", self.assert_refused("token", "add", *state, "a"))
        self.assertEqual(self.listed(), [])

    def test_a_registry_in_memory_needs_the_proxy(self) -> None:
        """And another proxy could never see it."""
        self.init("--force", "--set", 'registry.url="memory:"')
        state = ("--state", self.state)
        refused = self.assert_refused("token", "add", *state, "b")
        self.assertIn("start the proxy first", refused)
        refused = self.assert_refused("token", "add", *state, "--proxy")
        self.assertIn("all of them can reach", refused)

    def test_without_public_addresses_there_is_no_line(self) -> None:
        """Nobody could join."""
        self.init("--force", "--set", "ssh.public=[]")
        refused = self.assert_refused("token", "add", "b", "--state", self.state)
        self.assertIn("ssh.public", refused)
