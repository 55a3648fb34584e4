"""The registry in an SQLite file."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtunnel.errors import RegistryError
from rtunnel.registry.interface import Registry
from rtunnel.registry.membership import Membership
from rtunnel.registry.records import ProxyRecord
from rtunnel.registry.sqlite import POLL, SqliteRegistry, ThreadWorker
from tests.registry.contract import RegistryContract

T = TypeVar("T")

#: The global reactor has every interface, which the type checker cannot know.
REACTOR: Any = reactor

#: Another process that writes one entry.
PUTS = """
import sys
from pathlib import Path
from rtunnel.registry.sqlite_file import SqliteFile
SqliteFile(Path(sys.argv[1]), lambda: 0.0).put("a/1", "from afar")
"""

#: A program that ends without closing its registry, or running its reactor.
GIVES_UP = """
import sys
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from rtunnel.registry.backends import open_registry
registry = open_registry("sqlite:r.db", Path(sys.argv[1]), reactor, lambda: 0.0)
Deferred.fromCoroutine(registry.start())
raise SystemExit(3)
"""


class HereWorker:
    """Calls at once, in the thread that asks."""

    def start(self) -> None:
        """Nothing to start."""

    def run(self, function: Callable[[], T]) -> Deferred[T]:
        called: Deferred[T] = maybeDeferred(function)
        return called

    def stop(self) -> None:
        """Nothing to stop."""


class SqliteRegistryTests(RegistryContract, SynchronousTestCase):
    """The contract, on connections of their own to one file."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.path = Path(self.mktemp())

    def open(self) -> Registry:
        registry = SqliteRegistry(
            self.path, self.clock, HereWorker(), lambda: 1e9 + self.clock.seconds()
        )
        self.now(registry.start())
        self.addCleanup(lambda: self.now(registry.close()))
        return registry

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.05] * round(seconds / 0.05) + [0])

    def test_entries_outlive_those_who_wrote_them(self) -> None:
        """Revisions too."""
        registry = self.open()
        entry = self.now(registry.put("a", "1"))
        self.now(registry.close())
        again = self.open()
        self.assertEqual(self.now(again.get("a")), entry)
        self.assertGreater(self.now(again.put("a", "2")).revision, entry.revision)

    def test_a_watch_outlives_a_file_that_is_moved_away(self) -> None:
        """A new file is made, and what others write there is heard of."""
        one = self.open()
        self.now(one.put("a", "1"))
        watch = self.counted(one)
        self.path.rename(self.path.with_suffix(".old"))
        self.pass_time(POLL * 2)
        other = self.open()
        self.pass_time(POLL * 2)
        watch.calls = 0
        self.now(other.put("a", "2"))
        self.pass_time(POLL * 2)
        self.assertGreaterEqual(watch.calls, 1)
        entry = self.now(one.get("a"))
        assert entry is not None
        self.assertEqual(entry.value, "2")

    def test_a_watch_outlives_a_file_that_cannot_be_read(self) -> None:
        """While it lasts nobody is called and nothing is logged; then all are."""
        one = self.open()
        watch = self.counted(one)
        self.path.rename(self.path.with_suffix(".old"))
        self.path.mkdir()
        self.pass_time(POLL * 4)
        self.assertEqual(watch.calls, 0)
        self.assertIn(str(self.path), self.refused(one.get("a")))
        self.path.rmdir()
        self.pass_time(POLL * 2)
        self.assertGreaterEqual(watch.calls, 1)

    def test_a_closed_registry_refuses(self) -> None:
        """With one sentence."""
        registry = self.open()
        self.now(registry.close())
        self.assertEqual(self.refused(registry.get("a")), "the registry is closed")
        self.assertEqual(self.clock.getDelayedCalls(), [])


def _leave(member: Membership) -> Deferred[None]:
    return Deferred.fromCoroutine(member.leave())


class ThreadTests(TestCase):
    """With the real reactor and a real thread."""

    async def opened(self, path: Path) -> SqliteRegistry:
        registry = SqliteRegistry(
            path,
            REACTOR,
            ThreadWorker(REACTOR),
            lambda: 0.0,
        )
        await registry.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(registry.close()))
        return registry

    async def test_another_process_is_noticed(self) -> None:
        """A watch hears of what it writes."""
        path = Path(self.mktemp())
        registry = await self.opened(path)
        changed: Deferred[None] = Deferred()
        await deferLater(reactor, POLL * 2)

        def heard() -> None:
            if not changed.called:
                changed.callback(None)

        registry.watch("a/", heard)
        subprocess.run(
            [sys.executable, "-c", PUTS, str(path)],
            env={"PYTHONPATH": ":".join(sys.path)},
            check=True,
        )
        await changed.addTimeout(5, reactor)
        entry = await registry.get("a/1")
        assert entry is not None
        self.assertEqual(entry.value, "from afar")

    async def test_the_reactor_does_not_wait_for_a_lock(self) -> None:
        """Calls are made in one thread that is not the reactor's, in their order."""
        registry = await self.opened(Path(self.mktemp()))
        threads: set[int] = set()
        numbers: list[int] = []

        def note(number: int) -> None:
            threads.add(threading.get_ident())
            numbers.append(number)

        calls = [
            registry._worker.run(lambda number=number: note(number))  # type: ignore[misc]
            for number in range(50)
        ]
        await gatherResults(calls)
        self.assertEqual(numbers, list(range(50)))
        self.assertEqual(len(threads), 1)
        self.assertNotIn(threading.get_ident(), threads)

    def test_a_program_that_gives_up_at_its_start_ends(self) -> None:
        """The thread does not keep it."""
        directory = Path(self.mktemp())
        directory.mkdir()
        ended = subprocess.run(
            [sys.executable, "-c", GIVES_UP, str(directory)],
            env={"PYTHONPATH": ":".join(sys.path)},
            timeout=30,
            check=False,
        )
        self.assertEqual(ended.returncode, 3)

    async def test_a_file_that_cannot_be_used_fails_the_start(self) -> None:
        """And leaves no thread behind, which trial would wait for."""
        path = Path(self.mktemp()) / "registry.db"
        with self.assertRaises(RegistryError) as caught:
            await self.opened(path)
        self.assertIn(f"registry {path}: No such file", str(caught.exception))
        self.assertEqual(
            [t.name for t in threading.enumerate() if "registry" in t.name], []
        )

    async def test_two_proxies_find_each_other(self) -> None:
        """From start to leave, over one file."""
        path = Path(self.mktemp())
        members = []
        for name in ("one", "two"):
            member = Membership(
                await self.opened(path),
                reactor,
                ProxyRecord(id=name, name=name),
            )
            await member.start()
            self.addCleanup(_leave, member)
            members.append(member)
        one, two = members

        async def until(count: int) -> None:
            for _ in range(100):
                if len(one.proxies()) == count:
                    return
                await deferLater(reactor, 0.05)
            self.fail(f"{len(one.proxies())} proxies, not {count}")

        await until(2)
        await two.leave()
        await until(1)
