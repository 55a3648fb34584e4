"""What every registry backend offers: keys, values, a time to live, and a watch.

Pure. A registry is a small, flat map from text keys to text values (JSON) that the
proxies of one cluster share. Everything above it, :mod:`rtunnel.registry.membership`
first, speaks to this Protocol and never to a backend.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

import attrs

from rtunnel.errors import RegistryError

#: Characters in a key, all of them printable ASCII.
MAX_KEY = 255

#: Bytes in a value, as UTF-8. etcd's own limit for a request is 1.5 MiB.
MAX_VALUE = 1024 * 1024

_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY}}}")


@attrs.frozen
class Entry:
    """One key as it was when it was read.

    :param revision: grows with every write to the registry, over all keys; what
        :meth:`Registry.compare_and_swap` compares.
    """

    key: str
    value: str
    revision: int


class Registry(Protocol):
    """A store of entries that its users share.

    Every coroutine raises :class:`~rtunnel.errors.RegistryError` with one sentence for
    the operator when the store cannot be read or written; the next call tries anew.
    An entry whose time to live is over is invisible to all of them.
    """

    async def start(self) -> None:
        """Open the store; nothing else may be called before."""

    async def close(self) -> None:
        """Let the store go. Watches end; entries stay until their time is over."""

    async def get(self, key: str) -> Entry | None:
        """The entry of ``key``, or None."""

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        """Every entry whose key begins with ``prefix``, in the order of the keys."""

    async def put(self, key: str, value: str, ttl: float | None = None) -> Entry:
        """Write an entry, whatever was there.

        :param ttl: seconds until the entry is gone, if nobody writes it again; None
            keeps it for good.
        """

    async def compare_and_swap(
        self, key: str, value: str, revision: int | None, ttl: float | None = None
    ) -> Entry | None:
        """Write an entry if it is still the one that was read.

        Of any number of callers that pass the same ``revision`` one succeeds.

        :param revision: that of the entry read, or None when there must be none.
        :param ttl: as for :meth:`put`.
        :return: the new entry, or None when somebody else was faster.
        """

    async def delete(self, key: str, revision: int | None = None) -> bool:
        """Remove an entry.

        :param revision: remove it only at this revision; None means any.
        :return: whether this call removed it; of several callers one hears True.
        """

    def watch(self, prefix: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Be told that entries changed, whoever changed them, expiry included.

        :param callback: called from the reactor, soon after a change below ``prefix``;
            several changes may make one call, and a call may come without a change.
        :return: call it to end the watch.
        """


def check_entry(key: str, value: str = "") -> None:
    """Hold the limits on keys and values.

    :raises RegistryError: when the key or the value is out of bounds.
    """
    if _KEY.fullmatch(key) is None:
        raise RegistryError(
            f"a registry key is 1 to {MAX_KEY} printable ASCII characters, not {key!a}"
        )
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > MAX_VALUE:
        raise RegistryError(
            f"the registry entry {key} would be {size} bytes; {MAX_VALUE} is the limit"
        )
