"""A registry in an SQLite file, blocking: what :mod:`rtunnel.registry.sqlite` wraps.

No Twisted. One object belongs to one thread at a time. Several processes of one machine
share the file (write-ahead log, so that readers and the one writer do not wait for each
other); it must not lie on a network file system.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path

from rtunnel.errors import RegistryError
from rtunnel.ownership import give_to_owner
from rtunnel.registry.interface import Entry, check_entry

#: Seconds to wait for another process that is writing, which takes milliseconds. A
#: proxy that stops may have to wait this long for each of its last writes.
BUSY_TIMEOUT = 2.0

#: Of the schema that this version reads and writes.
SCHEMA_VERSION = 1

_APPLICATION_ID = 0x7274756E

#: Above every character of a key, which are ASCII and printable.
_AFTER_ALL = "\x7f"


class SqliteFile:
    """The entries in one file. Opened at the first use, and anew after any failure.

    Every method raises :class:`~rtunnel.errors.RegistryError` when the file cannot be
    used.

    :param path: the file; made, with mode 0600, when there is none.
    :param now: wall clock, seconds since the epoch, the same for all processes.
    :param busy_timeout: seconds to wait for another process that is writing.
    """

    def __init__(
        self,
        path: Path,
        now: Callable[[], float],
        busy_timeout: float = BUSY_TIMEOUT,
    ) -> None:
        self._path = path
        self._now = now
        self._busy_timeout = busy_timeout
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._data_version = -1
        self._revision_seen = -1
        self._revision_written = -1
        self._next_expiry: float | None = None

    def open(self) -> None:
        """Open the file, or find out why that cannot be."""
        with self._reading():
            pass

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        connection, self._connection = self._connection, None
        self._data_version = -1
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def get(self, key: str) -> Entry | None:
        """See :meth:`rtunnel.registry.interface.Registry.get`."""
        check_entry(key)
        with self._reading() as connection:
            return self._get(connection, key)

    def list(self, prefix: str) -> tuple[Entry, ...]:
        """See :meth:`rtunnel.registry.interface.Registry.list`."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT key, value, revision FROM entry"
                " WHERE key >= ? AND key < ? AND (expires IS NULL OR expires > ?)"
                " ORDER BY key",
                (prefix, prefix + _AFTER_ALL, self._now()),
            )
            return tuple(Entry(*row) for row in rows)

    def put(self, key: str, value: str, ttl: float | None = None) -> Entry:
        """See :meth:`rtunnel.registry.interface.Registry.put`."""
        check_entry(key, value)
        with self._writing() as connection:
            return self._put(connection, key, value, ttl)

    def compare_and_swap(
        self, key: str, value: str, revision: int | None, ttl: float | None = None
    ) -> Entry | None:
        """See :meth:`rtunnel.registry.interface.Registry.compare_and_swap`."""
        check_entry(key, value)
        with self._writing() as connection:
            present = self._get(connection, key)
            if (None if present is None else present.revision) != revision:
                return None
            return self._put(connection, key, value, ttl)

    def delete(self, key: str, revision: int | None = None) -> bool:
        """See :meth:`rtunnel.registry.interface.Registry.delete`."""
        check_entry(key)
        with self._writing() as connection:
            present = self._get(connection, key)
            if present is None or revision not in (None, present.revision):
                return False
            connection.execute("DELETE FROM entry WHERE key = ?", (key,))
            self._next_revision(connection)
            return True

    def has_changed(self) -> bool:
        """Whether an entry was written, removed or ran out since the last call.

        What this object itself did in between does not count. Cheap when
        nothing happened: it reads no table then.
        """
        self._notice_replaced_file()
        with self._reading() as connection:
            version = connection.execute("PRAGMA data_version").fetchone()[0]
            now = self._now()
            ran_out = self._next_expiry is not None and self._next_expiry <= now
            if version == self._data_version and not ran_out:
                return False
            # In this order: what is written between the two is seen the next time.
            self._data_version = version
            revision, self._next_expiry = connection.execute(
                "SELECT revision, (SELECT min(expires) FROM entry WHERE expires > ?)"
                " FROM registry",
                (now,),
            ).fetchone()
            changed = ran_out or revision != self._revision_seen
            self._revision_seen = revision
            return changed

    def _get(self, connection: sqlite3.Connection, key: str) -> Entry | None:
        row = connection.execute(
            "SELECT key, value, revision FROM entry"
            " WHERE key = ? AND (expires IS NULL OR expires > ?)",
            (key, self._now()),
        ).fetchone()
        return None if row is None else Entry(*row)

    def _put(
        self, connection: sqlite3.Connection, key: str, value: str, ttl: float | None
    ) -> Entry:
        revision = self._next_revision(connection)
        expires = None if ttl is None else self._now() + ttl
        connection.execute(
            "INSERT OR REPLACE INTO entry (key, value, revision, expires)"
            " VALUES (?, ?, ?, ?)",
            (key, value, revision, expires),
        )
        return Entry(key, value, revision)

    def _next_revision(self, connection: sqlite3.Connection) -> int:
        connection.execute("UPDATE registry SET revision = revision + 1")
        row = connection.execute("SELECT revision FROM registry").fetchone()
        revision: int = row[0]
        self._revision_written = revision
        return revision

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._connection is None:
                self._connection = self._opened()
            yield self._connection
        except sqlite3.Error as error:
            # Another try may find another file, or the same one repaired.
            self.close()
            raise RegistryError(self._explained(error)) from error
        except OSError as error:
            self.close()
            raise RegistryError(
                f"registry {self._path}: {error.strerror or error}"
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection:
            # IMMEDIATE: what is read below is still so when it is written.
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.execute(
                    "DELETE FROM entry WHERE expires <= ?", (self._now(),)
                )
                yield connection
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            # PRAGMA data_version does not speak of this connection's own writes. Who
            # wrote knows of the write; it is news only if others wrote before it.
            self._data_version = -1
            if self._revision_written == self._revision_seen + 1:
                self._revision_seen = self._revision_written

    def _opened(self) -> sqlite3.Connection:
        # Made here and not by SQLite, for the mode; its other files follow this one.
        # A file that exists is not opened here: closing it would take away the locks
        # of every other connection of this process (sqlite.org/howtocorrupt.html 2.2).
        with suppress(FileExistsError):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            try:
                give_to_owner(descriptor, self._path)
            finally:
                os.close(descriptor)
        self._identity = _identity(self._path)
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._data_version = -1
        self._revision_seen = -1
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = self._version(connection)
        self._use_write_ahead_log(connection)
        # A crash of the machine may lose the newest writes, and never the file. All
        # but tokens is written again within seconds.
        connection.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            connection.executescript(_schema(SCHEMA_VERSION))

    def _use_write_ahead_log(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                # Several processes begin with a new file at once; one of them changes
                # the mode, and SQLite does not make the others wait for that.
                busy = _code(error) == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() >= deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of the schema in the file; 0 is an empty file."""
        # As of one moment: another process may be making the file just now.
        connection.execute("BEGIN")
        try:
            tables: int = connection.execute(
                "SELECT count(*) FROM sqlite_master"
            ).fetchone()[0]
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            application: int = connection.execute("PRAGMA application_id").fetchone()[0]
        finally:
            connection.execute("COMMIT")
        if (application, version, tables) == (0, 0, 0):
            return 0
        if application != _APPLICATION_ID:
            raise RegistryError(
                f"registry {self._path}: the file is an SQLite database of some other "
                "program; name another file"
            )
        if version != SCHEMA_VERSION:
            raise RegistryError(
                f"registry {self._path}: the file is of version {version}, and this "
                f"rtunnel reads version {SCHEMA_VERSION}; use one release of rtunnel "
                "for all proxies of this machine"
            )
        return version

    def _notice_replaced_file(self) -> None:
        """Somebody may have moved the file away, and a new one may be in its place."""
        if self._connection is None:
            return
        try:
            replaced = _identity(self._path) != self._identity
        except OSError:
            replaced = True
        if replaced:
            self.close()

    def _explained(self, error: sqlite3.Error) -> str:
        code = _code(error)
        where = f"registry {self._path}"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"{where}: another process keeps the file locked"
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return (
                f"{where}: the file is damaged ({error}); move it away, "
                "and the proxies make a new one"
            )
        if code == sqlite3.SQLITE_FULL:
            return f"{where}: the disk is full"
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            return (
                f"{where}: {error}; the proxy must be able to write to this file and "
                "to its directory"
            )
        return f"{where}: {error}"


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _code(error: sqlite3.Error) -> int:
    """The primary result code; sqlite.org/rescode.html, the low byte."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _schema(version: int) -> str:
    package = resources.files("rtunnel.registry")
    return package.joinpath("schema", f"v{version}.sql").read_text("utf-8")
