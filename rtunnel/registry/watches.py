"""The callbacks of a registry's watches, called together soon after a change."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_log = Logger()


class Watches:
    """Callbacks that want to hear of changes.

    Changes made in one turn of the reactor make one call. Nobody is called from inside
    :meth:`changed`, so a callback may write to the registry without recursion.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._call: IDelayedCall | None = None

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Add one, and return what removes it again (any number of times)."""
        token = object()
        self._callbacks[token] = callback

        def stop() -> None:
            self._callbacks.pop(token, None)

        return stop

    def changed(self) -> None:
        """Something changed; tell everyone in the next turn of the reactor."""
        if self._call is None and self._callbacks:
            self._call = self._clock.callLater(0, self._tell)

    def end(self) -> None:
        """Forget everyone."""
        self._callbacks.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _tell(self) -> None:
        self._call = None
        for token, callback in list(self._callbacks.items()):
            if token in self._callbacks:
                with _log.failuresHandled("a watch of the registry failed"):
                    callback()
