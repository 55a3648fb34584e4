"""The audit file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.events import ProxyStarted, ProxyStopping
from rtunnel.audit.log import AuditLog

STARTED = ProxyStarted(proxy="p-1")

#: Three events, the file full in the middle of the second; prints how many were lost.
CUT_SHORT = """
import os, resource, sys
from pathlib import Path
from rtunnel.audit.events import ProxyStarted
from rtunnel.audit.log import AuditLog

audit = AuditLog(Path(sys.argv[1]), lambda: 0.0)
audit.record(ProxyStarted(proxy="p-1"))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
size = os.stat(sys.argv[1]).st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
audit.record(ProxyStarted(proxy="p-1"))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
audit.record(ProxyStarted(proxy="p-1"))
print(audit.lost)
"""


class AuditLogTests(SynchronousTestCase):
    """Lines that arrive, and a file that does not."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.audit = self.opened()

    def opened(self) -> AuditLog:
        audit = AuditLog(self.path, lambda: 1767225600.0)
        self.addCleanup(audit.close)
        return audit

    def events(self) -> list[str]:
        return [
            json.loads(line)["event"] for line in self.path.read_text().split("\n")[:-1]
        ]

    def test_events_are_appended(self) -> None:
        """To what is there already."""
        self.audit.record(STARTED)
        self.opened().record(ProxyStopping(proxy="p-1"))
        self.audit.record(STARTED)
        self.assertEqual(
            self.events(), ["proxy_started", "proxy_stopping", "proxy_started"]
        )

    def test_only_the_owner_can_read_the_file(self) -> None:
        """It names people and machines."""
        self.audit.record(STARTED)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)

    def test_a_rotated_file_is_let_go(self) -> None:
        """After reopen nothing goes to the file that was moved away."""
        self.audit.record(STARTED)
        moved = self.path.rename(self.path.with_suffix(".1"))
        self.audit.reopen()
        self.audit.record(ProxyStopping(proxy="p-1"))
        self.assertEqual(self.events(), ["proxy_stopping"])
        self.assertEqual(len(moved.read_text().splitlines()), 1)

    def test_an_unwritable_file_is_counted_and_logged_once(self) -> None:
        """One line when it begins, one when it works again, and no exception."""
        self.path.mkdir()
        with capturedLogs() as logs:
            for _ in range(5):
                self.audit.record(STARTED)
            self.path.rmdir()
            self.audit.record(STARTED)
            self.audit.record(STARTED)
        self.assertEqual(self.audit.lost, 5)
        self.assertEqual(
            [(e["log_level"], e.get("count")) for e in logs],
            [(LogLevel.error, None), (LogLevel.warn, 5)],
        )
        self.assertEqual(self.events(), ["proxy_started", "proxy_started"])

    def test_a_full_disk_harms_nobody(self) -> None:
        """The device that is always full."""
        if not Path("/dev/full").exists():
            self.skipTest("this system has no /dev/full")
        audit = AuditLog(Path("/dev/full"), lambda: 0.0)
        self.addCleanup(audit.close)
        with capturedLogs() as logs:
            audit.record(STARTED)
        self.assertEqual(audit.lost, 1)
        self.assertIn("No space left", logs[0]["reason"])

    def test_a_torn_line_does_not_spoil_the_next(self) -> None:
        """A process was killed, or the disk was full, in the middle of a line."""
        self.path.write_text('{"time": "2026-')
        self.audit.record(STARTED)
        torn, whole, _ = self.path.read_text().split("\n")
        self.assertEqual(torn, '{"time": "2026-')
        self.assertEqual(json.loads(whole)["event"], "proxy_started")

    def test_a_line_that_is_cut_short_is_counted_and_ended(self) -> None:
        """The file reaches its limit in the middle of a line, then may grow again."""
        # In a process of its own: the limit holds for every file of a process.
        ran = subprocess.run(
            [sys.executable, "-c", CUT_SHORT, str(self.path)],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((ran.stdout, ran.stderr), ("1\n", ""))
        first, _torn, last, _ = self.path.read_text().split("\n")
        for line in (first, last):
            self.assertEqual(json.loads(line)["event"], "proxy_started")
