"""The audit file."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.events import ProxyStarted, ProxyStopping, event_line
from rtunnel.audit.file import LOCK_WAIT, AuditPath
from rtunnel.audit.log import AuditLog
from rtunnel.audit.verification import AuditReport, verify

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

#: Events as fast as can be.
WRITE_MANY = """
import sys
from pathlib import Path
from rtunnel.audit.events import ProxyStarted
from rtunnel.audit.log import AuditLog

audit = AuditLog(Path(sys.argv[1]), lambda: 0.0)
for number in range(int(sys.argv[2])):
    audit.record(ProxyStarted(proxy=f"p-{number}"))
sys.exit(audit.lost)
"""

MANY = 1000


class AuditLogTests(SynchronousTestCase):
    """Lines that arrive, and a file that does not."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.audit = self.opened()

    def opened(self) -> AuditLog:
        audit = AuditLog(self.path, lambda: 1767225600.0)
        self.addCleanup(audit.close)
        return audit

    def lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def verify(self, *paths: Path) -> AuditReport:
        return verify([AuditPath(path) for path in paths or (self.path,)])

    def test_events_are_appended(self) -> None:
        """To what is there already."""
        self.audit.record(STARTED)
        self.opened().record(ProxyStopping(proxy="p-1"))
        self.audit.record(STARTED)
        self.assertEqual(
            self.events(),
            ["audit_started", "proxy_started", "proxy_stopping", "proxy_started"],
        )
        self.assertEqual(self.verify().lines, 4)

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
        self.assertEqual(self.events(), ["audit_started", "proxy_stopping"])
        self.assertEqual(len(moved.read_text().splitlines()), 2)
        head = self.verify(moved).head
        self.assertEqual(self.lines()[0]["reason"], f"continues {head}")
        self.assertEqual(self.verify(moved, self.path).notes, ())

    def test_two_processes_let_a_rotated_file_go_one_after_the_other(self) -> None:
        """What the second wrote to the old file meanwhile is vouched for too."""
        other = self.opened()
        self.audit.record(STARTED)
        other.record(STARTED)
        moved = self.path.rename(self.path.with_suffix(".1"))
        self.audit.reopen()
        self.audit.record(STARTED)
        other.record(ProxyStopping(proxy="p-2"))
        other.reopen()
        other.record(STARTED)
        self.assertEqual(
            self.events(),
            ["audit_started", "proxy_started", "audit_started", "proxy_started"],
        )
        report = self.verify(moved, self.path)
        self.assertEqual((report.lines, report.notes), (8, ()))

    def test_a_reload_without_a_rotation_changes_nothing(self) -> None:
        """The same file goes on."""
        self.audit.record(STARTED)
        self.audit.reopen()
        self.audit.record(STARTED)
        self.assertEqual(
            self.events(), ["audit_started", "proxy_started", "proxy_started"]
        )
        self.assertEqual(self.verify().lines, 3)

    def test_a_deleted_file_is_made_again(self) -> None:
        """Nobody would ever read what goes to the old one."""
        self.audit.record(STARTED)
        head = self.verify().head
        self.path.unlink()
        self.audit.record(STARTED)
        self.assertEqual(self.events(), ["audit_started", "proxy_started"])
        self.assertEqual(self.lines()[0]["reason"], f"continues {head}")

    def test_a_file_that_was_emptied(self) -> None:
        """``logrotate`` with ``copytruncate``."""
        self.audit.record(STARTED)
        self.path.write_bytes(b"")
        self.audit.record(STARTED)
        self.assertEqual(self.events(), ["audit_started", "proxy_started"])
        self.assertEqual(self.verify().lines, 2)

    def test_a_file_from_before_there_was_a_chain(self) -> None:
        """The chain begins behind what is there."""
        self.path.write_text(event_line(STARTED, 0))
        self.audit.record(STARTED)
        self.assertEqual(
            self.events(), ["proxy_started", "audit_started", "proxy_started"]
        )
        self.assertEqual(self.verify().lines, 2)

    def test_lines_of_several_processes_are_one_chain(self) -> None:
        """Two that write as fast as they can, and one that comes later."""
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITE_MANY, str(self.path), str(MANY)],
                env={"PYTHONPATH": os.pathsep.join(sys.path)},
            )
            for _ in range(2)
        ]
        for writer in writers:
            self.addCleanup(writer.wait)
        self.assertEqual([writer.wait(60) for writer in writers], [0, 0])
        self.audit.record(STARTED)
        self.assertEqual(self.verify().lines, 2 * MANY + 2)

    def test_a_process_that_stands_still_with_the_lock_stops_nobody(self) -> None:
        """The first event waits a little for it, no further one does."""
        self.audit.record(STARTED)
        with self.path.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            began = time.monotonic()
            written = [self.audit.record(STARTED) for _ in range(500)]
            took = time.monotonic() - began
        self.assertEqual(set(written), {False})
        self.assertLess(took, LOCK_WAIT + 5)
        self.assertIn("locked", self.audit.problem or "")
        self.assertTrue(self.audit.record(STARTED))
        self.assertIn("500 events could not be written", self.verify().notes[0])

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
        self.assertEqual(
            self.events(),
            ["audit_started", "audit_gap", "proxy_started", "proxy_started"],
        )
        self.assertIn("5 events could not be written: ", self.lines()[1]["reason"])
        self.assertIsNone(self.audit.problem)

    def test_a_gap_is_told_once(self) -> None:
        """Also when nothing happens but that it can be written again."""
        self.path.mkdir()
        self.assertFalse(self.audit.record(STARTED))
        self.audit.retry()
        self.path.rmdir()
        for _ in range(3):
            self.audit.retry()
        self.assertEqual(self.audit.lost, 1)
        self.assertEqual(self.events(), ["audit_started", "audit_gap"])
        self.assertTrue(self.audit.record(STARTED))
        self.assertEqual(self.verify().lines, 3)

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
        self.opened().record(STARTED)
        with self.path.open("a") as file:
            file.write('{"time": "2026-')
        self.audit.record(STARTED)
        *_, torn, whole, _ = self.path.read_text().split("\n")
        self.assertEqual(torn, '{"time": "2026-')
        self.assertEqual(json.loads(whole)["event"], "proxy_started")
        report = self.verify()
        self.assertEqual(report.lines, 3)
        self.assertIn("line 3 is incomplete", report.notes[0])

    def test_a_line_torn_anywhere_is_told_and_vouched_for(self) -> None:
        """Another process goes on after each byte of it, and the last but one is the
        end of what it says."""
        self.opened().record(STARTED)
        self.audit.close()
        whole = self.path.read_bytes()
        last = whole[:-1].rindex(b"\n") + 1
        for size in range(len(whole) + 1):
            self.path.write_bytes(whole[:size])
            if last < size < len(whole):
                self.verify()
            audit = AuditLog(self.path, lambda: 0.0)
            audit.record(STARTED)
            audit.close()
            self.assertTrue(self.path.read_bytes().startswith(whole[:size]), size)
            report = self.verify()
            is_torn = size not in (0, last - 1, last, len(whole) - 1, len(whole))
            self.assertEqual(len(report.notes), is_torn, (size, report.notes))

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
        began, first, _torn, gap, last, _ = self.path.read_text().split("\n")
        self.assertEqual(
            [json.loads(line)["event"] for line in (began, first, gap, last)],
            ["audit_started", "proxy_started", "audit_gap", "proxy_started"],
        )
        self.assertIn("1 event could not be written", json.loads(gap)["reason"])
        self.assertEqual(self.verify().lines, 4)
