"""Clusters that were ever seen by a proxy of this cluster.

What tells "there is no such cluster" from "that cluster is offline": a record without
time to live in the registry, kept in memory as well, so that a registry that is away
changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rtunnel.errors import InvalidName, RegistryError
from rtunnel.naming import check_cluster
from rtunnel.registry.interface import Registry

_PREFIX = "clusters/"


class KnownClusters:
    """The set of cluster names ever seen.

    :param now: wall clock, seconds since the epoch.
    """

    _log = Logger()

    def __init__(self, registry: Registry, now: Callable[[], float]) -> None:
        self._registry = registry
        self._now = now
        self._names: set[str] = set()
        self._unwritten: set[str] = set()
        self._stop_watching: Callable[[], None] | None = None

    def names(self) -> frozenset[str]:
        """Their names, as far as this proxy knows."""
        return frozenset(self._names)

    async def start(self) -> None:
        """Read what is known and follow what others see."""
        self._stop_watching = self._registry.watch(_PREFIX, self._changed)
        await self._read()

    def stop(self) -> None:
        """Stop following."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None

    async def _read(self) -> None:
        for entry in await self._registry.list(_PREFIX):
            # A name that no cluster can have may be anything, and people see it.
            with suppress(InvalidName):
                self._names.add(check_cluster(entry.key.removeprefix(_PREFIX)))

    def _changed(self) -> None:
        reading = Deferred.fromCoroutine(self._read())
        # The registry is away: what is known stays known, and the next change reads.
        reading.addErrback(lambda failure: failure.trap(RegistryError) and None)

    async def seen(self, cluster: str) -> None:
        """Remember a cluster; a registry that is away is tried again next time."""
        if cluster in self._names and cluster not in self._unwritten:
            return
        self._names.add(cluster)
        self._unwritten.add(cluster)
        try:
            await self._registry.put(
                _PREFIX + cluster, json.dumps({"first_seen": self._now()}), None
            )
        except RegistryError as error:
            self._log.warn(
                "cluster {cluster} is not recorded as seen yet: {error}",
                cluster=cluster,
                error=error,
            )
        else:
            self._unwritten.discard(cluster)
