"""The audit file: lines are appended, and nothing that happens to it harms a caller."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from twisted.logger import Logger

from rtunnel.audit.events import Event, event_line

_log = Logger()


class AuditLog:
    """Writes events to a file that several processes may append to.

    A full disk or an unwritable file loses events, which are counted; it is logged
    once when that begins and once when it ends.

    :param path: the file; made with mode 0600 when there is none.
    :param now: wall clock, seconds since the epoch.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._path = path
        self._now = now
        self._descriptor: int | None = None
        #: Whether the file ends in the middle of a line.
        self._torn = False
        self._lost_in_a_row = 0
        #: Events that could not be written since this object was made.
        self.lost = 0

    def record(self, event: Event) -> None:
        """Append an event. Never raises for what the file or the disk does."""
        line = event_line(event, self._now()).encode("utf-8")
        try:
            self._append(line)
        except OSError as error:
            self._event_lost(error)
        else:
            self._event_written()

    def reopen(self) -> None:
        """Go on in a new file when the old one was moved away (log rotation)."""
        self.close()

    def close(self) -> None:
        """Close the file; the next event opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, line: bytes) -> None:
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            # NONBLOCK: a path that is no plain file must not make the reactor wait.
            self._descriptor = os.open(self._path, flags | os.O_NONBLOCK, 0o600)
            self._torn = _is_torn(self._descriptor)
        if self._torn:
            line = b"\n" + line
        # One write for the whole line: with O_APPEND it is not mixed with the lines of
        # other processes.
        written = os.write(self._descriptor, line)
        if written < len(line):
            self._torn = True
            raise OSError(f"{written} of {len(line)} bytes were written")
        self._torn = False

    def _event_lost(self, error: OSError) -> None:
        self.lost += 1
        self._lost_in_a_row += 1
        if self._lost_in_a_row == 1:
            _log.error(
                "audit events are being lost: cannot write {path}: {reason}",
                path=str(self._path),
                reason=error.strerror or str(error),
            )

    def _event_written(self) -> None:
        if self._lost_in_a_row:
            _log.warn(
                "audit events are written again to {path}; {count} were lost",
                path=str(self._path),
                count=self._lost_in_a_row,
            )
            self._lost_in_a_row = 0


def _is_torn(descriptor: int) -> bool:
    """Whether an earlier writer was interrupted in the middle of a line."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return False
    return os.pread(descriptor, 1, status.st_size - 1) != b"\n"
