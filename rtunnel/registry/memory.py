"""A registry in the memory of one process: ``memory:``, for a proxy that is alone."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rtunnel.registry.interface import Entry, check_entry
from rtunnel.registry.watches import Watches


@attrs.frozen
class _Stored:
    entry: Entry
    expires: float | None


class MemoryRegistry:
    """Entries in a dict. Several memberships in one process may share it.

    :param clock: what times to live are measured with.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._stored: dict[str, _Stored] = {}
        self._revision = 0
        self._watches = Watches(clock)
        self._expiry: IDelayedCall | None = None

    async def start(self) -> None:
        """Nothing has to be opened."""

    async def close(self) -> None:
        """End every watch."""
        self._watches.end()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    async def get(self, key: str) -> Entry | None:
        check_entry(key)
        return self._read(key)

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        entries = (self._read(key) for key in sorted(self._stored))
        return tuple(e for e in entries if e is not None and e.key.startswith(prefix))

    async def put(self, key: str, value: str, ttl: float | None = None) -> Entry:
        check_entry(key, value)
        return self._write(key, value, ttl)

    async def compare_and_swap(
        self, key: str, value: str, revision: int | None, ttl: float | None = None
    ) -> Entry | None:
        check_entry(key, value)
        present = self._read(key)
        if (None if present is None else present.revision) != revision:
            return None
        return self._write(key, value, ttl)

    async def delete(self, key: str, revision: int | None = None) -> bool:
        check_entry(key)
        present = self._read(key)
        if present is None or revision not in (None, present.revision):
            return False
        del self._stored[key]
        self._watches.changed()
        return True

    def watch(self, prefix: str, callback: Callable[[], None]) -> Callable[[], None]:
        return self._watches.add(callback)

    def _read(self, key: str) -> Entry | None:
        stored = self._stored.get(key)
        if stored is None or _is_over(stored, self._clock.seconds()):
            return None
        return stored.entry

    def _write(self, key: str, value: str, ttl: float | None) -> Entry:
        self._revision += 1
        entry = Entry(key, value, self._revision)
        expires = None if ttl is None else self._clock.seconds() + ttl
        self._stored[key] = _Stored(entry, expires)
        self._watches.changed()
        self._schedule_expiry()
        return entry

    def _schedule_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        ends = [s.expires for s in self._stored.values() if s.expires is not None]
        if ends:
            wait = max(0.0, min(ends) - self._clock.seconds())
            self._expiry = self._clock.callLater(wait, self._purge)

    def _purge(self) -> None:
        self._expiry = None
        now = self._clock.seconds()
        over = [key for key, stored in self._stored.items() if _is_over(stored, now)]
        for key in over:
            del self._stored[key]
        if over:
            self._watches.changed()
        self._schedule_expiry()


def _is_over(stored: _Stored, now: float) -> bool:
    return stored.expires is not None and stored.expires <= now
