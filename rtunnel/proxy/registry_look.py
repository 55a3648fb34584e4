"""A part of the registry that is read when it has changed, and every few seconds.

Not to hear of a change must not be enough to miss it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.errors import RegistryError
from rtunnel.registry.interface import Registry

#: Seconds between two looks at the registry, beside those when it changes.
LOOK_INTERVAL: Final = 5.0


class RegistryLook:
    """Has a part of the registry read, never twice at a time.

    While the registry is away nothing is read, and the next look tries again.

    :param prefix: of the keys that are read.
    :param read: reads them and does what follows; may raise RegistryError.
    :param what: is followed, for the log.
    """

    _log = Logger()

    def __init__(
        self,
        registry: Registry,
        clock: IReactorTime,
        prefix: str,
        read: Callable[[], Awaitable[None]],
        what: str,
    ) -> None:
        self._registry = registry
        self._prefix = prefix
        self._read = read
        self._what = what
        self._lock = DeferredLock()
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        self._stop_watching: Callable[[], None] | None = None

    async def start(self) -> None:
        """Look now, and begin to follow.

        :raises RegistryError: when the registry cannot be read.
        """
        self._stop_watching = self._registry.watch(self._prefix, self._changed)
        await self._read_alone()
        self._looking.start(LOOK_INTERVAL, now=False).addErrback(self._broke)

    def stop(self) -> None:
        """Look no more."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        if self._looking.running:
            self._looking.stop()

    def _changed(self) -> None:
        self._look()

    def _look(self) -> Deferred[None]:
        looking = Deferred.fromCoroutine(self._read_alone())
        # What is known holds until the registry is back.
        looking.addErrback(lambda failure: failure.trap(RegistryError) and None)
        looking.addErrback(self._broke)
        return looking

    async def _read_alone(self) -> None:
        await self._lock.acquire()
        try:
            await self._read()
        finally:
            self._lock.release()

    def _broke(self, failure: Failure) -> None:
        self._log.failure("following {what} failed", failure, what=self._what)
