"""The audit file: lines are appended, and nothing that happens to it harms a caller."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import attrs
from twisted.logger import Logger

from rtunnel.audit.chain import ORIGIN, linked
from rtunnel.audit.events import AuditGap, AuditStarted, Event, event_line
from rtunnel.audit.file import AuditFile, End
from rtunnel.counting import counted

_log = Logger()


@attrs.frozen
class _Left:
    """The file that was written to before, and its newest link."""

    link: str
    identity: tuple[int, int]


class AuditLog:
    """Writes events to a file that several processes may append to.

    A full disk or an unwritable file loses events, which are counted; it is logged
    once when that begins and once when it ends, and the first line that can be written
    again says how many are missing.

    :param path: the file; made with mode 0600 when there is none.
    :param now: wall clock, seconds since the epoch.
    :param proxy: id of the proxy that writes.
    """

    def __init__(
        self, path: Path, now: Callable[[], float], proxy: str | None = None
    ) -> None:
        self._path = path
        self._now = now
        self._proxy = proxy
        self._file: AuditFile | None = None
        self._left: _Left | None = None
        self._unrecorded = 0
        self._lost_in_a_row = 0
        #: Events that could not be written since this object was made.
        self.lost = 0
        #: Why the newest event could not be written; None when it could.
        self.problem: str | None = None

    def record(self, event: Event) -> bool:
        """Append an event. Never raises for what the file or the disk does.

        :return: whether it was written.
        """
        return self._try(event)

    def retry(self) -> None:
        """If events are being lost: see whether they still are."""
        if self.problem is not None:
            self._try(None)

    def reopen(self) -> None:
        """Go on in a new file when the old one was moved away (log rotation)."""
        self.close()

    def close(self) -> None:
        """Close the file; the next event opens it again."""
        if self._file is not None:
            newest = self._file.newest_link()
            if newest is not None:
                self._left = _Left(newest, self._file.identity)
            self._file.close()
            self._file = None

    def _try(self, event: Event | None) -> bool:
        try:
            self._append(event)
        except OSError as error:
            self._event_lost(error, 0 if event is None else 1)
            return False
        self._event_written()
        return True

    def _append(self, event: Event | None) -> None:
        if self._file is not None and self._file.is_deleted():
            self.close()
        if self._file is None:
            self._file = AuditFile(self._path)
        file = self._file
        # Whoever stopped in the middle of a line may hold the lock for long: wait for
        # it once, not for each event.
        with file.locked(wait=self.problem is None):
            end = file.end()
            notes = self._notes(file, begins=end.link is None)
            events = notes if event is None else [*notes, event]
            data, newest = self._lines(events, end)
            written = file.append(b"".join([end.newline, *data]), newest)
        length = len(end.newline)
        for line, each in zip(data, events, strict=True):
            length += len(line)
            if written >= length and isinstance(each, AuditGap):
                self._unrecorded = 0
        if written < length:
            raise OSError(
                errno.ENOSPC,
                f"no room for {counted(length - written, 'byte')} of {length}",
            )
        self._left = None

    def _notes(self, file: AuditFile, *, begins: bool) -> list[Event]:
        """What has to be said before the next event."""
        notes: list[Event] = []
        left = self._left
        if begins or (left is not None and left.identity != file.identity):
            reason = "a new chain" if left is None else f"continues {left.link}"
            notes.append(AuditStarted(proxy=self._proxy, reason=reason))
        if self._unrecorded:
            lost = counted(self._unrecorded, "event")
            reason = f"{lost} could not be written: {self.problem}"
            notes.append(AuditGap(proxy=self._proxy, reason=reason))
        return notes

    def _lines(self, events: list[Event], end: End) -> tuple[list[bytes], str]:
        """The events as lines, and the newest link."""
        previous, between = end.link, end.between
        if previous is None:
            # Lines that are older than the chain are not vouched for.
            previous = ORIGIN if self._left is None else self._left.link
            between = b""
        lines = []
        for event in events:
            line = event_line(event, self._now()).encode("utf-8")
            line, previous = linked(line, previous, between)
            lines.append(line)
            between = b""
        return lines, previous

    def _event_lost(self, error: OSError, count: int) -> None:
        if self._file is not None:
            self._file.forget_end()
        began = self.problem is None
        self.problem = error.strerror or str(error)
        self.lost += count
        self._lost_in_a_row += count
        self._unrecorded += count
        if began:
            _log.error(
                "audit events are being lost: cannot write {path}: {reason}",
                path=str(self._path),
                reason=self.problem,
            )

    def _event_written(self) -> None:
        if self.problem is not None:
            _log.warn(
                "audit events are written again to {path}; {lost} lost",
                path=str(self._path),
                count=self._lost_in_a_row,
                lost=counted(self._lost_in_a_row, "was", "were"),
            )
            self.problem = None
            self._lost_in_a_row = 0
