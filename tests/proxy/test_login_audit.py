"""Tests for :mod:`rtunnel.proxy.login_audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.log import AuditLog
from rtunnel.errors import DISCONNECT_SERVICE_NOT_AVAILABLE, ProtocolError
from rtunnel.proxy.login_audit import LoginAudit
from rtunnel.proxy.people_seen import PeopleSeen
from rtunnel.proxy.recording import Recording
from rtunnel.proxy.refusal_rate import RefusalRate
from tests.proxy.test_people_seen import user_identity


class LoginAuditTests(SynchronousTestCase):
    """What stands in the file of logins, and who gets in."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.people = PeopleSeen(lambda: 0.0)

    def audit(self, *, required: bool = False, burst: int = 100) -> LoginAudit:
        """One that writes to the path of the test."""
        clock = Clock()
        log = AuditLog(self.path, clock.seconds, "p-1")
        self.addCleanup(log.close)
        recording = Recording(
            log,
            RefusalRate(1, burst, clock.seconds(), "p-1"),
            clock,
            clock.seconds,
            required=required,
        )
        return LoginAudit(recording, self.people, "p-1")

    def events(self) -> list[dict[str, Any]]:
        """What is there but the beginning of the file."""
        _, *lines = self.path.read_text().splitlines()
        return [json.loads(line) for line in lines]

    def test_refusals_say_who_tried_and_why(self) -> None:
        """A name is printable and cut; a token is not there."""
        audit = self.audit()
        audit.login_refused("192.0.2.1", "al\x1bice" + "e" * 100, "no such key")
        audit.token_refused("192.0.2.2", "rtj-secret", "it was used\n")
        login, token = self.events()
        self.assertEqual(
            [login[name] for name in ("event", "proxy", "source", "reason")],
            ["login_refused", "p-1", "192.0.2.1", "no such key"],
        )
        self.assertTrue(login["user"].startswith(r"al\x1bice"))
        self.assertLess(len(login["user"]), 80)
        self.assertEqual(
            [token[name] for name in ("event", "source", "target", "reason")],
            ["join_refused", "192.0.2.2", None, r"it was used\n"],
        )
        self.assertNotIn("secret", self.path.read_text())

    def test_refusals_are_held_to_the_rate_and_logins_are_not(self) -> None:
        """Both kinds of refusals share it."""
        audit = self.audit(burst=2)
        for _ in range(5):
            audit.login_refused("192.0.2.1", "root", "no")
            audit.token_refused("192.0.2.1", "rtj-x", "no")
            audit.login_accepted(user_identity("alice", None), "192.0.2.3")
        names = [event["event"] for event in self.events()]
        self.assertEqual(names.count("login_accepted"), 5)
        self.assertEqual(len(names), 5 + 2)

    def test_nobody_is_logged_in_unrecorded_where_that_is_wanted(self) -> None:
        """And later ones hear it before they have tried."""
        self.path.mkdir()
        audit = self.audit(required=True)
        self.assertIsNone(audit.closed())
        with self.assertRaises(ProtocolError) as caught:
            audit.login_accepted(user_identity("alice", None), "192.0.2.3")
        self.assertEqual(caught.exception.reason_code, DISCONNECT_SERVICE_NOT_AVAILABLE)
        self.assertEqual(audit.closed(), str(caught.exception))
        relaxed = self.audit()
        relaxed.login_accepted(user_identity("alice", None), "192.0.2.3")
        self.assertIsNone(relaxed.closed())
