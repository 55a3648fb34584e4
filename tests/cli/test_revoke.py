"""``rtunnel revoke`` without a running proxy; with one see tests/proxy."""

from __future__ import annotations

import json
from typing import Any

from rtunnel.state_directory import load_public_key, write_key_pair
from rtunnel.wire.keys import PrivateKey
from tests.cli.running import CommandTestCase

UUID = "7596c018-0000-4000-8000-000000000001"


class RevokeTests(CommandTestCase):
    """Records are written to the registry and audited."""

    def setUp(self) -> None:
        super().setUp()
        self.init()

    def revoke(self, *arguments: str) -> str:
        """Revoke something."""
        return self.assert_done("revoke", "--state", self.state, *arguments)

    def listed(self) -> list[dict[str, Any]]:
        """What is revoked."""
        records: list[dict[str, Any]] = json.loads(self.revoke("--list", "--json"))
        return records

    def audited(self) -> list[tuple[str, str, str]]:
        """The audit lines: event, target, reason."""
        lines = (self.state / "audit.jsonl").read_text().splitlines()
        fields = [json.loads(line) for line in lines]
        return [
            (each["event"], each["target"], each["reason"])
            for each in fields
            if each["event"].startswith("revo")
        ]

    def test_everything_that_can_be_revoked(self) -> None:
        """Each is listed as what it is, with the reason."""
        key = PrivateKey.generate()
        path = self.directory / "id"
        write_key_pair(path, key, "bob")
        fingerprint = load_public_key(path.with_name("id.pub"))[0].fingerprint
        for arguments, kind, value in (
            (("--serial", "42"), "serial", "42"),
            (("--key", f"{path}.pub"), "key", fingerprint),
            (("--key-id", "bob"), "key_id", "bob"),
            (("--user", "bob"), "user", "bob"),
            (("--agent", UUID), "agent", UUID),
            (("--cluster", "b"), "cluster", "b"),
        ):
            said = self.revoke(*arguments, "--reason", "lost in a train")
            self.assertIn(value, said)
            self.assertIn("within 10 seconds", said)
            newest = self.listed()[-1]
            self.assertEqual((newest["kind"], newest["value"]), (kind, value))
            self.assertEqual(newest["reason"], "lost in a train")
            self.assertIn(f"--remove {newest['id']} --state {self.state}", said)
            self.assertEqual(
                self.audited()[-1],
                ("revoked", f"{kind}:{value}", "lost in a train"),
            )
        table = self.revoke("--list")
        self.assertEqual(table.count("\n"), 7)
        self.assertIn("key-id", table)
        for record in self.listed():
            self.assertIn(record["id"], table)

    def test_serial_of_one_authority(self) -> None:
        """Named by its public key file or by its fingerprint."""
        ca = self.state / "user_ca.pub"
        fingerprint = load_public_key(ca)[0].fingerprint
        self.revoke("--serial", "42", "--ca", str(ca))
        self.revoke("--serial", "42", "--ca", fingerprint)
        self.assertEqual([each["ca"] for each in self.listed()], [fingerprint])
        self.revoke("--serial", "42")
        self.assertEqual(len(self.listed()), 2)

    def test_second_time_changes_the_reason(self) -> None:
        """There is one record of one target."""
        self.revoke("--user", "bob")
        self.assertEqual(self.listed()[0]["reason"], "no reason given")
        self.revoke("--user", "bob", "--reason", "left")
        self.assertEqual([each["reason"] for each in self.listed()], ["left"])

    def test_removed_record_is_gone(self) -> None:
        """By its id or enough of it; audited."""
        self.revoke("--user", "bob", "--reason", "left")
        self.revoke("--user", "carol")
        record = self.listed()[0]
        said = self.revoke("--remove", record["id"][:12])
        self.assertIn("user bob is trusted again", said)
        self.assertEqual([each["value"] for each in self.listed()], ["carol"])
        self.assertEqual(self.audited()[-1], ("revocation_removed", "user:bob", "left"))
        for id in (record["id"], "nothing"):
            line = self.assert_refused("revoke", "--state", self.state, "--remove", id)
            self.assertIn(
                "is not the id of a revocation; `rtunnel revoke --list`", line
            )

    def test_record_may_end_by_itself(self) -> None:
        """When the certificates would have ended anyway."""
        self.revoke("--user", "bob", "--for", "1s")
        self.revoke("--user", "carol", "--for", "1h")
        (carol,) = [each for each in self.listed() if each["value"] == "carol"]
        self.assertIsNotNone(carol["until"])

    def test_nothing_is_revoked_at_first(self) -> None:
        """Which is said in words."""
        self.assertEqual(self.revoke("--list"), "Nothing is revoked.\n")
        self.assertEqual(self.listed(), [])

    def test_json_is_one_record(self) -> None:
        """For programs."""
        record = json.loads(self.revoke("--user", "bob", "--json"))
        self.assertEqual(record, self.listed()[0])

    def test_wrong_usage(self) -> None:
        """One target, and one that can exist."""
        for arguments in (
            (),
            ("--user", "bob", "--cluster", "b"),
            ("--user", "bob", "--list"),
            ("--list", "--remove", "x"),
            ("--list", "--reason", "x"),
            ("--remove", "x", "--for", "1h"),
            ("--user", "bob", "--ca", "SHA256:x"),
            ("--user", "%h"),
            ("--serial", "0"),
            ("--serial", "x"),
            ("--agent", "b"),
            ("--cluster", "B"),
            ("--key", "SHA256:short"),
            ("--user", "bob", "--for", "for ever"),
            ("--user", "bob", "--reason", "two\nlines"),
        ):
            self.assert_wrong_usage("revoke", "--state", self.state, *arguments)
        self.assertEqual(self.listed(), [])

    def test_files_that_are_no_keys(self) -> None:
        """Named, with what is wrong."""
        for name in ("nothing.pub", "user_ca"):
            path = self.state / name
            line = self.assert_refused("revoke", "--state", self.state, "--key", path)
            self.assertIn(str(path), line)
