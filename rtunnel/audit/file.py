"""The descriptor under the audit log: where the chain ends, and appending to it."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from rtunnel.audit.chain import last_link
from rtunnel.ownership import give_to_owner

#: Bytes at the end of a file in which its newest link is looked for. No line is longer.
TAIL: Final = 256 * 1024

#: Seconds to wait for another process to finish its line, and between two looks.
LOCK_WAIT: Final = 1.0
LOCK_POLL: Final = 0.001


@attrs.frozen
class AuditPath:
    """A file to be verified; compressed with gzip, if its name ends in ``.gz``."""

    path: Path

    @property
    def name(self) -> str:
        """For people."""
        return str(self.path)

    def lines(self) -> Iterator[bytes]:
        """Its lines, with their newlines.

        :raises OSError: when it cannot be read.
        """
        is_compressed = self.path.suffix == ".gz"
        with gzip.open(self.path) if is_compressed else self.path.open("rb") as file:
            try:
                yield from file
            except (EOFError, zlib.error) as error:
                raise OSError(errno.EIO, str(error), str(self.path)) from error


@attrs.frozen
class End:
    """Where the next line goes.

    :param link: that it follows; None when there is none to be found.
    :param between: what the file holds since that one, with ``newline``.
    :param newline: what has to come first, because the file ends within a line.
    """

    link: str | None
    between: bytes = b""
    newline: bytes = b""


class AuditFile:
    """A file that is open for appending, by several processes at a time.

    :param path: the file; made with mode 0600 when there is none.
    :raises OSError: when it cannot be opened.
    :ivar identity: device and inode.
    """

    def __init__(self, path: Path) -> None:
        # NONBLOCK: a path that is no plain file must not make the reactor wait.
        flags = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            self._descriptor = os.open(path, flags | os.O_CREAT, 0o600)
        else:
            with suppress(OSError):
                give_to_owner(self._descriptor, path)
        status = os.fstat(self._descriptor)
        self.identity = status.st_dev, status.st_ino
        # What is no plain file cannot be read back; the chain is what we remember.
        self._is_plain = stat.S_ISREG(status.st_mode)
        self._link: str | None = None
        # Its size when :meth:`end` was asked.
        self._seen = 0
        #: Size of the file after our own newest line; None when we cannot know.
        self._size: int | None = None

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def is_deleted(self) -> bool:
        """Whether nobody will ever read what is written to it."""
        return self._is_plain and os.fstat(self._descriptor).st_nlink == 0

    @contextmanager
    def locked(self, wait: bool) -> Iterator[None]:
        """Keep other processes from appending meanwhile.

        :param wait: whether to wait, :data:`LOCK_WAIT` at most, for one that does.
        :raises OSError: when one still does.
        """
        deadline = time.monotonic() + (LOCK_WAIT if wait else 0)
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise OSError(
                        errno.EWOULDBLOCK, "another process has locked the file"
                    ) from None
                time.sleep(LOCK_POLL)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def end(self) -> End:
        """Where the next line goes.

        :raises OSError: when the file cannot be read.
        """
        if not self._is_plain:
            return End(self._link)
        self._seen = size = os.fstat(self._descriptor).st_size
        if size == self._size:
            return End(self._link)
        tail = os.pread(self._descriptor, TAIL, max(0, size - TAIL))
        newline = b"" if not tail or tail.endswith(b"\n") else b"\n"
        # With its newline, for it may be all that a line lacks.
        newest, between = last_link(tail + newline)
        return End(newest, between, newline)

    def append(self, data: bytes, link: str) -> int:
        """Append in one write, and return how many bytes were written.

        :param link: the newest link, once they are there.
        :raises OSError: when none was.
        """
        # With O_APPEND one write is not mixed with the lines of other programs either.
        written = os.write(self._descriptor, data)
        self._link = link
        self._size = self._seen + written
        return written

    def newest_link(self) -> str | None:
        """The newest link, as far as it can be read now."""
        try:
            return self.end().link
        except OSError:
            return self._link

    def forget_end(self) -> None:
        """The newest write failed: look at the file before the next."""
        self._size = None
