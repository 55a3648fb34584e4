"""``rtunnel join`` as far as it goes without a proxy; see also tests/interop."""

from __future__ import annotations

import subprocess
import sys

from rtunnel.trust.join_token import JoinLine, new_token
from tests.cli.running import CommandTestCase
from tests.interop.processes import environment

LINE = JoinLine("agent", "b", ("127.0.0.1:1",), ("SHA256:" + "A" * 43,), new_token())
PROXY_LINE = JoinLine("proxy", "a", LINE.addresses, LINE.host_cas, LINE.token)


class JoinTests(CommandTestCase):
    """What is refused before anybody is asked."""

    def join_refused(self, line: object, *arguments: str) -> str:
        """It is, and nothing is written."""
        before = sorted(self.directory.rglob("*"))
        refused = self.assert_refused(
            "join", str(line), "--state", self.state, *arguments
        )
        self.assertEqual(sorted(self.directory.rglob("*")), before)
        self.assertNotIn(LINE.token, refused)
        return refused

    def test_a_line_that_is_none(self) -> None:
        """It says what is wrong with it."""
        self.assertIn("cut off", self.join_refused(str(LINE)[:-3]))
        self.assertIn("`rtunnel token add` prints", self.join_refused("hello"))

    def test_files_that_are_there_already(self) -> None:
        """Before the token is used up."""
        self.state.mkdir()
        for line, name in ((LINE, "agent.toml"), (PROXY_LINE, "user_ca.pub")):
            (self.state / name).write_text("mine\n")
            refused = self.join_refused(line)
            self.assertIn(name, refused)
            self.assertIn("--force", refused)

    def test_a_directory_that_cannot_be(self) -> None:
        """Likewise; the way to it is looked at as well."""
        (self.directory / "file").write_text("")
        for state in ("file/state", "file/a/b"):
            self.state = self.directory / state
            for line in (LINE, PROXY_LINE):
                refused = self.join_refused(line)
                self.assertIn("file: is not a directory", refused)

    def test_a_disk_that_is_full(self) -> None:
        """Likewise; a limit for the size of files stands for it."""
        command = ("-m", "rtunnel.cli.main", "join", str(LINE), "--state", self.state)
        done = subprocess.run(
            ["sh", "-c", 'ulimit -f 0; exec "$0" "$@"', sys.executable, *command],
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
        self.assertEqual(
            (done.returncode, done.stderr),
            (
                1,
                f"rtunnel: {self.directory}: nothing can be written there: File too "
                "large; make room, or take another directory\n",
            ),
        )
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_settings_that_cannot_be(self) -> None:
        """Likewise."""
        for line in (LINE, PROXY_LINE):
            for setting, said in (
                ("tunnel.heartbeat='x'", "tunnel.heartbeat"),
                ("colour=1", "colour"),
                ("cluster='z'", "certificate will say"),
                ("state='/tmp'", "state"),
                ("allow", "KEY=VALUE"),
            ):
                self.assertIn(said, self.join_refused(line, "--set", setting))

    def test_no_line_at_all(self) -> None:
        """That is wrong usage."""
        self.assert_wrong_usage("join", "--state", self.state)
