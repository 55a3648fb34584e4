"""``rtunnel ca``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rtunnel.cli.ca import status_text
from rtunnel.state_directory import ADMIN_SOCKET
from tests.cli.running import CommandTestCase, rtunnel
from tests.cli.test_status import AdminSocket

LAGGARD = {
    "kind": "agent",
    "id": "a-1",
    "name": "b",
    "certified_by": "SHA256:old",
    "generation": 1,
    "certificate_ends": "2027-01-02T00:00:00.000Z",
    "seen": "2027-01-01T00:00:00.000Z",
    "lacks": ["has a certificate of SHA256:old"],
}


def authority(*laggards: Any, phase: str = "signs") -> dict[str, Any]:
    """One of a status."""
    return {
        "phase": phase,
        "generation": 2,
        "signs": "SHA256:new",
        "trusted": ["SHA256:old", "SHA256:new"],
        "can_sign_here": True,
        "not_followed": list(laggards),
    }


STATUS = {
    "authorities": {
        "host": authority(),
        "agent": authority(LAGGARD),
        "user": authority(phase="steady"),
    }
}


class CaTests(CommandTestCase):
    """Against an admin socket that answers always the same."""

    def serve(self, document: object) -> None:
        """Answer with this."""
        self.state.mkdir()
        # A socket's path may have some hundred bytes only.
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.state)
        socket = AdminSocket(Path(ADMIN_SOCKET), document)
        socket.answer = document
        self.addCleanup(socket.stop)

    def test_status_names_who_has_not_followed(self) -> None:
        """Below the table, one a line, with what is missing."""
        self.serve(STATUS)
        out = self.assert_done("ca", "status", "--state", self.state)
        lines = out.splitlines()
        self.assertEqual(len(lines), 5)
        self.assertEqual(lines[2].split(), ["agent", "signs", "2", "SHA256:new", "1"])
        self.assertIn("agent a-1 (b) has a certificate of SHA256:old", lines[4])
        self.assertEqual(out, status_text(STATUS))

    def test_status_is_json_for_programs(self) -> None:
        """As the proxy said it."""
        self.serve(STATUS)
        out = self.assert_done("ca", "status", "--json", "--state", self.state)
        self.assertEqual(json.loads(out), STATUS)

    def test_waiting_in_vain_is_a_failure(self) -> None:
        """And waiting for nobody takes no time."""
        self.serve(STATUS)
        arguments = ("ca", "status", "--state", self.state, "--wait", "1s")
        outcome = rtunnel(*arguments)
        self.assertEqual(outcome.code, 1)
        self.assertIn("1 has not followed within 1 second; wait longer", outcome.err)

    def test_waiting_says_for_whom(self) -> None:
        """Once, and each once, as long as they stay the same; and not all of many."""
        many = [{**LAGGARD, "id": f"a-{number}"} for number in range(5)]
        again = authority(*many)
        self.serve({"authorities": {"host": again, "agent": again}})
        outcome = rtunnel("ca", "status", "--state", self.state, "--wait", "2s")
        self.assertEqual(
            [line for line in outcome.err.splitlines() if "waiting" in line],
            [
                "rtunnel: waiting for agent a-0, agent a-1, agent a-2 and 2 more, "
                "2 s at most"
            ],
        )

    def test_a_step_says_what_comes_next(self) -> None:
        """And what people have to do, and how to go back."""
        self.serve({"before": "steady", "authority": authority(phase="trusted")})
        out = self.assert_done("ca", "rotate", "host", "--state", self.state)
        self.assertIn("from steady to trusted (generation 2)", out)
        self.assertIn("ssh-config --only known-hosts", out)
        self.assertIn(f"rtunnel ca rotate host --state {self.state}", out)
        self.assertIn("--back", out)

    def test_the_next_step_can_be_pasted(self) -> None:
        """Whatever the directory is called."""
        self.state = self.directory / "state of a"
        self.serve({"before": "steady", "authority": authority(phase="trusted")})
        out = self.assert_done("ca", "rotate", "host", "--state", self.state)
        self.assertIn(f"ca rotate host --state '{self.state}'\n", out)

    def test_a_phase_that_is_there_already_is_said_to_be(self) -> None:
        """Exit code 0: a script may ask twice."""
        self.serve({"before": "signs", "authority": authority()})
        out = self.assert_done(
            *("ca", "rotate", "agent", "--to", "signs", "--state", self.state)
        )
        self.assertEqual(out, "The agent authority is in phase signs already.\n")

    def test_of_people_it_says_what_has_to_be_known(self) -> None:
        """Before the old user authority is retired, and only then."""
        document: dict[str, Any] = {
            "authorities": {
                "host": authority(),
                "agent": authority(),
                "user": authority(phase="trusted") | {"people_of_other_keys": []},
            }
        }
        user = document["authorities"]["user"]
        self.assertNotIn("people", status_text(document))
        user["phase"] = "signs"
        self.assertIn("nobody has logged in who", status_text(document))
        user["people_of_other_keys"] = [
            {"name": name, "certificate_ends": f"2027-01-0{day}T00:00:00Z"}
            for day, name in enumerate(("a", "b\x1b", "c", "d"), 1)
        ]
        text = status_text(document)
        self.assertIn("4 have logged in who have no newer one: a, b", text)
        self.assertIn("and 1 more; the last of these ends 2027-01-04", text)
        self.assertNotIn("\x1b", text)
        user["people_of_other_keys"] = [{"name": "a", "certificate_ends": None}]
        self.assertIn("1 has logged in", status_text(document))
        self.assertIn("ends never", status_text(document))

    def test_forgetting_says_who_and_until_when_it_may_come_back(self) -> None:
        """It may have to be revoked as well."""
        self.serve(LAGGARD)
        said = self.assert_done("ca", "forget", "a-1", "--state", self.state)
        self.assertIn("agent a-1 (b)", said)
        self.assertIn("2027-01-02", said)

    def test_a_proxy_has_to_run(self) -> None:
        """It is the one that tells the others."""
        self.assertIn(
            "is the proxy running?",
            self.assert_refused("ca", "rotate", "host", "--state", self.state),
        )

    def test_authorities_and_phases_have_names(self) -> None:
        """Others are wrong usage."""
        self.assert_wrong_usage("ca", "rotate", "guest", "--state", self.state)
        self.assert_wrong_usage("ca", "rotate", "host", "--to", "x")
