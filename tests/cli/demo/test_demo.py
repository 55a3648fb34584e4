"""Tests of ``rtunnel demo``, as a person runs it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.peers import require_peer

DEMO = [sys.executable, "-m", "rtunnel.cli.main", "demo"]

#: Seconds that it may take once installed.
LIMIT = 30


class DemoTests(SynchronousTestCase):
    """The whole story, and that nothing of it is left behind."""

    def setUp(self) -> None:
        """Give the demo a directory of its own for temporary files."""
        self.temporary = Path(self.mktemp()).absolute()
        self.temporary.mkdir()

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment that a demo runs in."""
        return os.environ | {"TMPDIR": str(self.temporary), **changes}

    def assert_nothing_left(self) -> None:
        """No file, and no process that speaks of the directory."""
        self.assertEqual(list(self.temporary.iterdir()), [])
        listed = subprocess.run(
            ["ps", "-eo", "args"], capture_output=True, text=True, check=True
        )
        self.assertNotIn(str(self.temporary), listed.stdout)

    def assert_story(self, out: str) -> None:
        """The answer came before and after a proxy was killed."""
        before, killing, after = out.partition("Killing proxy-")
        self.assertTrue(killing, out)
        for part in (before, after):
            self.assertEqual(part.count("Hello from web1.b"), 1, out)

    def test_once_shows_it_all_and_ends(self) -> None:
        """With the machine's own ssh, in under 30 seconds."""
        require_peer("ssh")
        began = time.monotonic()
        run = subprocess.run(
            [*DEMO, "--once"],
            capture_output=True,
            text=True,
            timeout=2 * LIMIT,
            env=self.environment(),
        )
        self.assertEqual((run.stderr, run.returncode), ("", 0), run.stdout)
        self.assert_story(run.stdout)
        self.assertRegex(run.stdout, r"\$ ssh -F \S+ -J demo web1\.b")
        self.assertLess(time.monotonic() - began, LIMIT)
        self.assert_nothing_left()

    def test_without_ssh_its_own_client_asks(self) -> None:
        """And it says so."""
        run = subprocess.run(
            [*DEMO, "--once"],
            capture_output=True,
            text=True,
            timeout=2 * LIMIT,
            env=self.environment(PATH=str(self.temporary)),
        )
        self.assertEqual((run.stderr, run.returncode), ("", 0), run.stdout)
        self.assertIn("There is no ssh on this machine", run.stdout)
        self.assert_story(run.stdout)
        self.assert_nothing_left()

    def test_it_stays_up_until_ctrl_c(self) -> None:
        """The line that it prints works meanwhile; Ctrl-C leaves nothing behind."""
        require_peer("ssh")
        demo = subprocess.Popen(
            DEMO,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment(PYTHONUNBUFFERED="1"),
        )
        self.addCleanup(demo.wait)
        self.addCleanup(demo.kill)
        assert demo.stdout is not None
        for line in demo.stdout:
            found = re.fullmatch(r"  (ssh .*)\n", line)
            if found:
                break
        else:
            self.fail("no ssh line was printed")
        answer = subprocess.run(
            shlex.split(found[1]), capture_output=True, text=True, timeout=LIMIT
        )
        self.assertIn("Hello from web1.b", answer.stdout, answer.stderr)
        demo.send_signal(signal.SIGINT)
        self.assertEqual(demo.wait(LIMIT), 0)
        demo.stdout.close()
        self.assert_nothing_left()
