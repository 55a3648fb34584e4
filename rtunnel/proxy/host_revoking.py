"""Changes the list of revoked hosts, where the host authority's private key is.

Only an operator's command does, never what stands in the registry: any proxy can write
there, and one that was stolen must not be able to have the others refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from rtunnel.authority_files import available_keys, signs_here
from rtunnel.errors import MessageError, RegistryError, RevocationRefused
from rtunnel.registry.interface import Entry, Registry
from rtunnel.state_directory import HOST_CA, load_trust_anchors, public_path
from rtunnel.trust.bundle import MAX_SIGNATURES
from rtunnel.trust.revocation import Revocation, RevocationKind
from rtunnel.trust.revoked_hosts import (
    MAX_ENTRIES,
    RevokedHosts,
    following,
    may_be_host,
)
from rtunnel.trust_files import adopt_revoked_hosts, load_revoked_hosts
from rtunnel.wire.keys import PublicKey

#: Where the registry keeps the list.
REVOKED_HOSTS: Final = "trust/revoked-hosts"


class HostRevoking:
    """The list of a state directory, and of its registry.

    :param registry: started by whoever made it.
    :param directory: the state directory.
    :param now: wall clock, seconds since the epoch.
    """

    def __init__(
        self, registry: Registry, directory: Path, now: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._now = now

    async def add(self, revocation: Revocation) -> str | None:
        """Tell agents of a revocation, if it can be one of a proxy.

        :return: why they are not told, in a sentence; None when they are, or it is of
            nobody whom they could meet.
        :raises RtunnelError: when files or registry cannot be used.
        """
        if not may_be_host(revocation):
            return None
        trusted = self._trusted()
        if revocation.kind is RevocationKind.KEY and revocation.value in {
            key.fingerprint for key in trusted
        }:
            return (
                "agents believe this authority until `rtunnel ca rotate host` has "
                "retired it"
            )
        if not signs_here(self._directory, HOST_CA):
            return (
                "agents go by what the host authority signs, and its private key is "
                "not here: if this is of a proxy, revoke it also where that key is, in "
                "the state directory that `rtunnel init` made"
            )
        try:
            await self._change(trusted, add=revocation)
        except MessageError:
            return (
                f"agents are told of {MAX_ENTRIES} revocations at most, and these are "
                "there; if this is of a proxy, remove some that are not"
            )
        return None

    async def remove(self, id: str) -> None:
        """Take an entry off the list, if it is there.

        :param id: of a revocation.
        :raises RevocationRefused: when the list cannot be signed here.
        :raises RtunnelError: when files or registry cannot be used.
        """
        entry = next((each for each in await self.entries() if each.id == id), None)
        if entry is None:
            return
        if not signs_here(self._directory, HOST_CA):
            raise RevocationRefused(
                f"{entry.target} was revoked with the host authority's key; take it "
                "back where that is, in the state directory that `rtunnel init` made"
            )
        await self._change(self._trusted(), remove=id)

    async def entries(self) -> tuple[Revocation, ...]:
        """What is on the list now.

        :raises RtunnelError: when files or registry cannot be used.
        """
        known, _ = await self._known(self._trusted())
        return () if known is None else known.at(self._now())

    async def sign_again(self) -> None:
        """Have the list signed by every key of the authority that is trusted now, so
        that whoever trusts one of them believes it.

        :raises RtunnelError: when files or registry cannot be used.
        """
        if not signs_here(self._directory, HOST_CA):
            return
        trusted = self._trusted()
        known, _ = await self._known(trusted)
        if known is not None and any(
            known.signer([key]) is None for key in self._signing(trusted)
        ):
            await self._change(trusted)

    def _trusted(self) -> tuple[PublicKey, ...]:
        return load_trust_anchors(public_path(self._directory / HOST_CA))

    def _signing(self, trusted: tuple[PublicKey, ...]) -> list[PublicKey]:
        keys = available_keys(self._directory / HOST_CA)
        return [key.public for key in keys if key.public in trusted][:MAX_SIGNATURES]

    async def _known(
        self, trusted: tuple[PublicKey, ...]
    ) -> tuple[RevokedHosts | None, Entry | None]:
        """The newest list that the authority has signed, and what the registry has."""
        entry = await self._registry.get(REVOKED_HOSTS)
        lists = (
            load_revoked_hosts(self._directory, trusted),
            parse_revoked_hosts(entry, trusted),
        )
        newest = max(
            (each for each in lists if each is not None),
            key=lambda each: each.version,
            default=None,
        )
        return newest, entry

    async def _change(
        self,
        trusted: tuple[PublicKey, ...],
        *,
        add: Revocation | None = None,
        remove: str | None = None,
    ) -> None:
        known, entry = await self._known(trusted)
        revoked = following(known, self._now(), add=add, remove=remove)
        signing = self._signing(trusted)
        revoked = revoked.signed(
            key
            for key in available_keys(self._directory / HOST_CA)
            if key.public in signing
        )
        written = await self._registry.compare_and_swap(
            REVOKED_HOSTS, revoked.to_json(), None if entry is None else entry.revision
        )
        if written is None:
            raise RegistryError("somebody else revokes at this moment; try again")
        adopt_revoked_hosts(self._directory, revoked, trusted)


def parse_revoked_hosts(
    entry: Entry | None, trusted: tuple[PublicKey, ...]
) -> RevokedHosts | None:
    """The list in a registry entry; None when it is none, or nobody has signed it."""
    if entry is None:
        return None
    try:
        revoked = RevokedHosts.from_json(entry.value)
    except MessageError:
        return None
    return None if revoked.signer(trusted) is None else revoked
