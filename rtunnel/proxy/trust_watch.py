"""The trust bundles that are in force, here and in the registry.

What the registry holds is adopted if a key that this proxy trusts has signed it. What
this proxy has adopted and the registry does not hold, for that was lost or is older, is
put there again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtunnel.authority_files import arrange
from rtunnel.errors import (
    BundleRefused,
    ConfigError,
    KeyFileError,
    MessageError,
    RotationRefused,
)
from rtunnel.proxy.credentials import LiveCredentials
from rtunnel.proxy.registry_look import RegistryLook
from rtunnel.registry.interface import Entry, Registry
from rtunnel.trust.bundle import ROLES, Role, TrustBundle
from rtunnel.trust_files import adopt_bundle, load_bundle

#: Keys of bundles: this and the authority's role.
TRUST: Final = "trust/"


class TrustWatch:
    """Follows the rotations of all three authorities.

    :param directory: the state directory.
    :param credentials: read again when anything is adopted.
    """

    _log = Logger()

    def __init__(
        self,
        registry: Registry,
        clock: IReactorTime,
        directory: Path,
        credentials: LiveCredentials,
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._credentials = credentials
        self._bundles: dict[Role, TrustBundle] = {}
        for role in ROLES:
            bundle = load_bundle(directory, role)
            if bundle is not None:
                self._bundles[role] = bundle
                # What a crash has interrupted, as far as it is known by now.
                self._arrange(bundle, is_newest=False)
        self._unarranged = set(self._bundles)
        self._refused: dict[Role, int] = {}
        self._subscribers: list[Callable[[Role], None]] = []
        self._look = RegistryLook(registry, clock, TRUST, self._read, "the authorities")
        #: See :class:`~rtunnel.proxy.registry_look.RegistryLook`.
        self.start, self.stop = self._look.start, self._look.stop

    def bundle(self, role: Role) -> TrustBundle | None:
        """The bundle of an authority; None before its first rotation."""
        return self._bundles.get(role)

    def subscribe(self, callback: Callable[[Role], None]) -> None:
        """Be told of every bundle that is adopted."""
        self._subscribers.append(callback)

    async def publish(self, bundle: TrustBundle, force: bool = False) -> None:
        """Put a bundle into force that follows the present one.

        :param force: also in place of one that is signed by no key that we trust.
        :raises RotationRefused: when somebody else was faster.
        :raises RegistryError: when the registry cannot be written.
        :raises KeyFileError: when the state directory cannot be written.
        :raises BundleRefused: when it is signed by none of the keys that we trust.
        """
        key = TRUST + bundle.role
        entry = await self._registry.get(key)
        held = None if entry is None else self._parsed(entry, bundle.role)
        if held is not None and held.generation >= bundle.generation:
            self._check_foreign(held, force)
        revision = None if entry is None else entry.revision
        written = await self._registry.compare_and_swap(key, bundle.to_json(), revision)
        if written is None:
            raise RotationRefused(
                f"the {bundle.role} authority is being rotated elsewhere; look at "
                "`rtunnel ca status` and try again"
            )
        self._adopt(bundle)

    def _check_foreign(self, held: TrustBundle, force: bool) -> None:
        """What the registry holds is not older than what is to be put there.

        :raises RotationRefused: unless nobody has to believe it, and we are told so.
        """
        if self._vouched_for(held):
            raise RotationRefused(
                f"the {held.role} authority is being rotated elsewhere: the registry "
                f"has generation {held.generation}"
            )
        if not force:
            raise RotationRefused(
                f"the registry has generation {held.generation} of the {held.role} "
                "authority, signed by no key that this proxy trusts: either this one "
                "has missed whole rotations, or somebody has written there who has no "
                "business to. If it is the latter, --force replaces it"
            )

    def _vouched_for(self, bundle: TrustBundle) -> bool:
        anchors = getattr(self._credentials.anchors, bundle.role)
        return bundle.signer(anchors) is not None

    async def _read(self) -> None:
        entries = {entry.key: entry for entry in await self._registry.list(TRUST)}
        for role in ROLES:
            await self._compare(role, entries.get(TRUST + role))

    async def _compare(self, role: Role, entry: Entry | None) -> None:
        own = self._bundles.get(role)
        held = None if entry is None else self._parsed(entry, role)
        if held is not None and (own is None or held.generation > own.generation):
            self._try_to_adopt(held)
            return
        if own is not None and role in self._unarranged:
            self._arrange(own)
        if own is not None and (
            held is None
            or held.generation < own.generation
            or (held != own and not self._vouched_for(held))
        ):
            await self._registry.compare_and_swap(
                TRUST + role, own.to_json(), None if entry is None else entry.revision
            )

    def _parsed(self, entry: Entry, role: Role) -> TrustBundle | None:
        try:
            bundle = TrustBundle.from_json(entry.value)
        except MessageError:
            return None
        return bundle if bundle.role == role else None

    def _try_to_adopt(self, bundle: TrustBundle) -> None:
        try:
            self._adopt(bundle)
        except (BundleRefused, ConfigError, KeyFileError) as error:
            if self._refused.get(bundle.role) != bundle.generation:
                self._refused[bundle.role] = bundle.generation
                self._log.error(
                    "this proxy cannot follow the rotation of the {role} authority: "
                    "{reason}",
                    role=bundle.role,
                    reason=str(error),
                )

    def _adopt(self, bundle: TrustBundle) -> None:
        self._credentials.check_trust(bundle.role, bundle.trusted)
        adopt_bundle(self._directory, bundle)
        self._arrange(bundle)
        self._bundles[bundle.role] = bundle
        self._log.info(
            "the {role} authority is in phase {phase} (generation {generation}); it "
            "trusts {keys}",
            role=bundle.role,
            phase=bundle.phase.value,
            generation=bundle.generation,
            keys=", ".join(key.fingerprint for key in bundle.trusted),
        )
        self._credentials.trust(bundle.role, bundle.trusted)
        for callback in self._subscribers:
            callback(bundle.role)

    def _arrange(self, bundle: TrustBundle, is_newest: bool = True) -> None:
        if is_newest:
            self._unarranged.discard(bundle.role)
        try:
            arrange(self._directory, bundle, is_newest=is_newest)
        except KeyFileError as error:
            self._log.error("{reason}", reason=str(error))
