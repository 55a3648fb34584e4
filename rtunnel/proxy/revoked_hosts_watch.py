"""The list of revoked hosts that is in force, here and in the registry.

It is followed as rotations are (:mod:`rtunnel.proxy.trust_watch`): what the registry
holds counts if the host authority has signed it, and what it holds no longer is put
there again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.errors import KeyFileError, RtunnelError
from rtunnel.proxy.credentials import LiveCredentials
from rtunnel.proxy.host_revoking import (
    REVOKED_HOSTS,
    HostRevoking,
    parse_revoked_hosts,
)
from rtunnel.proxy.registry_look import RegistryLook
from rtunnel.registry.interface import Registry
from rtunnel.trust.revocation import Revocation
from rtunnel.trust.revoked_hosts import RevokedHosts
from rtunnel.trust_files import adopt_revoked_hosts, load_revoked_hosts
from rtunnel.wire.keys import PublicKey


class RevokedHostsWatch:
    """Follows the list.

    :param directory: the state directory, where it is kept.
    :param credentials: know the host authorities.
    :param changed: called when other hosts are revoked.
    :param signing: signs the list again when the authority has another key.
    :param now: wall clock, seconds since the epoch.
    :raises KeyFileError: when the file that keeps it cannot be used.
    """

    _log = Logger()

    def __init__(
        self,
        registry: Registry,
        clock: IReactorTime,
        directory: Path,
        credentials: LiveCredentials,
        changed: Callable[[], None],
        signing: HostRevoking,
        now: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._credentials = credentials
        self._changed = changed
        self._signing = signing
        self._now = now
        self._present = load_revoked_hosts(directory, self._trusted)
        self._told = self._present
        self._held = self._entries()
        self._look = RegistryLook(
            registry, clock, REVOKED_HOSTS, self._read, "the revoked hosts"
        )
        #: See :class:`~rtunnel.proxy.registry_look.RegistryLook`.
        self.start, self.stop = self._look.start, self._look.stop

    @property
    def _trusted(self) -> tuple[PublicKey, ...]:
        return tuple(self._credentials.anchors.host)

    @property
    def present(self) -> RevokedHosts | None:
        """The list in force; None when nothing was ever revoked."""
        return self._present

    @property
    def entries(self) -> tuple[Revocation, ...]:
        """What is on it now."""
        return self._held

    def _entries(self) -> tuple[Revocation, ...]:
        return () if self._present is None else self._present.at(self._now())

    def authorities_changed(self) -> None:
        """Other keys may be the host authority's."""
        signing = Deferred.fromCoroutine(self._sign_again())
        signing.addErrback(self._broke)

    async def _sign_again(self) -> None:
        try:
            await self._signing.sign_again()
        except RtunnelError as error:
            self._log.error(
                "the list of revoked hosts is not signed again: {reason}",
                reason=str(error),
            )

    def _broke(self, failure: Failure) -> None:
        self._log.failure("following the revoked hosts failed", failure)

    async def _read(self) -> None:
        entry = await self._registry.get(REVOKED_HOSTS)
        held = parse_revoked_hosts(entry, self._trusted)
        own = self._present
        if own is not None and own.signer(self._trusted) is None:
            own = None
        if held is not None and (own is None or held.version > own.version):
            self._adopt(held)
        elif own is not None and (held is None or held.version < own.version):
            await self._registry.compare_and_swap(
                REVOKED_HOSTS,
                own.to_json(),
                None if entry is None else entry.revision,
            )
        # Entries end by themselves, too.
        self._take()

    def _adopt(self, revoked: RevokedHosts) -> None:
        try:
            adopt_revoked_hosts(self._directory, revoked, self._trusted)
        except KeyFileError as error:
            # It counts all the same, until the next start.
            self._log.error("{reason}", reason=str(error))
        self._present = revoked
        self._log.info(
            "revoked hosts: {what} (version {version})",
            what=", ".join(entry.target for entry in revoked.entries) or "none",
            version=revoked.version,
        )

    def _take(self) -> None:
        present, entries = self._present, self._entries()
        if (present, entries) != (self._told, self._held):
            self._told, self._held = present, entries
            self._changed()
