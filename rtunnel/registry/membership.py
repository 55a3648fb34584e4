"""Who else is a proxy of this cluster, and which tunnels each of them holds.

A :class:`Membership` keeps the record of its own proxy alive in a registry, publishes
its tunnels, and holds a picture of all the others. When the store is away the picture
stays as it was last seen, our own part of it stays true, and everything is tried again
until the store is back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.errors import RegistryError
from rtunnel.registry.holder import Holder
from rtunnel.registry.interface import Entry, Registry
from rtunnel.registry.records import (
    PROXIES,
    TUNNELS,
    TUNNELS_PER_PAGE,
    ProxyRecord,
    State,
    TunnelRecord,
    tunnels_from_json,
    tunnels_key,
    tunnels_to_json,
)

#: Seconds that a proxy's records live when nobody refreshes them.
TTL = 15.0

#: Seconds between refreshes; several fit into one time to live, so that a store that
#: is away for a moment, or one slow turn, does not make a proxy vanish.
REFRESH = 5.0

#: Seconds between attempts while the store is away.
RETRY = 1.0

#: Seconds in which changes of our own tunnels are gathered into one write.
GATHER = 0.1

#: Seconds between looks at a record whose holder may or may not be alive.
LOOK = 0.5

_log = Logger()
_T = TypeVar("_T")


class Membership:
    """One proxy's part in, and view of, the proxies of its cluster.

    :param registry: started, and closed after :meth:`leave`, by whoever made it.
    :param clock: what times are measured with.
    :param record: our own proxy; its ``holder`` is replaced.
    :param holder: the process behind the record; None means this one.
    :param ttl: seconds that our records live when nobody refreshes them.
    :param refresh: seconds between refreshes; well below ``ttl``.
    """

    def __init__(
        self,
        registry: Registry,
        clock: IReactorTime,
        record: ProxyRecord,
        *,
        holder: Holder | None = None,
        ttl: float = TTL,
        refresh: float = REFRESH,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._holder = holder or Holder.of_this_process()
        self._record = attrs.evolve(record, holder=self._holder)
        self._ttl = ttl
        self._refresh = refresh
        self._retry = min(RETRY, refresh)

        self._lock = DeferredLock()
        self._running = False
        self._stop_watches: list[Callable[[], None]] = []
        self._refresh_call: IDelayedCall | None = None
        self._gather_call: IDelayedCall | None = None
        self._reload_wanted = False

        self._revision: int | None = None
        self._own_tunnels: tuple[TunnelRecord, ...] = ()
        self._pages: list[str] = []
        self._others = _Picture()
        self._subscribers: dict[object, Callable[[], None]] = {}
        self._problem: str | None = None

    # What there is to see

    @property
    def problem(self) -> str | None:
        """Why the picture may be out of date, in one sentence; None when it is not."""
        return self._problem

    @property
    def record(self) -> ProxyRecord:
        """Our own proxy."""
        return self._record

    def proxies(self) -> tuple[ProxyRecord, ...]:
        """Every proxy that is up, ours included, in the order of their ids."""
        others = self._others.proxies.values()
        return tuple(sorted([*others, self._record], key=lambda record: record.id))

    def tunnels(self) -> tuple[TunnelRecord, ...]:
        """The tunnels of every proxy, ours as we know them now."""
        tunnels = [*self._own_tunnels, *self._others.tunnels]
        return tuple(sorted(tunnels, key=lambda t: (t.cluster, t.agent, t.proxy)))

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Be told when :meth:`proxies` or :meth:`tunnels` change.

        Round trip times and channel counts change all the time and call nobody.

        :return: call it to end the subscription.
        """
        token = object()
        self._subscribers[token] = callback

        def stop() -> None:
            self._subscribers.pop(token, None)

        return stop

    # What we say about ourselves

    async def start(self) -> None:
        """Claim our id, publish our record, and see who else is there.

        When the id is held by a process that cannot be seen from here (another host,
        another container) this waits until that process shows life or its record's
        time is over.

        :raises RegistryError: when another process holds the id, or the store cannot
            be used.
        """
        await self._claim()
        self._running = True
        for prefix in (PROXIES, TUNNELS):
            stop = self._registry.watch(prefix, self._registry_changed)
            self._stop_watches.append(stop)
        await self._synchronise(publish=True)

    def set_tunnels(self, records: Iterable[TunnelRecord]) -> None:
        """Say which tunnels our proxy holds now.

        A tunnel that came or went is published within 0.2 s, together with others of
        that moment; new round trip times and channel counts go with the next refresh.
        """
        before = _essentials(self._own_tunnels)
        self._own_tunnels = tuple(records)
        if _essentials(self._own_tunnels) == before:
            return
        if self._running and self._gather_call is None:
            self._gather_call = self._clock.callLater(GATHER, self._publish_gathered)
        self._tell_subscribers()

    async def set_state(self, state: State) -> None:
        """Publish another state of our proxy at once.

        When the store is away this returns all the same; the state is published when
        the store is back.
        """
        if state != self._record.state:
            await self._set_record(attrs.evolve(self._record, state=state))

    async def set_peer_addresses(self, addresses: tuple[str, ...]) -> None:
        """Publish at once where other proxies can reach ours.

        When the store is away, as for :meth:`set_state`.
        """
        if addresses != self._record.peer_addresses:
            await self._set_record(attrs.evolve(self._record, peer_addresses=addresses))

    async def _set_record(self, record: ProxyRecord) -> None:
        self._record = record
        self._tell_subscribers()
        if self._running:
            await self._synchronise(publish=True)

    async def leave(self) -> None:
        """Take our records out of the registry and watch it no longer.

        Also right after a :meth:`start` that was cancelled.

        When the store is away the records stay until their time is over.
        """
        if not self._running and self._revision is None:
            return
        self._running = False
        for stop in self._stop_watches:
            stop()
        self._stop_watches.clear()
        for call in (self._refresh_call, self._gather_call):
            if call is not None:
                call.cancel()
        self._refresh_call = self._gather_call = None
        await self._lock.acquire()
        try:
            if self._revision is not None:
                await self._delete_pages(0)
                await self._registry.delete(self._record.key, self._revision)
                self._revision = None
        except RegistryError as error:
            _log.warn("our registry records stay behind: {reason}", reason=str(error))
        finally:
            self._lock.release()

    # Claiming our id

    async def _claim(self) -> None:
        deadline = self._clock.seconds() + self._ttl + self._refresh
        seen: int | None = None
        while True:
            entry = await self._registry.get(self._record.key)
            taken = None if entry is None else self._holder_of(entry)
            alive = None if taken is None else taken.is_alive()
            if taken == self._holder or entry is None or alive is False:
                if await self._write_record(None if entry is None else entry.revision):
                    await self._forget_predecessor()
                    return
                continue
            showed_life = seen not in (None, entry.revision)
            if alive or showed_life or self._clock.seconds() >= deadline:
                raise RegistryError(
                    f"another proxy with this id is running: {self._record.id}, "
                    f"{_described(taken)}; stop it first, or make this proxy a state "
                    "directory of its own with 'rtunnel proxy sign'"
                )
            if seen is None:
                _log.info(
                    "waiting to see whether another proxy with our id is alive: {held}",
                    held=_described(taken),
                )
            seen = entry.revision
            await deferLater(self._clock, LOOK)

    def _holder_of(self, entry: Entry) -> Holder | None:
        try:
            return ProxyRecord.from_json(entry.value).holder
        except RegistryError:
            return None

    async def _forget_predecessor(self) -> None:
        """A holder that crashed left tunnels that ended with it."""
        for entry in await self._registry.list(f"{TUNNELS}{self._record.id}/"):
            await self._registry.delete(entry.key)

    async def _write_record(self, revision: int | None) -> bool:
        written = await self._registry.compare_and_swap(
            self._record.key, self._record.to_json(), revision, self._ttl
        )
        if written is not None:
            self._revision = written.revision
        return written is not None

    # Keeping in step with the store

    def _registry_changed(self) -> None:
        if not self._reload_wanted:
            self._reload_wanted = True
            self._in_background(publish=False)

    def _refresh_due(self) -> None:
        self._refresh_call = None
        self._in_background(publish=True)

    def _publish_gathered(self) -> None:
        self._gather_call = None
        self._in_background(publish=True)

    def _in_background(self, publish: bool) -> None:
        Deferred.fromCoroutine(self._synchronise(publish)).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        """A fault of ours must not end the refreshing of our record."""
        _log.failure("keeping up with the registry failed", failure)
        self._schedule(self._retry)

    async def _synchronise(self, publish: bool) -> None:
        """One round: write what is ours if asked to, read what is there."""
        await self._lock.acquire()
        try:
            if not self._running:
                return
            try:
                if publish:
                    await self._publish()
                self._reload_wanted = False
                await self._reload()
            except RegistryError as error:
                self._reload_wanted = False
                self._went_away(str(error))
                self._schedule(self._retry)
            else:
                self._came_back()
                if publish or self._refresh_call is None:
                    self._schedule(self._refresh)
        finally:
            self._lock.release()

    def _schedule(self, seconds: float) -> None:
        if self._refresh_call is not None:
            self._refresh_call.cancel()
            self._refresh_call = None
        if self._running:
            self._refresh_call = self._clock.callLater(seconds, self._refresh_due)

    def _went_away(self, reason: str) -> None:
        if reason != self._problem:
            self._problem = reason
            _log.error(
                "the registry cannot be used, going on from what was last known: "
                "{reason}",
                reason=reason,
            )

    def _came_back(self) -> None:
        if self._problem is not None:
            self._problem = None
            _log.info("the registry can be used again")

    async def _publish(self) -> None:
        if not await self._write_record(self._revision):
            # Our record ran out while the store was away, or a write of ours took
            # effect although it seemed to fail.
            entry = await self._registry.get(self._record.key)
            taken = None if entry is None else self._holder_of(entry)
            if taken not in (None, self._holder):
                self._revision = None
                raise RegistryError(
                    "another proxy has taken the place of ours in the registry: "
                    f"{self._record.id}, {_described(taken)}; stop one of the two"
                )
            await self._write_record(None if entry is None else entry.revision)
        ordered = sorted(self._own_tunnels, key=lambda t: (t.cluster, t.agent))
        pages = [
            tunnels_to_json(ordered[start : start + TUNNELS_PER_PAGE])
            for start in range(0, len(ordered), TUNNELS_PER_PAGE)
        ]
        for number, page in enumerate(pages):
            key = tunnels_key(self._record.id, number)
            await self._registry.put(key, page, self._ttl)
        await self._delete_pages(len(pages))
        self._pages = pages

    async def _delete_pages(self, first: int) -> None:
        for number in range(first, len(self._pages)):
            await self._registry.delete(tunnels_key(self._record.id, number))

    async def _reload(self) -> None:
        proxies = await self._registry.list(PROXIES)
        tunnels = await self._registry.list(TUNNELS)
        before = self._others
        self._others = before.read(proxies, tunnels, self._record.id)
        if self._others.essentials() != before.essentials():
            self._tell_subscribers()

    def _tell_subscribers(self) -> None:
        for token, callback in list(self._subscribers.items()):
            if token in self._subscribers:
                with _log.failuresHandled("a subscriber of the membership failed"):
                    callback()


@attrs.frozen
class _Picture:
    """All other proxies and their tunnels, as they were last read.

    :param known: what each entry said, kept by key and revision, so that an entry that
        did not change is not parsed again; None is an entry that could not be read.
    """

    proxies: Mapping[str, ProxyRecord] = attrs.field(factory=dict)
    tunnels: tuple[TunnelRecord, ...] = ()
    known: Mapping[str, tuple[int, object]] = attrs.field(factory=dict)

    def read(
        self, proxies: Iterable[Entry], tunnels: Iterable[Entry], own_id: str
    ) -> _Picture:
        """The picture that these entries give."""
        known: dict[str, tuple[int, object]] = {}
        seen_proxies: dict[str, ProxyRecord] = {}
        seen_tunnels: list[TunnelRecord] = []
        for entry in proxies:
            record = self._parsed(entry, ProxyRecord.from_json, known)
            # The key says who may be spoken of; a record under a foreign key is none.
            if record is not None and record.key == entry.key and record.id != own_id:
                seen_proxies[record.id] = record
        for entry in tunnels:
            proxy = entry.key.removeprefix(TUNNELS).rpartition("/")[0]
            if proxy in seen_proxies:
                page = self._parsed(entry, tunnels_from_json, known) or ()
                seen_tunnels += [record for record in page if record.proxy == proxy]
        return _Picture(seen_proxies, tuple(seen_tunnels), known)

    def essentials(self) -> object:
        """What is different when subscribers are to be told."""
        return self.proxies, _essentials(self.tunnels)

    def _parsed(
        self,
        entry: Entry,
        parse: Callable[[str], _T],
        known: dict[str, tuple[int, object]],
    ) -> _T | None:
        revision, parsed = self.known.get(entry.key, (None, None))
        if revision != entry.revision:
            try:
                parsed = parse(entry.value)
            except RegistryError as error:
                if revision is None or self.known[entry.key][1] is not None:
                    _log.warn(
                        "passing over {key}: {reason}",
                        key=entry.key,
                        reason=str(error),
                    )
                parsed = None
        known[entry.key] = (entry.revision, parsed)
        return parsed  # type: ignore[return-value]  # what ``parse`` gave for this key


def _essentials(tunnels: Iterable[TunnelRecord]) -> frozenset[object]:
    return frozenset(tunnel.essentials for tunnel in tunnels)


def _described(holder: Holder | None) -> str:
    if holder is None:
        return "held by an unknown process"
    host = holder.place.partition("/")[0]
    return f"held by process {holder.pid} on {host}"
