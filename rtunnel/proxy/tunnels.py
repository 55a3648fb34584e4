"""The agents' tunnels at this proxy: which are taken into service, and what follows."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rtunnel.audit.events import Event, TunnelDown, TunnelUp
from rtunnel.naming import printable
from rtunnel.proxy.agent_trust import AgentTrust
from rtunnel.proxy.known_clusters import KnownClusters
from rtunnel.proxy.live_logins import LiveLogins
from rtunnel.proxy.publication import Publication
from rtunnel.proxy.sites import Sites
from rtunnel.proxy.tunnel import Tunnel
from rtunnel.trust.identity import Identity
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.wire.keys import PublicKey

#: Seconds a tunnel has to answer when another one of the same agent instance comes.
PROBE_TIMEOUT = 3.0


class Tunnels:
    """All of them, those that were replaced and still carry something included.

    A :class:`~rtunnel.proxy.tunnel.TunnelOwner`.

    :param logins: hears of every agent that is logged in, and may end it.
    :param publication: tells others of what changes.
    :param trust: tells agents of certificates and authorities.
    :param record: takes audit events.
    :param proxy_id: our own.
    :param now: wall clock, seconds since the epoch.
    :ivar on_ended: told of each that has ended.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        sites: Sites[Tunnel],
        known: KnownClusters,
        logins: LiveLogins,
        publication: Publication,
        trust: AgentTrust,
        record: Callable[[Event], object],
        proxy_id: str,
        now: Callable[[], float],
    ) -> None:
        self._sites = sites
        self._known = known
        self._logins = logins
        self._publication = publication
        self._trust = trust
        self._record = record
        self._proxy_id = proxy_id
        self._now = now
        self._replaced: set[Tunnel] = set()
        self._draining = False
        self.on_ended: Callable[[], None] = lambda: None

    @property
    def any_left(self) -> bool:
        """Whether one is there that was in service."""
        return bool(self._sites.tunnels() or self._replaced)

    def refuse_new(self) -> None:
        """From now on, take none into service."""
        self._draining = True

    def send_drain(self, seconds: float) -> None:
        """Ask agents to leave.

        :param seconds: that what is open may last.
        """
        for tunnel in self._sites.tunnels():
            tunnel.send_drain("the proxy is shutting down", seconds)

    def close_all(self) -> None:
        """End every tunnel."""
        for tunnel in (*self._sites.tunnels(), *self._replaced):
            tunnel.close("the proxy is shutting down")

    # TunnelOwner.

    def has_lapsed(self, identity: Identity) -> bool:
        """Whether an identity may do nothing new."""
        return self._logins.has_lapsed(identity)

    def tunnel_started(self, tunnel: Tunnel) -> None:
        """An agent has logged in."""
        self._logins.add(tunnel)

    def own_authority(self) -> PublicKey:
        """The authority of the host certificate that is shown now."""
        return self._trust.own_authority()

    def renew(self, tunnel: Tunnel, request: RenewalRequest) -> bool:
        """Have an agent's certificate renewed; see :meth:`AgentTrust.renew`."""
        return self._trust.renew(tunnel, request)

    async def admit(self, tunnel: Tunnel) -> bool:
        """Take a tunnel into service unless its agent instance holds a live one.

        The same agent process may replace its own, which then goes on until its
        channels have ended.
        """
        while (old := self._sites.held_by(tunnel.agent)) is not None:
            if tunnel.replaces and tunnel.replaces == old.replacement_proof:
                if not self._draining:
                    self._sites.remove(old)
                    self._replaced.add(old)
                    old.replaced_by(tunnel)
                break
            if await old.still_answers(PROBE_TIMEOUT):
                self._log.warn(
                    "agent {agent} of cluster {cluster} came a second time from "
                    "{source}; its live tunnel stays. Two agents must not share a key",
                    agent=tunnel.agent,
                    cluster=tunnel.cluster,
                    source=tunnel.identity.source,
                )
                return False
            self._sites.remove(old)
            old.close("replaced by a new tunnel of the same agent instance")
        if self._draining:
            return False
        self._sites.add(tunnel)
        return True

    def tunnel_in_service(self, tunnel: Tunnel) -> None:
        """Tell the agent of every proxy, and everybody of the tunnel."""
        self._log.info(
            "tunnel of agent {agent} of cluster {cluster} from {source} is in service",
            agent=tunnel.agent,
            cluster=tunnel.cluster,
            source=tunnel.identity.source,
        )
        self._publication.tell_agent(tunnel)
        self._trust.tunnel_in_service(tunnel)
        self._record(
            TunnelUp(
                cluster=tunnel.cluster,
                agent=tunnel.agent,
                proxy=self._proxy_id,
                source=tunnel.identity.source,
            )
        )
        self._publication.tunnels_changed()
        remembering = Deferred.fromCoroutine(self._known.seen(tunnel.cluster))
        remembering.addErrback(
            lambda failure: self._log.failure("a cluster is not recorded", failure)
        )

    def tunnel_changed(self, tunnel: Tunnel) -> None:
        """Publish what changed."""
        self._publication.tunnels_changed()

    def tunnel_ended(self, tunnel: Tunnel, reason: str) -> None:
        """Forget a tunnel."""
        self._logins.remove(tunnel)
        self._sites.remove(tunnel)
        self._replaced.discard(tunnel)
        self.on_ended()
        if not tunnel.admitted:
            return
        self._log.info(
            "tunnel of agent {agent} of cluster {cluster} has ended: {reason}",
            agent=tunnel.agent,
            cluster=tunnel.cluster,
            reason=printable(reason),
        )
        self._record(
            TunnelDown(
                cluster=tunnel.cluster,
                agent=tunnel.agent,
                proxy=self._proxy_id,
                source=tunnel.identity.source,
                seconds=self._now() - tunnel.since,
                reason=printable(reason),
                outcome="failed" if tunnel.was_lost else "ok",
            )
        )
        self._publication.tunnels_changed()
