"""What ``rtunnel revoke`` does, in a proxy or without one: write, list, remove, audit.

What follows from it on every proxy is for :mod:`rtunnel.proxy.revocation_watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rtunnel.audit.events import Event, RevocationRemoved, Revoked
from rtunnel.errors import RtunnelError
from rtunnel.naming import printable
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
    """

    def __init__(
        self, registry: Registry, record: Callable[[Event], Any], proxy_id: str
    ) -> None:
        self._registry = registry
        self._record = record
        self._proxy_id = proxy_id

    async def add(self, revocation: Revocation) -> None:
        """Revoke something.

        :raises RegistryError: when it cannot be written.
        """
        await add_revocation(self._registry, revocation)
        self._record(
            Revoked(
                proxy=self._proxy_id,
                target=revocation.target,
                reason=revocation.reason,
            )
        )

    async def list(self) -> Sequence[Revocation]:
        """What is revoked, the oldest first.

        :raises RegistryError: when it cannot be read.
        """
        return await read_revocations(self._registry)

    async def remove(self, id: str) -> Revocation:
        """Take a revocation back.

        :param id: its own, or the beginning of it.
        :return: what was removed.
        :raises RtunnelError: when there is none, or several.
        """
        removed = await remove_revocation(self._registry, id)
        if removed is None:
            raise RtunnelError(
                f"there is no revocation {printable(id, 64)}; `rtunnel revoke --list` "
                "shows them"
            )
        self._record(
            RevocationRemoved(
                proxy=self._proxy_id, target=removed.target, reason=removed.reason
            )
        )
        return removed
