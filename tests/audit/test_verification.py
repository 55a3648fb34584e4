"""What ``rtunnel audit verify`` finds out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.chain import ORIGIN, linked
from rtunnel.audit.events import (
    AuditGap,
    AuditLeftOut,
    AuditStarted,
    Event,
    ProxyStarted,
    event_line,
)
from rtunnel.audit.verification import (
    AuditFileBroken,
    AuditReport,
    verify,
)

NEW = AuditStarted(proxy="p-1", reason="a new chain")


@attrs.frozen
class Lines:
    """A file that is none."""

    content: Sequence[bytes]
    name: str = "audit.jsonl"

    def lines(self) -> Iterator[bytes]:
        return iter(self.content)


def written(*events: Event, previous: str = ORIGIN) -> tuple[list[bytes], str]:
    """Lines as the log writes them, and the newest link."""
    lines = []
    for number, event in enumerate(events):
        line = event_line(event, number).encode()
        line, previous = linked(line, previous)
        lines.append(line)
    return lines, previous


def some(count: int) -> list[Event]:
    """Events that differ."""
    return [ProxyStarted(proxy=f"p-{number}") for number in range(count)]


class VerifyTests(SynchronousTestCase):
    """Files as they were written, and others."""

    def setUp(self) -> None:
        self.lines, self.head = written(NEW, *some(9))

    def check(self, lines: Sequence[bytes], *expected: str) -> AuditReport:
        return verify([Lines(lines)], expected)

    def complaint(self, lines: Sequence[bytes], *expected: str) -> str:
        error = self.assertRaises(AuditFileBroken, self.check, lines, *expected)
        return str(error)

    def test_a_file_as_it_was_written(self) -> None:
        """How many lines, and the newest value, to be kept elsewhere."""
        self.assertEqual(self.check(self.lines), AuditReport(10, self.head, ()))

    def test_a_changed_line_is_named(self) -> None:
        """Whichever it is, and whatever was changed in it."""
        for number, line in enumerate(self.lines[:-1], 1):
            for old, new in (
                (b"1970", b"1971"),
                (b'"ok"', b'"no"'),
                (b"{", b"{ "),
                (b'"chain": "', b'"chain": "f'),
                (b'"chain"', b'"cain"'),
                (b"}\n", b"}\r\n"),
                (b"}\n", b"\n"),
            ):
                lines = list(self.lines)
                lines[number - 1] = line.replace(old, new, 1)
                said = self.complaint(lines)
                self.assertIn(f"audit.jsonl: line {number} ", said, new)

    def test_the_last_line_changed(self) -> None:
        """Nothing follows that would vouch for it, but its own value does."""
        self.lines[-1] = self.lines[-1].replace(b'"ok"', b'"no"')
        self.assertIn("line 10 was changed", self.complaint(self.lines))

    def test_a_changed_value_is_a_changed_line(self) -> None:
        """The line itself is right."""
        old = self.lines[3]
        self.lines[3] = old[:-10] + (b"aaaaaaa" if b"aaaaaaa" not in old else b"b" * 7)
        self.lines[3] += old[-3:]
        self.assertIn("line 4 was changed", self.complaint(self.lines))

    def test_removed_lines_are_missed(self) -> None:
        """One or several, from the middle or from the beginning."""
        for first, count in ((2, 1), (5, 3), (8, 1)):
            lines = self.lines[:first] + self.lines[first + count :]
            said = self.complaint(lines)
            self.assertIn(f"line {first + 1} ", said)
            self.assertIn("removed", said)
        self.assertIn("line 1 is not the first", self.complaint(self.lines[1:]))
        self.assertIn("line 1 is not the first", self.complaint(self.lines[5:]))

    def test_removed_lines_at_the_end_take_a_value_that_was_kept(self) -> None:
        """The file alone cannot show it, and says so by what its head is."""
        report = self.check(self.lines[:-2])
        self.assertNotEqual(report.head, self.head)
        said = self.complaint(self.lines[:-2], self.head)
        self.assertIn(self.head, said)
        self.assertIn("removed", said)

    def test_a_value_that_was_kept_may_be_followed_by_more(self) -> None:
        """The file goes on growing."""
        kept = self.check(self.lines[:5]).head
        self.assertEqual(self.check(self.lines, kept, self.head).lines, 10)

    def test_inserted_lines_are_named(self) -> None:
        """Forged with a value, without one, copied, or no line at all."""
        forged = linked(event_line(ProxyStarted(proxy="x"), 0).encode(), "a" * 64)[0]
        bare = event_line(ProxyStarted(proxy="x"), 0).encode()
        for line in (forged, bare, self.lines[2], b"rubbish\n", b"\n"):
            for at in (3, 7):
                lines = [*self.lines[:at], line, *self.lines[at:]]
                said = self.complaint(lines)
                self.assertIn(f"line {at + 1} ", said)
                self.assertIn("inserted", said)

    def test_an_inserted_line_that_follows_is_noticed_by_the_next(self) -> None:
        """The chain has no secret: anybody can make one line fit."""
        _, value = written(NEW, *some(3))
        forged = linked(event_line(ProxyStarted(proxy="x"), 0).encode(), value)[0]
        said = self.complaint([*self.lines[:4], forged, *self.lines[4:]])
        self.assertIn("line 5 was inserted", said)

    def test_moved_lines_are_named(self) -> None:
        """Up or down, next to each other or not."""
        for first, second in ((3, 4), (2, 7)):
            lines = list(self.lines)
            lines[first], lines[second] = lines[second], lines[first]
            said = self.complaint(lines)
            self.assertIn(f"line {first + 1} ", said)
            self.assertIn("moved", said)

    def test_a_chain_that_begins_anew_in_the_middle(self) -> None:
        """That would hide whatever was done before."""
        anew, _ = written(NEW, *some(2))
        said = self.complaint([*self.lines[:5], *anew])
        self.assertIn("line 6 begins a new chain", said)

    def test_half_a_line_that_was_vouched_for(self) -> None:
        """A process was killed; it is told, and no fault."""
        torn = b'{"time": "2026-\n'
        line, head = linked(
            event_line(ProxyStarted(proxy="after"), 0).encode(), self.head, torn
        )
        report = self.check([*self.lines, torn, line])
        self.assertEqual((report.lines, report.head), (11, head))
        self.assertEqual(
            report.notes,
            ("audit.jsonl: line 11 is incomplete: its writer was stopped",),
        )
        self.assertIn("line 11 was ", self.complaint([*self.lines, b"other\n", line]))
        self.assertIn("line 11 was ", self.complaint([*self.lines, line]))

    def test_half_a_line_at_the_end(self) -> None:
        """Nothing vouches for it yet."""
        report = self.check([*self.lines, b'{"time'])
        self.assertEqual(report.head, self.head)
        self.assertIn("line 11 is incomplete", report.notes[0])

    def test_a_line_that_lacks_no_more_than_its_end_is_whole(self) -> None:
        """What it says is all there."""
        *before, last = self.lines
        report = self.check([*before, last[:-1]])
        self.assertEqual((report.lines, report.head), (10, self.head))
        self.assertEqual(report.notes, ())
        spoilt = last[:-1].replace(b"p-8", b"p-9")
        self.assertIn("line 10 was changed", self.complaint([*before, spoilt]))

    def test_a_bare_event_at_the_end_is_no_half_line(self) -> None:
        """Somebody else wrote it."""
        bare = event_line(ProxyStarted(proxy="x"), 0).encode()
        self.assertIn("line 11 has no chain", self.complaint([*self.lines, bare]))

    def test_lines_from_before_there_was_a_chain(self) -> None:
        """They stay readable, and are told to be unsure."""
        old = [event_line(event, 0).encode() for event in some(3)]
        report = self.check([*old, *self.lines])
        self.assertEqual(report.lines, 10)
        self.assertIn("3 lines are older than the chain", report.notes[0])

    def test_events_that_were_lost_are_told(self) -> None:
        """They are no fault of the file."""
        gap = AuditGap(proxy="p", reason="3 events could not be written: full")
        lines, _ = written(NEW, *some(2), gap)
        report = self.check(lines)
        self.assertEqual(
            report.notes,
            ("audit.jsonl: line 4: 3 events could not be written: full",),
        )

    def test_events_that_were_left_out_are_told_once(self) -> None:
        """A storm leaves a line every few seconds."""
        left_out = AuditLeftOut(proxy="p", reason="9 login_refused", seconds=10)
        lines, _ = written(NEW, *some(2), left_out)
        self.assertEqual(
            self.check(lines).notes, ("audit.jsonl: line 4: 9 login_refused",)
        )
        lines, _ = written(NEW, left_out, *some(2), left_out, left_out)
        self.assertEqual(
            self.check(lines).notes,
            ("audit.jsonl: line 2: 9 login_refused (2 more lines like it)",),
        )

    def test_a_file_without_a_chain(self) -> None:
        """There is nothing to be verified."""
        self.assertIn("no line with a chain", self.complaint([b"hello\n"]))
        self.assertIn("no line with a chain", self.complaint([]))

    @settings(deadline=None, max_examples=100)
    @given(st.data())
    def test_nothing_that_is_done_to_the_lines_goes_unnoticed(
        self, data: st.DataObject
    ) -> None:
        """Bytes changed anywhere but at the very end."""
        lines, head = written(NEW, *some(5))
        whole = b"".join(lines)
        at = data.draw(st.integers(0, len(whole) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda b: b != whole[at]))
        spoilt = whole[:at] + bytes([byte]) + whole[at + 1 :]
        self.assertRaises(
            AuditFileBroken, self.check, spoilt.splitlines(keepends=True), head
        )


class RotationTests(SynchronousTestCase):
    """Several files, the oldest first."""

    def setUp(self) -> None:
        self.first, self.first_head = written(NEW, *some(3))
        self.second, self.head = written(
            AuditStarted(proxy="p-1", reason=f"continues {self.first_head}"),
            *some(3),
            previous=self.first_head,
        )

    def check(self, *files: Sequence[bytes]) -> AuditReport:
        return verify(
            [Lines(lines, f"audit.{number}") for number, lines in enumerate(files, 1)]
        )

    def complaint(self, *files: Sequence[bytes]) -> str:
        return str(self.assertRaises(AuditFileBroken, self.check, *files))

    def test_a_file_goes_on_where_the_last_one_ended(self) -> None:
        """So the older one is complete."""
        report = self.check(self.first, self.second)
        self.assertEqual(report, AuditReport(8, self.head, ()))

    def test_the_newer_file_alone(self) -> None:
        """It says what it goes on from."""
        report = self.check(self.second)
        self.assertEqual((report.lines, report.head), (4, self.head))
        self.assertIn(f"continues {self.first_head}", report.notes[0])

    def test_lines_missing_at_the_end_of_the_older_file(self) -> None:
        """The newer one goes on from one of them."""
        said = self.complaint(self.first[:-1], self.second)
        self.assertIn("audit.2: line 1 goes on from a line that is not in", said)

    def test_files_in_the_wrong_order(self) -> None:
        """Or the wrong files."""
        said = self.complaint(self.second[1:], self.first)
        self.assertIn("audit.1: line 1 is not the first", said)
        notes = self.check(self.second, self.first).notes
        self.assertIn("audit.1: no later file goes on from its last line", notes[-1])

    def test_two_processes_that_moved_on_one_after_the_other(self) -> None:
        """The second one wrote to the old file for a while, and says where it left."""
        late, late_head = written(*some(2), previous=self.first_head)
        came, _ = written(
            AuditStarted(proxy="p-2", reason=f"continues {late_head}"),
            *some(2),
            previous=self.head,
        )
        first, second = [*self.first, *late], [*self.second, *came]
        self.assertEqual(self.check(first, second).notes, ())
        self.assertIn("no later file", self.check(first, self.second).notes[0])
