"""Writes into the registry how far this proxy and its agents follow rotations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.errors import RegistryError
from rtunnel.proxy.agent_trust import TrustingTunnel
from rtunnel.proxy.credentials import LiveCredentials
from rtunnel.registry.followers import FOLLOWERS, Follower, Kind, merged
from rtunnel.registry.interface import Registry
from rtunnel.trust.bundle import ROLES, Role, TrustBundle
from rtunnel.wire.certificate import FOREVER, Certificate

#: Seconds between two looks at what could not be written yet.
RETRY: Final = 5.0
#: Seconds for which a record outlives its certificate, which readers believe longer
#: than it says for the sake of clocks.
GRACE: Final = 60.0


class Followers:
    """This proxy's records of followers, and everybody's.

    :param now: wall clock, seconds since the epoch.
    :param name: of this proxy.
    :param bundle: in force for an authority; None before its first rotation.
    """

    _log = Logger()

    def __init__(
        self,
        registry: Registry,
        clock: IReactorTime,
        *,
        now: Callable[[], float],
        name: str,
        credentials: LiveCredentials,
        bundle: Callable[[Role], TrustBundle | None],
    ) -> None:
        self._registry = registry
        self._now = now
        self._name = name
        self._credentials = credentials
        self._bundle = bundle
        self._unwritten: dict[str, Follower] = {}
        self._agents: dict[str, Follower] = {}
        self._lock = DeferredLock()
        self._writing = LoopingCall(self._write_soon)
        self._writing.clock = clock
        self._stop_listening: Callable[[], None] | None = None

    def start(self) -> None:
        """Say how far this proxy is, now and at each change."""
        self._stop_listening = self._credentials.subscribe(self.say_own)
        self.say_own()
        self._writing.start(RETRY, now=False).addErrback(self._broke)

    def stop(self) -> None:
        """Say no more."""
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
        if self._writing.running:
            self._writing.stop()

    def say_own(self) -> None:
        """How far this proxy itself is."""
        present = self._credentials.present
        generations = {
            role: bundle.generation
            for role in ROLES
            if (bundle := self._bundle(role)) is not None
        }
        self._put(
            self._record(
                "proxy", present.proxy_id, self._name, present.certificate, generations
            )
        )

    def say_agent(self, tunnel: TrustingTunnel, generation: int | None = None) -> None:
        """How far an agent is that has a tunnel here.

        :param generation: of the host authority, that it has taken over just now.
        """
        identity = tunnel.identity
        known = self._agents.get(identity.instance)
        generations: dict[Role, int] = dict(known.generations) if known else {}
        if generation is not None:
            generations["host"] = generation
        record = self._record(
            "agent",
            identity.instance,
            identity.cluster,
            identity.certificate,
            generations,
        )
        self._agents[identity.instance] = record
        self._put(record)

    async def list(self) -> tuple[Follower, ...]:
        """Everybody, one record each.

        :raises RegistryError: when the registry cannot be read.
        """
        await self._write()
        records = []
        for entry in await self._registry.list(FOLLOWERS):
            try:
                record = Follower.from_json(entry.value)
            except RegistryError:
                continue
            # The key says who may be spoken of.
            if record.key == entry.key:
                records.append(record)
        return merged(records)

    async def forget(self, follower: Follower) -> None:
        """Keep no record of one, whoever has seen it; it is back when it comes again.

        :raises RegistryError: when the registry cannot be used.
        """
        of_it = f"{FOLLOWERS}{follower.kind}/{follower.id}/"
        for key in [key for key in self._unwritten if key.startswith(of_it)]:
            del self._unwritten[key]
        self._agents.pop(follower.id, None)
        for entry in await self._registry.list(of_it):
            await self._registry.delete(entry.key)

    def _record(
        self,
        kind: Kind,
        id_: str,
        name: str,
        certificate: Certificate,
        generations: dict[Role, int],
    ) -> Follower:
        return Follower(
            kind=kind,
            id=id_,
            name=name,
            by=self._credentials.proxy_id,
            certified_by=certificate.ca_key.fingerprint,
            issued=certificate.valid_after,
            valid_before=certificate.valid_before,
            generations=generations,
            seen=self._now(),
        )

    def _put(self, record: Follower) -> None:
        self._unwritten[record.key] = record
        self._write_soon()

    def _write_soon(self) -> Deferred[None]:
        writing = Deferred.fromCoroutine(self._write())
        # The registry is away: it is written when it is back.
        writing.addErrback(lambda failure: failure.trap(RegistryError) and None)
        writing.addErrback(self._broke)
        return writing

    async def _write(self) -> None:
        await self._lock.acquire()
        try:
            await self._write_all()
        finally:
            self._lock.release()

    async def _write_all(self) -> None:
        while self._unwritten:
            key, record = next(iter(self._unwritten.items()))
            del self._unwritten[key]
            ttl = None
            if record.valid_before < FOREVER:
                ttl = max(1.0, record.valid_before - self._now() + GRACE)
            try:
                await self._registry.put(key, record.to_json(), ttl)
            except RegistryError:
                self._unwritten.setdefault(key, record)
                raise

    def _broke(self, failure: Failure) -> None:
        self._log.failure("saying who follows a rotation failed", failure)
