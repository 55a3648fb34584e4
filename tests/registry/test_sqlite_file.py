"""The blocking part of the SQLite registry: files, processes, damage."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import RegistryError
from rtunnel.registry.sqlite_file import SCHEMA_VERSION, SqliteFile

#: A process that waits for a line, then counts a number up by compare_and_swap.
COUNTS = """
import sys
from pathlib import Path
from rtunnel.registry.sqlite_file import SqliteFile

path, rounds = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
file = SqliteFile(path, lambda: 0.0, busy_timeout=60.0)
done = 0
while done < rounds:
    entry = file.get("count")
    value = "1" if entry is None else str(int(entry.value) + 1)
    revision = None if entry is None else entry.revision
    if file.compare_and_swap("count", value, revision) is not None:
        done += 1
file.close()
"""


class SqliteFileCase(SynchronousTestCase):
    """A path, and files on it."""

    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        self.path = directory / "registry.db"

    def opened(self, busy_timeout: float = 0.1) -> SqliteFile:
        file = SqliteFile(self.path, lambda: 1000.0, busy_timeout)
        self.addCleanup(file.close)
        return file

    def refusal(self, file: SqliteFile) -> str:
        with self.assertRaises(RegistryError) as caught:
            file.put("a", "1")
        return str(caught.exception)


class SharedTests(SqliteFileCase):
    """Several processes and one file."""

    def test_processes_that_begin_at_once_lose_no_swap(self) -> None:
        """They make the file together, and every success counts once."""
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", COUNTS, str(self.path), "25"],
                env={"PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            self.assertEqual(process.stdout.readline(), "ready\n")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0)
        entry = self.opened().get("count")
        assert entry is not None
        self.assertEqual(entry.value, "75")

    def test_a_reader_does_not_wait_for_a_writer(self) -> None:
        """A transaction that is open hides nothing that was there before."""
        file = self.opened()
        file.put("a", "1")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM entry")
            self.assertIsNotNone(file.get("a"))

    def test_what_ran_out_is_removed_by_the_next_write(self) -> None:
        """The file does not grow with dead proxies."""
        early = SqliteFile(self.path, lambda: 0.0)
        self.addCleanup(early.close)
        early.put("a", "1", 10.0)
        self.opened().put("b", "1")
        with closing(sqlite3.connect(self.path)) as connection:
            keys = connection.execute("SELECT key FROM entry").fetchall()
        self.assertEqual(keys, [("b",)])

    def test_looking_for_changes_reads_nothing_while_there_are_none(self) -> None:
        """It is done four times a second by every proxy."""
        file, other = self.opened(), self.opened()
        self.assertTrue(file.has_changed())
        statements: list[str] = []
        assert file._connection is not None
        file._connection.set_trace_callback(statements.append)
        self.assertFalse(file.has_changed())
        self.assertEqual(statements, ["PRAGMA data_version"])
        other.put("a", "1")
        self.assertTrue(file.has_changed())

    def test_own_writes_are_no_news(self) -> None:
        """Those of others in between are."""
        file, other = self.opened(), self.opened()
        file.has_changed()
        file.put("a", "1")
        self.assertFalse(file.has_changed())
        other.put("a", "2")
        file.put("a", "3")
        self.assertTrue(file.has_changed())


class FileTests(SqliteFileCase):
    """The file itself."""

    def test_only_the_owner_can_read_the_files(self) -> None:
        """They may hold tokens; the log is as private as the database."""
        umask = os.umask(0)
        self.addCleanup(os.umask, umask)
        self.opened().put("a", "1")
        files = list(self.path.parent.iterdir())
        self.assertGreaterEqual(len(files), 2)
        for file in files:
            self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600, file)

    def test_the_schema_says_whose_it_is(self) -> None:
        """By application id and version."""
        self.opened().open()
        with closing(sqlite3.connect(self.path)) as connection:
            identity = [
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version", "journal_mode")
            ]
        self.assertEqual(identity, [0x7274756E, SCHEMA_VERSION, "wal"])

    def test_a_newer_version_is_refused(self) -> None:
        """And left as it is."""
        file = self.opened()
        file.put("a", "1")
        file.close()
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        self.assertIn("is of version 99", self.refusal(self.opened()))

    def test_the_database_of_another_program_is_refused(self) -> None:
        """Not one table is added to it."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE mine (x)")
            connection.commit()
            self.assertIn("of some other program", self.refusal(self.opened()))
            tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
        self.assertEqual(tables, [("mine",)])

    def test_a_file_that_is_no_database_is_refused_and_kept(self) -> None:
        """The sentence says what to do, and doing it helps."""
        text = "this is not a database, but some text " * 100
        self.path.write_text(text)
        file = self.opened()
        refusal = self.refusal(file)
        self.assertIn(f"registry {self.path}: the file is damaged", refusal)
        self.assertIn("move it away", refusal)
        self.assertEqual(self.path.read_text(), text)
        self.path.rename(self.path.with_suffix(".bad"))
        file.put("a", "1")

    def test_a_file_that_is_overwritten_while_open_is_an_error(self) -> None:
        """Not a crash, and not an empty registry."""
        file = self.opened()
        for number in range(200):
            file.put(f"key/{number}", "v" * 500)
        file.close()
        file.get("key/1")
        with self.path.open("r+b") as raw:
            raw.seek(100)
            raw.write(os.urandom(self.path.stat().st_size - 100))
        with self.assertRaises(RegistryError) as caught:
            file.list("")
        self.assertIn("the file is damaged", str(caught.exception))

    def test_a_file_that_stays_locked_is_an_error_and_then_none(self) -> None:
        """After the time that it waits; the next try is a new one."""
        file = self.opened(busy_timeout=0.1)
        file.put("a", "1")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self.assertEqual(
                self.refusal(file),
                f"registry {self.path}: another process keeps the file locked",
            )
        file.put("a", "2")

    def test_a_path_that_cannot_be_opened_is_an_error(self) -> None:
        """A directory that is missing, or one in place of the file."""
        missing = SqliteFile(self.path.parent / "none" / "r.db", lambda: 0.0)
        self.assertIn("No such file or directory", self.refusal(missing))
        self.path.mkdir()
        self.assertIn("unable to open database file", self.refusal(self.opened()))

    def test_a_full_disk_is_an_error_and_loses_nothing(self) -> None:
        """What was there can still be read, and written again later."""
        file = self.opened()
        before = file.put("a", "1")
        assert file._connection is not None
        pages = file._connection.execute("PRAGMA page_count").fetchone()[0]
        file._connection.execute(f"PRAGMA max_page_count = {pages}")
        with self.assertRaises(RegistryError) as caught:
            file.put("b", "v" * 100_000)
        self.assertEqual(
            str(caught.exception), f"registry {self.path}: the disk is full"
        )
        self.assertEqual(file.get("a"), before)
        file.put("b", "v" * 100_000)
