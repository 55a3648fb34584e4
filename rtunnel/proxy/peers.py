"""The other proxies of the cluster, as ways to agents that hold no tunnel here.

Which proxy holds which tunnel is in the registry; each is dialled over one link, which
is made when it is needed and closed when it has been idle for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rtunnel.discovery.peer_request import PeerRequest
from rtunnel.errors import ConnectionFailed
from rtunnel.proxy.dispatch import PeerSite, Reached
from rtunnel.proxy.peer_link import LinkSettings, PeerLink
from rtunnel.registry.membership import Membership
from rtunnel.registry.records import ProxyRecord, TunnelRecord
from rtunnel.trust.signing_role import Role

#: Seconds for which a peer that could not be reached is asked after all others.
DISTRUST: Final = 10.0


class Peers:
    """Links to peers, by proxy id; a :class:`~rtunnel.proxy.dispatch.PeerDialler`.

    :param make_link: for tests.
    """

    def __init__(
        self,
        membership: Membership,
        settings: LinkSettings,
        make_link: Callable[..., PeerLink] = PeerLink,
    ) -> None:
        self._membership = membership
        self._settings = settings
        self._make_link = make_link
        self._links: dict[str, PeerLink] = {}
        self._outgoing: set[PeerLink] = set()
        self._failed_at: dict[str, float] = {}
        self._stopped = False

    def holding(self, cluster: str) -> tuple[PeerSite, ...]:
        """The peers with a tunnel to a cluster, in the order in which to ask them.

        Those that could be reached lately come first, then active ones, then those with
        the fewest channels on a tunnel.
        """
        own = self._membership.record.id
        by_proxy: dict[str, list[TunnelRecord]] = {}
        for tunnel in self._membership.tunnels():
            if tunnel.cluster == cluster and tunnel.proxy != own:
                by_proxy.setdefault(tunnel.proxy, []).append(tunnel)
        records = [p for p in self._membership.proxies() if p.id in by_proxy]

        def order(record: ProxyRecord) -> tuple[bool, bool, int, str]:
            channels = min(tunnel.channels for tunnel in by_proxy[record.id])
            distrusted = self._is_distrusted(record.id)
            return distrusted, record.state != "active", channels, record.id

        return tuple(
            PeerSite(
                record.id,
                record.name,
                frozenset(tunnel.agent for tunnel in by_proxy[record.id]),
            )
            for record in sorted(records, key=order)
        )

    async def dial(self, site: PeerSite, request: PeerRequest, person: str) -> Reached:
        """See :class:`~rtunnel.proxy.dispatch.PeerDialler`."""
        return await self._link(site.id).dial(request, person)

    def signing(self, role: Role) -> tuple[str, ...]:
        """The peers that can sign for a role, in the order in which to ask them."""
        own = self._membership.record.id
        records = [
            p for p in self._membership.proxies() if role in p.signs and p.id != own
        ]

        def order(record: ProxyRecord) -> tuple[bool, bool, str]:
            distrusted = self._is_distrusted(record.id)
            return distrusted, record.state != "active", record.id

        return tuple(record.id for record in sorted(records, key=order))

    async def ask(self, proxy: str, kind: bytes, data: bytes) -> bytes:
        """Open a channel to a peer and read it to its end.

        :raises OpenRefused: with its reason and sentence.
        :raises ConnectionFailed: when it cannot be asked.
        :raises ConnectionClosed: when the link to it broke meanwhile.
        """
        return await self._link(proxy).ask(kind, data)

    def _link(self, proxy: str) -> PeerLink:
        link = self._links.get(proxy)
        if link is not None and link.is_distrusted:
            self._outgoing.add(self._links.pop(proxy))
            link = None
        if link is None:
            if self._stopped:
                raise ConnectionFailed("this proxy is shutting down")
            link = self._make_link(proxy, self._addresses(proxy), self, self._settings)
            self._links[proxy] = link
            link.start()
        return link

    def close_revoked(self) -> None:
        """End the links to peers that are revoked by now."""
        for link in (*self._links.values(), *self._outgoing):
            link.close_if_revoked()

    def make_anew(self) -> None:
        """Our certificate is another one: the next dials make links of their own, and
        the present ones end when their channels have."""
        self._outgoing.update(self._links.values())
        self._links.clear()

    def authorities_changed(self) -> None:
        """Others are trusted now: likewise the links to peers of one that is not."""
        for proxy, link in list(self._links.items()):
            if link.is_distrusted:
                self._outgoing.add(self._links.pop(proxy))

    def close_all(self) -> None:
        """End every link, for good."""
        self._stopped = True
        for link in (*self._links.values(), *self._outgoing):
            link.close("the proxy is shutting down")

    def _addresses(self, proxy: str) -> tuple[str, ...]:
        for record in self._membership.proxies():
            if record.id == proxy:
                return record.peer_addresses or record.addresses
        return ()

    def _is_distrusted(self, proxy: str) -> bool:
        now = self._settings.reactor.seconds()
        return bool(
            proxy in self._failed_at and now - self._failed_at[proxy] < DISTRUST
        )

    # LinkOwner.

    def link_failed(self, link: PeerLink) -> None:
        """Ask others first for a while."""
        self._failed_at[link.peer] = self._settings.reactor.seconds()

    def link_ended(self, link: PeerLink) -> None:
        """The next dial makes a new one."""
        self._outgoing.discard(link)
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
