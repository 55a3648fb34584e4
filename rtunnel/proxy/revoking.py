"""What ``rtunnel revoke`` does, in a proxy or without one: write, list, remove, audit.

What follows from it on every proxy is for :mod:`rtunnel.proxy.revocation_watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rtunnel.audit.events import Event, RevocationRemoved, Revoked
from rtunnel.errors import RevocationRefused
from rtunnel.proxy.beginnings import the_one
from rtunnel.proxy.host_revoking import HostRevoking
from rtunnel.registry.interface import Registry
from rtunnel.registry.revocation_store import (
    add_revocation,
    read_revocations,
    remove_revocation,
)
from rtunnel.trust.revocation import Revocation


class Revoking:
    """Changes the operators' revocations.

    :param registry: started by whoever made it.
    :param record: takes audit events.
    :param proxy_id: of the proxy where it is asked for.
    :param hosts: what agents are told.
    """

    def __init__(
        self,
        registry: Registry,
        record: Callable[[Event], Any],
        proxy_id: str,
        hosts: HostRevoking,
    ) -> None:
        self._registry = registry
        self._record = record
        self._proxy_id = proxy_id
        self._hosts = hosts

    async def add(self, revocation: Revocation) -> str | None:
        """Revoke something.

        :return: why agents are not told, in a sentence, if it may be of a proxy.
        :raises RevocationRefused: when it is revoked for longer already.
        :raises RtunnelError: when it cannot be written.
        """
        await add_revocation(self._registry, revocation)
        self._record(
            Revoked(
                proxy=self._proxy_id,
                target=revocation.target,
                reason=revocation.reason,
            )
        )
        return await self._hosts.add(revocation)

    async def list(self) -> Sequence[Revocation]:
        """What is revoked, the oldest first: the records, and what the host authority
        has signed.

        :raises RtunnelError: when it cannot be read.
        """
        records = await read_revocations(self._registry)
        known = {record.id for record in records}
        signed = (each for each in await self._hosts.entries() if each.id not in known)
        return sorted((*records, *signed), key=lambda each: (each.created, each.id))

    async def remove(self, id: str) -> Revocation:
        """Take a revocation back.

        :param id: its own, or the beginning of it.
        :return: what was removed.
        :raises RtunnelError: when there is none, or several.
        """
        removed = the_one(
            id,
            await self.list(),
            lambda record: record.id,
            what="a revocation",
            listed_by="rtunnel revoke --list",
            refusal=RevocationRefused,
        )
        # First what may be refused: half of it would be nothing.
        await self._hosts.remove(removed.id)
        await remove_revocation(self._registry, removed.id)
        self._record(
            RevocationRemoved(
                proxy=self._proxy_id, target=removed.target, reason=removed.reason
            )
        )
        return removed
