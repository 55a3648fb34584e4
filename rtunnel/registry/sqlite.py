"""A registry in an SQLite file: ``sqlite:PATH``, for the proxies of one machine.

The file is only touched by one thread that belongs to the registry, because SQLite
waits for locks and for the disk, and the reactor must not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from rtunnel.errors import RegistryError
from rtunnel.registry.interface import Entry
from rtunnel.registry.sqlite_file import SqliteFile
from rtunnel.registry.watches import Watches

#: Seconds between looks at the file for changes that other processes made.
POLL = 0.25

_log = Logger()
_T = TypeVar("_T")


class Worker(Protocol):
    """Where blocking calls run, one after the other."""

    def start(self) -> None:
        """Begin to take calls."""

    def run(self, function: Callable[[], _T]) -> Deferred[_T]:
        """Call ``function`` when all earlier ones have ended."""

    def stop(self) -> None:
        """Take no more calls."""


class ThreadWorker:
    """One thread of its own.

    :param reactor: whose thread hears of the results.
    """

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._pool = _DaemonPool(minthreads=0, maxthreads=1, name="rtunnel registry")

    def start(self) -> None:
        self._pool.start()

    def run(self, function: Callable[[], _T]) -> Deferred[_T]:
        called: Deferred[_T] = deferToThreadPool(self._reactor, self._pool, function)
        return called

    def stop(self) -> None:
        self._pool.stop()


class _DaemonThread(Thread):
    """Does not keep a program that gives up before its reactor runs.

    Such a program never comes to ``stop``, and must end all the same. A transaction
    that is cut off is undone by SQLite.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


class _DaemonPool(ThreadPool):
    threadFactory = _DaemonThread


class SqliteRegistry:
    """The entries in one file, shared with other processes.

    :param path: the file; made when there is none.
    :param clock: times the looks for changes.
    :param worker: runs what blocks.
    :param now: wall clock, seconds since the epoch; times to live end by it.
    """

    def __init__(
        self,
        path: Path,
        clock: IReactorTime,
        worker: Worker,
        now: Callable[[], float],
    ) -> None:
        self._file = SqliteFile(path, now)
        self._worker = worker
        self._watches = Watches(clock)
        self._polling = LoopingCall(self._poll)
        self._polling.clock = clock
        self._started = False

    async def start(self) -> None:
        """Open the file.

        :raises RegistryError: when that cannot be, with what to do.
        """
        self._worker.start()
        self._started = True
        try:
            await self._worker.run(self._file.open)
        except BaseException:
            self._stop_worker()
            raise

    async def close(self) -> None:
        """Close the file. A call that waits for a lock is waited for."""
        if not self._started:
            return
        if self._polling.running:
            self._polling.stop()
        self._watches.end()
        await self._worker.run(self._file.close)
        self._stop_worker()

    def _stop_worker(self) -> None:
        if self._started:
            self._started = False
            self._worker.stop()

    async def get(self, key: str) -> Entry | None:
        return await self._call(lambda: self._file.get(key))

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        return await self._call(lambda: self._file.list(prefix))

    async def put(self, key: str, value: str, ttl: float | None = None) -> Entry:
        entry = await self._call(lambda: self._file.put(key, value, ttl))
        self._watches.changed()
        return entry

    async def compare_and_swap(
        self, key: str, value: str, revision: int | None, ttl: float | None = None
    ) -> Entry | None:
        entry = await self._call(
            lambda: self._file.compare_and_swap(key, value, revision, ttl)
        )
        if entry is not None:
            self._watches.changed()
        return entry

    async def delete(self, key: str, revision: int | None = None) -> bool:
        deleted = await self._call(lambda: self._file.delete(key, revision))
        if deleted:
            self._watches.changed()
        return deleted

    def watch(self, prefix: str, callback: Callable[[], None]) -> Callable[[], None]:
        stop = self._watches.add(callback)
        if not self._polling.running:
            self._polling.start(POLL, now=False).addErrback(
                lambda f: _log.failure("the registry is watched no longer", f)
            )
        return stop

    def _call(self, function: Callable[[], _T]) -> Deferred[_T]:
        if not self._started:
            raise RegistryError("the registry is closed")
        return self._worker.run(function)

    def _poll(self) -> Deferred[None] | None:
        if not self._watches:
            return None
        return self._call(self._file.has_changed).addCallbacks(
            self._polled, self._not_polled
        )

    def _polled(self, changed: bool) -> None:
        if changed:
            self._watches.changed()

    def _not_polled(self, failure: Failure) -> None:
        """Nothing to do: the next one who needs the file learns why it fails.

        Watching goes on, and once the file is back everybody is called.
        """
        if failure.check(RegistryError) is None:
            _log.failure("looking for changes in the registry failed", failure)
