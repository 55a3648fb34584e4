"""Whether audit files are as they were written: what ``rtunnel audit verify`` does.

Pure: the files come as lines. See :mod:`rtunnel.audit.chain` for what is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, Protocol

import attrs

from rtunnel.audit.chain import ORIGIN, link, split_link
from rtunnel.audit.events import AuditGap, AuditLeftOut, AuditStarted
from rtunnel.counting import counted
from rtunnel.errors import RtunnelError
from rtunnel.naming import printable

_INSERTED: Final = "was inserted"
_CONTINUES: Final = re.compile(r"continues ([0-9a-f]{64})")


class AuditFileBroken(RtunnelError):
    """An audit file is not as it was written; says which line of which file."""


class AuditSource(Protocol):
    """One file."""

    @property
    def name(self) -> str:
        """For people."""

    def lines(self) -> Iterator[bytes]:
        """Its lines from the first, with their newlines; may be asked again."""


@attrs.frozen
class AuditReport:
    """Files that are as they were written.

    :param lines: events in all of them, those that tell of the file itself included.
    :param head: the newest ``chain``.
    :param notes: what else there is to know, a sentence each.
    """

    lines: int
    head: str
    notes: tuple[str, ...]


def verify(
    sources: Sequence[AuditSource], expected: Collection[str] = ()
) -> AuditReport:
    """Check that every line follows the one before it.

    :param sources: the files, the oldest first.
    :param expected: ``chain`` values that were kept elsewhere, and have to be there.
    :raises AuditFileBroken: naming the first line that is not as it was written.
    """
    verification = _Verification(sources, set(expected))
    return verification.report()


@attrs.define
class _Pending:
    """Lines without a link since the last one that had one."""

    first: int
    content: bytes = b""
    count: int = 0


class _Verification:
    """The walk through the files."""

    def __init__(self, sources: Sequence[AuditSource], missing: set[str]) -> None:
        self._sources = sources
        self._missing = missing
        self._previous: str | None = None
        self._count = 0
        self._notes: list[str] = []
        #: Lines of the present file that tell of events without a line, and what.
        self._left_out: list[tuple[int, str]] = []
        #: The end of each file but the last, until a later one goes on from there.
        self._ends: dict[str, str] = {}

    def report(self) -> AuditReport:
        for index, source in enumerate(self._sources):
            if self._previous is not None:
                self._ends[self._previous] = self._sources[index - 1].name
            self._walk(index, source)
        if self._previous is None:
            names = ", ".join(source.name for source in self._sources)
            raise AuditFileBroken(f"{names}: there is no line with a chain value")
        for name in self._ends.values():
            self._notes.append(
                f"{name}: no later file goes on from its last line, so that lines may "
                "be missing at its end"
            )
        if self._missing:
            raise AuditFileBroken(
                f"{self._sources[-1].name}: no line has the chain value "
                f"{printable(min(self._missing), 80)}: lines at the end were removed, "
                "or everything was written anew"
            )
        return AuditReport(self._count, self._previous, tuple(self._notes))

    def _walk(self, index: int, source: AuditSource) -> None:
        pending = _Pending(1)
        self._left_out.clear()
        begun = False
        number = 0
        for number, line in enumerate(source.lines(), 1):
            if not line.endswith(b"\n"):
                # Whoever writes the next line ends this one, torn or not.
                line += b"\n"
            split = split_link(line)
            if split is None:
                if begun and _is_event(line):
                    _broken(
                        source, number, "has no chain value: it was changed or inserted"
                    )
                pending.content += line if begun else b""
                pending.count += 1
                continue
            content, value = split
            if not begun:
                self._begin(index, number, content, pending.count)
                begun = True
            assert self._previous is not None
            if link(self._previous, pending.content + content) != value:
                self._explain(index, number, content, value, pending)
            if pending.count and pending.content:
                self._note_torn(source, pending)
            self._passed(source, number, content, value)
            pending = _Pending(number + 1)
        self._note_left_out(source)
        if begun and pending.count:
            self._note_torn(source, pending)
        elif number and not begun:
            self._notes.append(f"{source.name}: no line has a chain value")

    def _passed(
        self, source: AuditSource, number: int, content: bytes, value: str
    ) -> None:
        """A line is as it was written."""
        self._previous = value
        self._count += 1
        self._missing.discard(value)
        if b'"audit_' not in content:
            return
        event = _event(content)
        if event.get("event") == AuditStarted.event:
            continued = _CONTINUES.fullmatch(str(event.get("reason")))
            if continued is not None:
                self._ends.pop(continued[1], None)
        elif event.get("event") == AuditGap.event:
            reason = printable(str(event.get("reason")))
            self._notes.append(f"{source.name}: line {number}: {reason}")
        elif event.get("event") == AuditLeftOut.event:
            self._left_out.append((number, printable(str(event.get("reason")))))

    def _begin(self, index: int, number: int, content: bytes, older: int) -> None:
        """The first line of a file that is in the chain."""
        source = self._sources[index]
        event = _event(content)
        if event.get("event") != AuditStarted.event:
            if older:
                _broken(source, 1, "was changed or inserted")
            _broken(
                source,
                number,
                "is not the first one that was written: lines before it were removed",
            )
        if older:
            self._notes.append(
                f"{source.name}: {counted(older, 'line is', 'lines are')} older than "
                "the chain, and not vouched for"
            )
        reason = str(event.get("reason"))
        continued = _CONTINUES.fullmatch(reason)
        if continued is None:
            self._previous = ORIGIN
            return
        if self._previous is None:
            self._notes.append(f"{source.name}: {printable(reason)}, in an older file")
        elif continued[1] not in self._values(index):
            _broken(
                source,
                number,
                f"goes on from a line that is not in {self._sources[index - 1].name}",
            )
        self._previous = continued[1]

    def _values(self, end: int) -> dict[str, int]:
        """The ``chain`` values of the files before one, and their line numbers."""
        return {
            split[1]: number
            for source in self._sources[:end]
            for number, line in enumerate(source.lines(), 1)
            if (split := split_link(line)) is not None
        }

    def _note_left_out(self, source: AuditSource) -> None:
        """A storm leaves many such lines; they are told as one."""
        if not self._left_out:
            return
        number, reason = self._left_out[0]
        more = len(self._left_out) - 1
        others = f" ({counted(more, 'more line')} like it)" if more else ""
        self._notes.append(f"{source.name}: line {number}: {reason}{others}")

    def _note_torn(self, source: AuditSource, pending: _Pending) -> None:
        self._notes.append(
            f"{source.name}: line {pending.first} is incomplete: its writer was stopped"
        )

    def _explain(
        self, index: int, number: int, content: bytes, value: str, pending: _Pending
    ) -> NoReturn:
        """Say what most likely happened to a line that does not follow the last."""
        source = self._sources[index]
        assert self._previous is not None
        if pending.count:
            inserted = link(self._previous, content) == value
            _broken(source, pending.first, _INSERTED if inserted else "was changed")
        if link(ORIGIN, content) == value:
            _broken(source, number, "begins a new chain: what was before it is unsure")
        # All of it at once: this happens once, and lines may have moved far.
        lines = list(source.lines())
        values = {
            split[1]: at
            for at, line in enumerate(lines, 1)
            if (split := split_link(line)) is not None and at != number
        }
        if values.get(value, number) < number:
            _broken(source, number, f"{_INSERTED}: it is line {values[value]} again")
        for before, at in values.items():
            if link(before, content) != value:
                continue
            if at > number:
                _broken(source, number, f"was moved: it follows line {at}")
            _broken(source, at + 1, f"{_INSERTED} or moved there")
        following = split_link(lines[number]) if number < len(lines) else None
        if following is not None and following[1] in (
            link(self._previous, following[0]),
            link(link(self._previous, content), following[0]),
        ):
            changed = following[1] != link(self._previous, following[0])
            _broken(source, number, "was changed" if changed else _INSERTED)
        _broken(source, number, "was changed, or lines just before it were removed")


def _broken(source: AuditSource, number: int, what: str) -> NoReturn:
    raise AuditFileBroken(f"{source.name}: line {number} {what}")


def _event(content: bytes) -> Mapping[str, Any]:
    """A line's fields; none when it is no object.

    :param content: the line up to its ``chain``.
    """
    try:
        event = json.loads(content + b"}")
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def _is_event(line: bytes) -> bool:
    """Whether it is a whole line, which only lacks its link."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
