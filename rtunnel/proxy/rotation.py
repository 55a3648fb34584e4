"""Rotating an authority: carried out at the proxy that holds its private key."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

import attrs
from twisted.logger import Logger

from rtunnel.audit.events import CaRotated, Event, FollowerForgotten
from rtunnel.authority_files import (
    available_keys,
    load_authority,
    make_next,
    next_path,
    previous_path,
)
from rtunnel.counting import counted
from rtunnel.errors import RotationRefused
from rtunnel.key_making import MakeKey
from rtunnel.proxy.beginnings import the_one
from rtunnel.proxy.credentials import LiveCredentials
from rtunnel.proxy.people_seen import PeopleSeen
from rtunnel.registry.followers import Follower, lagging
from rtunnel.state_directory import load_private_key
from rtunnel.timestamps import rfc3339
from rtunnel.trust.bundle import ROLES, Phase, Role, TrustBundle
from rtunnel.trust.rotation import AuthorityState, step, wanted_phase
from rtunnel.trust_files import AUTHORITY_FILES
from rtunnel.wire.certificate import FOREVER

#: Laggards that are named in a refusal.
NAMED = 3


class Bundles(Protocol):
    """The part of :class:`~rtunnel.proxy.trust_watch.TrustWatch` that is needed."""

    def bundle(self, role: Role) -> TrustBundle | None:
        """The bundle of an authority; None before its first rotation."""

    async def publish(self, bundle: TrustBundle, force: bool = False) -> None:
        """Put the next bundle into force.

        :param force: also in place of one that is signed by no key that we trust.
        """


class FollowerList(Protocol):
    """The part of :class:`~rtunnel.proxy.followers.Followers` that is needed."""

    async def list(self) -> tuple[Follower, ...]:
        """Everybody."""

    async def forget(self, follower: Follower) -> None:
        """Keep no record of one."""


@attrs.frozen
class Laggard:
    """Somebody who has not followed yet.

    :param lacks: what is missing, for people.
    """

    follower: Follower
    lacks: tuple[str, ...]


class Rotation:
    """The state of the authorities, and steps of their rotation.

    :param directory: the state directory.
    :param proxy_id: our own, for the audit.
    :param connected: ids of the proxies that run, and of agents that have a tunnel.
    :param people: who has logged in here.
    :param record: writes an audit event.
    :param now: wall clock, seconds since the epoch.
    :param make_key: makes the key of the next rotation.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        directory: Path,
        proxy_id: str,
        credentials: LiveCredentials,
        bundles: Bundles,
        followers: FollowerList,
        connected: Callable[[], Collection[str]],
        people: PeopleSeen,
        record: Callable[[Event], object],
        now: Callable[[], float],
        make_key: MakeKey,
    ) -> None:
        self._directory = directory
        self._proxy_id = proxy_id
        self._credentials = credentials
        self._bundles = bundles
        self._followers = followers
        self._connected = connected
        self._people = people
        self._record = record
        self._now = now
        self._make_key = make_key
        self._busy = False

    def state(self, role: Role) -> AuthorityState:
        """Where an authority stands."""
        anchors = getattr(self._credentials.anchors, role)
        return AuthorityState.of(role, self._bundles.bundle(role), anchors)

    async def laggards(self, role: Role) -> tuple[Laggard, ...]:
        """Who has not followed the present phase yet.

        :raises RegistryError: when the registry cannot be read.
        """
        bundle = self._bundles.bundle(role)
        if bundle is None:
            return ()
        found = []
        for follower in await self._followers.list():
            if self._may_come_back(follower):
                lacks = lagging(follower, bundle)
                if lacks:
                    found.append(Laggard(follower, lacks))
        return tuple(found)

    def _may_come_back(self, follower: Follower) -> bool:
        end = follower.valid_before
        return end == FOREVER or end > self._now()

    async def status(self) -> dict[str, Any]:
        """What ``rtunnel ca status --json`` prints."""
        return {
            "authorities": {role: await self._authority_status(role) for role in ROLES}
        }

    async def _authority_status(self, role: Role) -> dict[str, Any]:
        state = self.state(role)
        signs = state.signs or self._signing_here(role)
        people = self._people.not_by(signs) if role == "user" and signs else ()
        return {
            **(
                {
                    "people_of_other_keys": [
                        {"name": each.name, "certificate_ends": _end(each.valid_before)}
                        for each in people
                    ]
                }
                if role == "user"
                else {}
            ),
            "phase": state.phase.value,
            "generation": state.generation,
            "signs": None if signs is None else signs.fingerprint,
            "trusted": [key.fingerprint for key in state.trusted],
            "can_sign_here": self._signing_here(role) is not None,
            "not_followed": [
                {
                    "kind": each.follower.kind,
                    "id": each.follower.id,
                    "name": each.follower.name,
                    "certified_by": each.follower.certified_by,
                    "generation": each.follower.generations.get(role, 0),
                    "certificate_ends": rfc3339(each.follower.valid_before),
                    "seen": rfc3339(each.follower.seen),
                    "lacks": list(each.lacks),
                }
                for each in await self.laggards(role)
            ],
        }

    def _signing_here(self, role: Role) -> Any:
        path = self._directory / AUTHORITY_FILES[role]
        return load_private_key(path).public if path.exists() else None

    async def forget(self, id: str) -> Follower:
        """Wait no longer for a proxy or an agent that is gone for good.

        :param id: of it, or the beginning of it that no other one has.
        :return: what was known of it.
        :raises RotationRefused: when there is none, or several, or it is connected.
        :raises RegistryError: when the registry cannot be used.
        """
        follower = the_one(
            id,
            await self._followers.list(),
            lambda each: each.id,
            what="a proxy or an agent that a rotation waits for",
            listed_by="rtunnel ca status",
            refusal=RotationRefused,
        )
        if follower.id in self._connected():
            raise RotationRefused(
                f"{follower.kind} {follower.id} is connected: it follows, or its log "
                "says why not. To be rid of it, revoke it"
            )
        await self._followers.forget(follower)
        self._record(
            FollowerForgotten(
                proxy=self._proxy_id, target=f"{follower.kind}:{follower.id}"
            )
        )
        return follower

    async def move(
        self, role: Role, to: Phase | None, back: bool, force: bool
    ) -> dict[str, Any]:
        """Go one phase on, or back.

        :param to: the phase to come to; None is the next.
        :param force: whoever has not followed is left behind.
        :return: the authority's state, and the phase before.
        :raises RotationRefused: when it is not one step, somebody has not followed, or
            the private key is not here.
        :raises RtunnelError: when files or registry cannot be used.
        """
        if self._busy:
            raise RotationRefused("a step of a rotation is under way; try again")
        self._busy = True
        try:
            return await self._move(role, to, back, force)
        finally:
            self._busy = False

    async def _move(
        self, role: Role, to: Phase | None, back: bool, force: bool
    ) -> dict[str, Any]:
        state = self.state(role)
        target = wanted_phase(state.phase, to, back)
        before = state.phase
        if target is not before:
            bundle = await self._next_bundle(state, target)
            await self._check_followed(role, force)
            await self._bundles.publish(bundle, force)
            self._record(
                CaRotated(
                    proxy=self._proxy_id,
                    target=AUTHORITY_FILES[role],
                    reason=f"from {before.value} to {target.value}"
                    + (", forced" if force else ""),
                )
            )
        return {"before": before.value, "authority": await self._authority_status(role)}

    async def _next_bundle(self, state: AuthorityState, target: Phase) -> TrustBundle:
        role = state.role
        path = self._directory / AUTHORITY_FILES[role]
        if not path.exists():
            raise RotationRefused(
                f"{path} is not here: rotate where the {role} authority's private key "
                "is, in the state directory that `rtunnel init` made"
            )
        signing = load_authority(self._directory, path.name)
        new = None
        if target is Phase.TRUSTED and state.phase in (Phase.STEADY, Phase.RETIRED):
            new = (await make_next(path, self._make_key)).public
        keys = available_keys(path)
        bundle = step(state, signing.public, target, new)
        if bundle.signs not in {key.public for key in keys}:
            comes = state.phase is Phase.TRUSTED
            place = next_path(path) if comes else previous_path(path)
            raise RotationRefused(
                f"the private key that would sign then is not here; put it back as "
                f"{place}" + (", or go back with --back" if comes else "")
            )
        return bundle.signed(keys)

    async def _check_followed(self, role: Role, force: bool) -> None:
        laggards = await self.laggards(role)
        if not laggards or force:
            return
        named = "; ".join(
            f"{each.follower.kind} {each.follower.id} ({each.follower.name}) "
            + " and ".join(each.lacks)
            for each in laggards[:NAMED]
        )
        more = f", and {len(laggards) - NAMED} more" if len(laggards) > NAMED else ""
        raise RotationRefused(
            f"{counted(len(laggards), 'has', 'have')} not followed "
            f"yet: {named}{more}; see `rtunnel ca status` and wait, drop who is gone "
            "for good with `rtunnel ca forget ID`, or leave all behind with --force"
        )


def _end(valid_before: int) -> str | None:
    return None if valid_before == FOREVER else rfc3339(valid_before, "seconds")
