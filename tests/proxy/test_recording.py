"""Proxies whose audit file cannot be written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.events import JoinRefused, LoginRefused, ProxyStarted
from rtunnel.audit.file import AuditPath
from rtunnel.audit.log import AuditLog
from rtunnel.audit.verification import verify
from rtunnel.errors import OPEN_RESOURCE_SHORTAGE, ConnectionFailed, OpenRefused
from rtunnel.proxy.recording import RETRY, TELL_AFTER, Recording
from rtunnel.proxy.refusal_rate import RefusalRate
from tests.proxy.running import EVERYTHING, ProxyTestCase

STARTED = ProxyStarted(proxy="p-1")
FULL = "audit.path='/dev/full'"


class RecordingTests(SynchronousTestCase):
    """:class:`Recording`, with a directory where the file should be."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.mkdir()
        self.clock = Clock()

    def recording(self, *, required: bool) -> Recording:
        audit = AuditLog(self.path, lambda: 0.0)
        recording = Recording(
            audit,
            RefusalRate(10, 100, self.clock.seconds(), "p-1"),
            self.clock,
            lambda: 0.0,
            required=required,
        )
        recording.start()
        self.addCleanup(recording.stop)
        return recording

    def test_without_need_nothing_stops(self) -> None:
        """Losses are counted all the same."""
        recording = self.recording(required=False)
        self.assertTrue(recording.record(STARTED))
        self.assertIsNone(recording.problem)
        self.assertEqual(
            recording.status(),
            {
                "required": False,
                "lost": 1,
                "left_out": 0,
                "problem": "Is a directory",
            },
        )

    def test_with_need_it_stops_and_says_why(self) -> None:
        """Until a look at the file finds that it can be written."""
        recording = self.recording(required=True)
        self.assertIsNone(recording.problem)
        self.assertFalse(recording.record(STARTED))
        self.clock.advance(RETRY)
        self.assertEqual(
            recording.problem, "the audit file cannot be written: Is a directory"
        )
        self.path.rmdir()
        self.clock.advance(RETRY)
        self.assertIsNone(recording.problem)
        self.assertEqual(recording.status()["lost"], 1)
        self.assertTrue(recording.record(STARTED))


class RefusalTests(SynchronousTestCase):
    """:meth:`Recording.record_refusal`: two lines a second, three at once."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.clock = Clock()
        self.audit = AuditLog(self.path, self.clock.seconds, "p-1")
        self.recording = Recording(
            self.audit,
            RefusalRate(2, 3, self.clock.seconds(), "p-1"),
            self.clock,
            self.clock.seconds,
            required=False,
        )
        self.recording.start()

    def refuse(self, count: int) -> None:
        """So many strangers come, each from an address of its own."""
        for number in range(count):
            self.recording.record_refusal(
                LoginRefused(proxy="p-1", source=f"192.0.2.{number}", reason="no")
            )

    def events(self, path: Path | None = None) -> list[dict[str, Any]]:
        """What is in the file, but that it begins."""
        lines = (path or self.path).read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [each for each in events if each["event"] != "audit_started"]

    def counts(self) -> Counter[str]:
        """How many there are in the file of each event."""
        return Counter(event["event"] for event in self.events())

    def test_a_storm_leaves_few_lines_and_one_that_counts_the_others(self) -> None:
        """By event, and since when."""
        self.clock.advance(5)
        self.refuse(50)
        self.recording.record_refusal(
            JoinRefused(proxy="p-1", source="192.0.2.1", reason="no")
        )
        self.assertEqual(self.counts(), {"login_refused": 3})
        self.clock.advance(TELL_AFTER - 0.1)
        self.assertEqual(self.counts(), {"login_refused": 3})
        self.clock.advance(0.1)
        *_, told = self.events()
        self.assertEqual(
            [told[name] for name in ("event", "proxy", "outcome", "seconds")],
            ["audit_left_out", "p-1", "ok", TELL_AFTER],
        )
        self.assertEqual(
            told["reason"],
            "1 join_refused and 47 login_refused since 1970-01-01T00:00:05.000Z were "
            "left out, for there were more than 2 a second",
        )
        self.assertEqual(self.recording.status()["left_out"], 48)
        self.clock.advance(10 * TELL_AFTER)
        self.assertEqual(len(self.events()), 4)
        self.recording.stop()
        report = verify([AuditPath(self.path)])
        self.assertEqual((report.lines, len(report.notes)), (5, 1))

    def test_a_storm_that_lasts_is_held_to_the_rate(self) -> None:
        """However many come, and every one of them is in some count."""
        for _ in range(100):
            self.refuse(20)
            self.clock.advance(1)
        self.recording.stop()
        counts = self.counts()
        self.assertEqual(counts["login_refused"], 3 + 99 * 2)
        told = [e for e in self.events() if e["event"] == "audit_left_out"]
        self.assertEqual(len(told), 100 // TELL_AFTER)
        left_out = sum(int(each["reason"].split()[0]) for each in told)
        self.assertEqual(left_out + counts["login_refused"], 100 * 20)

    def test_who_is_known_is_never_left_out(self) -> None:
        """Nor does a storm of strangers cost such a line anything."""
        self.refuse(50)
        for _ in range(200):
            self.assertTrue(self.recording.record(STARTED))
        self.assertEqual(self.counts()["proxy_started"], 200)
        self.recording.stop()

    def test_the_count_is_told_before_the_file_is_closed(self) -> None:
        """No timer is left then."""
        self.refuse(10)
        self.recording.stop()
        self.assertEqual(self.counts()["audit_left_out"], 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_file_that_is_let_go_has_its_count(self) -> None:
        """The next one begins with none."""
        self.refuse(10)
        moved = self.path.rename(self.path.with_suffix(".1"))
        self.recording.reopen()
        self.assertEqual(self.events(moved)[-1]["event"], "audit_left_out")
        self.clock.advance(2 * TELL_AFTER)
        self.recording.record(STARTED)
        self.assertEqual(self.counts(), {"proxy_started": 1})
        self.recording.stop()

    def test_a_count_that_cannot_be_written_is_kept(self) -> None:
        """Until the file can be written again, however long that takes."""
        self.recording.record(STARTED)
        self.refuse(10)
        moved = self.path.rename(self.path.with_suffix(".1"))
        self.path.mkdir()
        self.recording._audit.reopen()
        self.clock.pump([1.0] * int(3 * TELL_AFTER))
        self.refuse(1)
        self.path.rmdir()
        self.clock.pump([1.0] * int(2 * TELL_AFTER))
        (told,) = (e for e in self.events() if e["event"] == "audit_left_out")
        self.assertEqual(told["reason"].split()[0], "7")
        self.recording.stop()
        verify([AuditPath(moved), AuditPath(self.path)])


class NotRequiredTests(ProxyTestCase):
    """Traffic never stops by default."""

    settings: Sequence[str] = (EVERYTHING, FULL)

    async def test_everything_works_on_a_full_disk(self) -> None:
        """And ``status`` says what is lost."""
        await self.agent_in_service()
        client = await self.client("alice")
        channel, received = await self.opened(client, "web1.b")
        channel.write(b"hello")
        await self.until(lambda: received.data == b"hello")
        audit = self.proxy.status()["audit"]
        self.assertEqual(audit["problem"], "No space left on device")
        self.assertGreaterEqual(audit["lost"], 4)
        self.assertIsNone(self.proxy.not_ready())


class Required(ProxyTestCase):
    """What both classes below need."""

    async def assert_nobody_gets_in(self) -> None:
        """Who dials hears why."""
        with self.assertRaises(ConnectionFailed) as caught:
            await self.client("bob")
        self.assertIn("cannot write its audit file", str(caught.exception))


class RequiredTests(Required):
    """Nothing new happens unrecorded, if that is what the operator wants."""

    settings: Sequence[str] = (EVERYTHING, "audit.required=true")

    def break_file(self) -> Path:
        """Put a directory in the place of the file; where that is now."""
        path = self.config.audit.path
        moved = path.rename(path.with_suffix(".1"))
        path.mkdir()
        self.proxy.reload()
        return moved

    async def test_nothing_new_until_it_can_be_written_again(self) -> None:
        """What is open goes on; and the file tells of the gap."""
        await self.agent_in_service()
        client = await self.client("alice")
        channel, received = await self.opened(client, "web1.b")
        moved = self.break_file()

        self.assertIn("Is a directory", self.proxy.not_ready() or "")
        await self.assert_nobody_gets_in()
        with self.assertRaises(OpenRefused) as caught:
            await self.open_target(client, "web1.b")
        self.assertEqual(caught.exception.reason_code, OPEN_RESOURCE_SHORTAGE)
        self.assertIn("cannot write its audit file", caught.exception.text)
        channel.write(b"hello")
        await self.until(lambda: received.data == b"hello")

        self.config.audit.path.rmdir()
        await self.until(lambda: self.proxy.not_ready() is None)
        await self.client("bob")
        await self.open_target(client, "web1.b")
        report = verify([AuditPath(moved), AuditPath(self.config.audit.path)])
        self.assertIn("1 event could not be written", report.notes[0])

    async def test_the_first_that_cannot_be_recorded_is_undone(self) -> None:
        """A login, and a connection whose target has accepted."""
        agent = await self.agent_in_service()
        client = await self.client("alice")
        path = self.config.audit.path
        moved = path.rename(path.with_suffix(".1"))
        path.mkdir()
        self.proxy.parts.audit.reopen()
        self.assertIsNone(self.proxy.not_ready())
        await self.assert_nobody_gets_in()
        path.rmdir()
        await self.until(lambda: self.proxy.not_ready() is None)

        path.unlink()
        path.mkdir()
        channel, received = await self.opened(client, "web1.b")
        channel.write(b"hello")
        await received.ended
        self.assertEqual(received.data, b"")
        self.assertEqual(len(agent.dialled), 1)
        path.rmdir()
        self.assertTrue(moved.exists())


class RequiredFromTheStartTests(Required):
    """A proxy that starts on a full disk."""

    settings: Sequence[str] = (EVERYTHING, FULL, "audit.required=true")

    async def test_it_runs_and_takes_nobody(self) -> None:
        """A balancer sends nobody either."""
        self.assertIn("No space left on device", self.proxy.not_ready() or "")
        await self.assert_nobody_gets_in()
