"""What is revoked at this moment, as far as this proxy knows.

It knows the operators' records from the registry, and key revocation lists from files.
Whatever happens to either, what was revoked stays revoked until a good source says
otherwise: with the registry away the records stay that were there last, past their end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.errors import RegistryError
from rtunnel.proxy.krl_file import KrlFile
from rtunnel.registry.interface import Entry, Registry
from rtunnel.registry.revocation_store import REVOCATIONS, parse_revocations
from rtunnel.trust.revocation import Revocation, Revocations

#: Seconds between two looks at the files and the registry, whether or not it tells of
#: a change.
CHECK_INTERVAL = 2.0


class RevocationWatch:
    """The present revocations, and who wants to hear of others.

    :param registry: started by whoever made it.
    :param krl: files of key revocation lists.
    :param list_failed: hears of a file that cannot be used any longer, and why.
    :raises ConfigError: when one of the files cannot be used.
    """

    _log = Logger()

    def __init__(
        self,
        registry: Registry,
        clock: IReactorTime,
        krl: Sequence[Path] = (),
        list_failed: Callable[[Path, str], object] = lambda path, problem: None,
    ) -> None:
        self._registry = registry
        self._files = [KrlFile(path, partial(list_failed, path)) for path in krl]
        self._entries: tuple[Entry, ...] = ()
        self._records: tuple[Revocation, ...] = ()
        self._hosts: tuple[Revocation, ...] = ()
        self._present = Revocations()
        self._subscribers: dict[object, Callable[[], None]] = {}
        self._stop_watching: Callable[[], None] | None = None
        self._reading = False
        self._read_again = False
        self._problem: str | None = None
        self._checking = LoopingCall(self._check)
        self._checking.clock = clock
        self._compose()

    @property
    def present(self) -> Revocations:
        """What is revoked now; do not keep it."""
        return self._present

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Be told when something else is revoked.

        :return: call it to be told no more.
        """
        token = object()
        self._subscribers[token] = callback
        return lambda: self._subscribers.pop(token, None) and None

    async def start(self) -> None:
        """Read the records, and follow what becomes of them and of the files.

        :raises RegistryError: when the records cannot be read. A proxy that does not
            know what is revoked must not begin.
        """
        self._stop_watching = self._registry.watch(REVOCATIONS, self.read_records)
        self._take(await self._registry.list(REVOCATIONS))
        self._checking.start(CHECK_INTERVAL, now=False).addErrback(
            lambda failure: self._log.failure("files are no longer looked at", failure)
        )

    def stop(self) -> None:
        """Follow nothing any more."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        if self._checking.running:
            self._checking.stop()

    def status(self) -> dict[str, Any]:
        """Its part of the status document."""
        problems = [file.problem for file in self._files] + [self._problem]
        return {
            "records": len(self._records),
            "lists": len(self._files),
            "failures": sum(file.failures for file in self._files),
            "problem": next((p for p in problems if p is not None), None),
        }

    def check_files(self) -> None:
        """Look at the files now."""
        # All of them, whether or not one has changed.
        if any([file.check() for file in self._files]):
            self._compose()

    def take_hosts(self, entries: tuple[Revocation, ...]) -> None:
        """What the host authority has signed is revoked besides, whatever becomes of
        the records."""
        self._hosts = entries
        self._compose()

    def read_records(self) -> None:
        """Read the records anew, soon."""
        if self._reading:
            self._read_again = True
            return
        self._reading = True
        reading = Deferred.fromCoroutine(self._list())
        reading.addCallbacks(self._records_read, self._records_not_read)
        reading.addErrback(
            lambda failure: self._log.failure("revocations are not applied", failure)
        )
        reading.addCallback(lambda _: self._reading_done())

    async def _list(self) -> tuple[Entry, ...]:
        return await self._registry.list(REVOCATIONS)

    def _reading_done(self) -> None:
        self._reading = False
        if self._read_again:
            self._read_again = False
            self.read_records()

    def _records_read(self, entries: tuple[Entry, ...]) -> None:
        if self._problem is not None:
            self._problem = None
            self._log.info("revocations can be read again")
        self._take(entries)

    def _take(self, entries: tuple[Entry, ...]) -> None:
        # Mostly it is something else in the registry that has changed.
        if entries != self._entries:
            self._entries = entries
            self._records = parse_revocations(entries, self._records)
            self._compose()

    def _records_not_read(self, failure: Failure) -> None:
        failure.trap(RegistryError)
        if self._problem is None:
            self._log.error(
                "revocations cannot be read, those known stay in force: {problem}",
                problem=failure.getErrorMessage(),
            )
        self._problem = failure.getErrorMessage()

    def _check(self) -> None:
        self.check_files()
        # Also when nothing was heard of a change: not to hear of one must not be enough
        # to miss it.
        self.read_records()

    def _compose(self) -> None:
        present = Revocations(
            (*self._hosts, *self._records),
            {str(file.path): file.list for file in self._files},
        )
        if present == self._present:
            return
        self._present = present
        for token, callback in list(self._subscribers.items()):
            if token in self._subscribers:
                with self._log.failuresHandled("a change is not applied everywhere"):
                    callback()
