"""Proxies whose audit file cannot be written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.events import ProxyStarted
from rtunnel.audit.file import AuditPath
from rtunnel.audit.log import AuditLog
from rtunnel.audit.verification import verify
from rtunnel.errors import OPEN_RESOURCE_SHORTAGE, ConnectionFailed, OpenRefused
from rtunnel.proxy.recording import RETRY, Recording
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
        recording = Recording(audit, self.clock, required)
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
            {"required": False, "lost": 1, "problem": "Is a directory"},
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
        self.assertIn("1 events could not be written", report.notes[0])

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
