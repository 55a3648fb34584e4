"""The join tokens of a cluster, in the registry that its proxies share.

A token is looked up when its bearer logs in, and used up when a certificate is about to
be signed: by compare-and-swap, so once across all proxies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from twisted.logger import Logger

from rtunnel.audit.events import Event, TokenAdded, TokenRemoved
from rtunnel.errors import (
    RegistryError,
    RtunnelError,
    SigningRefused,
    SigningUnavailable,
)
from rtunnel.proxy.beginnings import the_one
from rtunnel.registry.interface import Entry, Registry
from rtunnel.trust.join_token import TOKENS, TokenRecord, hash_of
from rtunnel.trust.signing_request import JoinRequest
from rtunnel.trust.signing_role import Role


class Tokens:
    """The tokens that are good at the moment.

    :param registry: started by whoever made it.
    :param now: wall clock, seconds since the epoch.
    :param record: takes audit events.
    :param proxy_id: of the proxy where things are asked for.
    """

    _log = Logger()

    def __init__(
        self,
        registry: Registry,
        now: Callable[[], float],
        *,
        record: Callable[[Event], object],
        proxy_id: str,
    ) -> None:
        self._registry = registry
        self._now = now
        self._record = record
        self._proxy_id = proxy_id

    async def add(self, record: TokenRecord) -> None:
        """Record a new token.

        :raises RtunnelError: when it has expired already, or is there.
        :raises RegistryError: when it cannot be recorded.
        """
        lifetime = record.expires - self._now()
        if lifetime <= 0:
            raise RtunnelError("that token would have expired already")
        written = await self._registry.compare_and_swap(
            record.key, record.to_json(), None, lifetime
        )
        if written is None:
            raise RtunnelError("that token is there already")
        times = "once" if record.uses == 1 else f"{record.uses} times"
        label = f", {record.label}" if record.label else ""
        self._record(
            TokenAdded(
                proxy=self._proxy_id,
                target=f"token:{record.id}",
                cluster=record.cluster,
                seconds=lifetime,
                reason=f"for {_an(record.kind)}, {times}{label}",
            )
        )

    async def list(self) -> tuple[TokenRecord, ...]:
        """Every token that is good, the one that expires next first.

        :raises RegistryError: when they cannot be read.
        """
        records = []
        for entry in await self._registry.list(TOKENS):
            try:
                record = TokenRecord.from_json(entry.key, entry.value)
            except RegistryError as error:
                self._log.warn("{problem}", problem=str(error))
                continue
            if record.is_good(self._now()):
                records.append(record)
        return tuple(sorted(records, key=lambda record: (record.expires, record.id)))

    async def remove(self, token_id: str) -> TokenRecord:
        """Withdraw a token.

        :param token_id: or as much of it as is unique.
        :return: what was withdrawn.
        :raises RtunnelError: when no token, or more than one, has that id.
        :raises RegistryError: when it cannot be done.
        """
        removed = the_one(
            token_id,
            await self.list(),
            lambda record: record.hash,
            what="a token",
            listed_by="rtunnel token ls",
        )
        if not await self._registry.delete(removed.key):
            raise RtunnelError(f"token {removed.id} was used up or withdrawn just now")
        self._record(
            TokenRemoved(
                proxy=self._proxy_id,
                target=f"token:{removed.id}",
                cluster=removed.cluster,
                reason=removed.label,
            )
        )
        return removed

    async def look_up(self, token: str) -> TokenRecord:
        """What is known of a token; it stays as good as it was.

        :param token: anything that somebody shows as one.
        :raises SigningRefused: when it is none, or no longer; the text is for our own
            log.
        :raises SigningUnavailable: when the registry cannot be asked.
        """
        record, _ = await self._find(token)
        return record

    async def redeem(self, request: JoinRequest) -> TokenRecord:
        """Use a token, once.

        :return: what it was before.
        :raises SigningRefused: when it is not good, or not for this; the text is for
            our own log.
        :raises SigningUnavailable: when the registry cannot be asked.
        """
        while True:
            record, entry = await self._find(request.token)
            check_purpose(record, request.role, request.cluster)
            if await self._use(record, entry):
                return record
            # Somebody else has used, or withdrawn, the same token meanwhile.

    async def _find(self, token: str) -> tuple[TokenRecord, Entry]:
        try:
            entry = await self._registry.get(TOKENS + hash_of(token))
            if entry is None:
                raise SigningRefused(
                    "no such token: used up, expired, withdrawn, or never made here"
                )
            record = TokenRecord.from_json(entry.key, entry.value)
        except RegistryError as error:
            self._away(error)
        if not record.is_good(self._now()):
            raise SigningRefused(f"token {record.id} has expired")
        return record, entry

    async def _use(self, record: TokenRecord, entry: Entry) -> bool:
        left = record.used_once()
        try:
            if left is None:
                return await self._registry.delete(entry.key, entry.revision)
            lifetime = max(1.0, left.expires - self._now())
            written = await self._registry.compare_and_swap(
                entry.key, left.to_json(), entry.revision, lifetime
            )
        except RegistryError as error:
            self._away(error)
        return written is not None

    def _away(self, error: RegistryError) -> NoReturn:
        self._log.warn("tokens cannot be checked: {problem}", problem=str(error))
        raise SigningUnavailable(
            "tokens cannot be checked at the moment; try again"
        ) from error


def _an(kind: Role) -> str:
    return "an agent" if kind == "agent" else "a proxy"


def check_purpose(record: TokenRecord, role: str, cluster: str) -> None:
    """Whether a token is for what its bearer wants to be.

    :param cluster: empty to take what the token says.
    :raises SigningRefused: when it is for something else.
    """
    if record.kind != role:
        raise SigningRefused(f"token {record.id} is for a {record.kind}, not a {role}")
    if cluster and cluster != record.cluster:
        raise SigningRefused(
            f"token {record.id} is for cluster {record.cluster}, not {cluster}"
        )
