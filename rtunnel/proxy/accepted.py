"""Everybody who has logged in at this proxy: agents' tunnels, clients and peers.

One listener serves both; what a peer proved to be decides what it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtunnel.audit.events import (
    Event,
    LoginRefused,
    TunnelDown,
    TunnelUp,
)
from rtunnel.discovery.messages import DiscoveryRequest
from rtunnel.errors import DISCONNECT_SERVICE_NOT_AVAILABLE, ProtocolError
from rtunnel.naming import printable
from rtunnel.proxy import refusals
from rtunnel.proxy.agent_trust import AgentTrust
from rtunnel.proxy.announcement import RESEND, announce
from rtunnel.proxy.client import Client
from rtunnel.proxy.dispatch import Dispatcher
from rtunnel.proxy.join_desk import JoinDesk
from rtunnel.proxy.joiner import Joiner
from rtunnel.proxy.known_clusters import KnownClusters
from rtunnel.proxy.live_logins import LiveLogins
from rtunnel.proxy.login_events import login_accepted
from rtunnel.proxy.peer import Answerer, Peer
from rtunnel.proxy.people_seen import PeopleSeen
from rtunnel.proxy.recording import Recording
from rtunnel.proxy.sites import Sites
from rtunnel.proxy.status import status_document
from rtunnel.proxy.target_connections import TargetConnection
from rtunnel.proxy.tunnel import Tunnel
from rtunnel.registry.membership import Membership
from rtunnel.registry.records import TunnelRecord
from rtunnel.ssh.connection import ConnectionHandler
from rtunnel.trust.identity import (
    AgentIdentity,
    Identity,
    JoinIdentity,
    UserIdentity,
)
from rtunnel.trust.policy import Policy
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.wire.keys import PublicKey

#: Seconds a tunnel has to answer when another one of the same agent instance comes.
PROBE_TIMEOUT = 3.0

#: Seconds between two looks at channel counts and round trip times for the registry.
MEASURE_INTERVAL = 5.0

#: Seconds in which tunnels that come and go are gathered before the registry hears of
#: them: it takes all of them at a time, and after a restart they come by the thousand.
GATHER = 0.05


class Accepted:
    """The tunnels, clients and peers of this proxy.

    :param logins: hears of everybody who is logged in, and may end it.
    :param identify: who the holder of a key or certificate is.
    :param policy: the rules in force now.
    :param new_id: makes connection ids.
    :param now: wall clock, seconds since the epoch.
    :param answers: who answers what other proxies ask, by channel type.
    :param trust: tells agents of certificates and authorities.
    :param people: remembers who has logged in.
    :param desk: serves newcomers.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        membership: Membership,
        sites: Sites[Tunnel],
        known: KnownClusters,
        dispatcher: Dispatcher,
        logins: LiveLogins,
        policy: Callable[[], Policy],
        identify: Callable[[bytes, bytes, str], Identity],
        audit: Recording,
        clock: IReactorTime,
        heartbeat: float,
        missed: int,
        new_id: Callable[[], str],
        now: Callable[[], float],
        answers: Mapping[bytes, Answerer],
        desk: JoinDesk,
        trust: AgentTrust,
        people: PeopleSeen,
    ) -> None:
        self._membership = membership
        self._sites = sites
        self._known = known
        self._dispatcher = dispatcher
        self._logins = logins
        self._policy = policy
        self._identify = identify
        self._audit = audit
        self._clock = clock
        self._heartbeat = heartbeat
        self._missed = missed
        self._new_id = new_id
        self._now = now
        self._answers = answers
        self._trust = trust
        self._people = people
        self._desk = desk
        self._clients: set[Client] = set()
        self._peers: set[Peer] = set()
        self._replaced: set[Tunnel] = set()
        self._joiners: set[Joiner] = set()
        self._draining = False
        self._waiting_for_idle: list[Deferred[None]] = []
        self._waiting_for_end: list[Deferred[None]] = []
        #: What agents have been told last.
        self._announced: DiscoveryRequest | None = None
        self._publishing: IDelayedCall | None = None
        self._announcing = LoopingCall(self._announce_all)
        self._measuring = LoopingCall(self._publish)
        self._announcing.clock = self._measuring.clock = clock
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to tell agents of proxies, and the registry of tunnels."""
        self._announced = self._discovery()
        self._unsubscribe = self._membership.subscribe(self._membership_changed)
        self._run(self._announcing, RESEND)
        self._run(self._measuring, MEASURE_INTERVAL)

    def stop(self) -> None:
        """Stop telling."""
        self._logins.stop()
        for loop in (self._announcing, self._measuring):
            if loop.running:
                loop.stop()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None

    def _run(self, loop: LoopingCall, interval: float) -> None:
        loop.start(interval, now=False).addErrback(
            lambda failure: self._log.failure("a periodic task failed", failure)
        )

    # What a login becomes.

    def make_handler(self, identity: Identity) -> ConnectionHandler:
        """Serve whoever has logged in."""
        if isinstance(identity, AgentIdentity):
            return Tunnel(
                identity,
                self,
                self._clock,
                self._heartbeat,
                self._missed,
                self._now(),
            )
        if isinstance(identity, UserIdentity):
            return Client(
                identity,
                self,
                self._dispatcher,
                self._clock,
                self._membership.record.id,
            )
        if isinstance(identity, JoinIdentity):
            return Joiner(identity, self, self._desk, self._clock)
        own = self._membership.record
        return Peer(
            identity,
            self,
            self._dispatcher,
            self._identify,
            self._clock,
            proxy_id=own.id,
            proxy_name=own.name,
            heartbeat=self._heartbeat,
            missed=self._missed,
            answers=self._answers,
        )

    def login_accepted(self, identity: Identity, address: str) -> None:
        """Audit a login (called by the SSH listener).

        :raises ProtocolError: when it has to be recorded and cannot be.
        """
        own = self._membership.record.id
        if not self.record(login_accepted(identity, own, address)):
            raise ProtocolError(
                refusals.NOBODY_UNRECORDED, DISCONNECT_SERVICE_NOT_AVAILABLE
            )
        self._people.saw(identity)

    def closed(self) -> str | None:
        """Why nobody can log in now, in a sentence for them (asked by the listener)."""
        return None if self.may_record else refusals.NOBODY_UNRECORDED

    def login_refused(self, address: str, username: str, reason: str) -> None:
        """Audit a refused login (called by the SSH listener)."""
        self.record(
            LoginRefused(
                source=address,
                proxy=self._membership.record.id,
                user=printable(username, 64),
                reason=reason,
            )
        )

    def token_refused(self, address: str, token: str, reason: str) -> None:
        """Audit a refused token (called by the SSH listener)."""
        self._desk.token_refused(address, reason)

    # TunnelOwner

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
        tunnel.send_discovery(self._discovery())
        self._trust.tunnel_in_service(tunnel)
        self.record(
            TunnelUp(
                cluster=tunnel.cluster,
                agent=tunnel.agent,
                proxy=self._membership.record.id,
                source=tunnel.identity.source,
            )
        )
        self._publish_soon()
        remembering = Deferred.fromCoroutine(self._known.seen(tunnel.cluster))
        remembering.addErrback(
            lambda failure: self._log.failure("a cluster is not recorded", failure)
        )

    def tunnel_changed(self, tunnel: Tunnel) -> None:
        """Publish what changed."""
        self._publish_soon()

    def tunnel_ended(self, tunnel: Tunnel, reason: str) -> None:
        """Forget a tunnel."""
        self._logins.remove(tunnel)
        self._sites.remove(tunnel)
        self._replaced.discard(tunnel)
        self._tell_if_ended()
        if not tunnel.admitted:
            return
        self._log.info(
            "tunnel of agent {agent} of cluster {cluster} has ended: {reason}",
            agent=tunnel.agent,
            cluster=tunnel.cluster,
            reason=printable(reason),
        )
        self.record(
            TunnelDown(
                cluster=tunnel.cluster,
                agent=tunnel.agent,
                proxy=self._membership.record.id,
                source=tunnel.identity.source,
                seconds=self._now() - tunnel.since,
                reason=printable(reason),
                outcome="failed" if tunnel.was_lost else "ok",
            )
        )
        self._publish_soon()

    # ClientOwner and PeerOwner

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self._draining

    def record(self, event: Event) -> bool:
        """Write an audit event; see :meth:`Recording.record`."""
        return self._audit.record(event)

    @property
    def may_record(self) -> bool:
        """False when events have to be recorded and cannot be."""
        return self._audit.problem is None

    def has_lapsed(self, identity: Identity) -> bool:
        """Whether an identity may do nothing new."""
        return self._logins.has_lapsed(identity)

    def new_connection_id(self) -> str:
        """An id for a connection to a target."""
        return self._new_id()

    def client_started(self, client: Client) -> None:
        """A client has logged in."""
        self._clients.add(client)
        self._logins.add(client)

    def client_ended(self, client: Client) -> None:
        """A client is gone."""
        self._clients.discard(client)
        self._logins.remove(client)
        self._tell_if_ended()

    def peer_started(self, peer: Peer) -> None:
        """Another proxy has logged in."""
        self._peers.add(peer)
        self._logins.add(peer)

    def peer_ended(self, peer: Peer) -> None:
        """Another proxy's connection is gone."""
        self._peers.discard(peer)
        self._logins.remove(peer)
        self._tell_if_ended()

    def joiner_started(self, joiner: Joiner) -> None:
        """A newcomer has shown a token."""
        self._joiners.add(joiner)

    def joiner_ended(self, joiner: Joiner) -> None:
        """Its connection is gone."""
        self._joiners.discard(joiner)
        self._tell_if_ended()

    def connection_joined(self, connection: TargetConnection) -> None:
        """A connection to a target is open."""
        self._logins.add_connection(connection)

    def connection_ended(self, connection: TargetConnection) -> None:
        """A connection to a target has ended."""
        self._logins.remove_connection(connection)
        self._tell_if_idle()

    def status_for(self, user: UserIdentity) -> dict[str, object]:
        """The status document, with the clusters that this user may see."""
        policy = self._policy()
        return self.status(lambda cluster: policy.reaches_cluster(user, cluster))

    def status(
        self, visible: Callable[[str], bool] = lambda cluster: True
    ) -> dict[str, Any]:
        """The status document; own tunnels as they are now."""
        own = self._membership.record
        others = [t for t in self._membership.tunnels() if t.proxy != own.id]
        return status_document(
            own,
            self._membership.proxies(),
            [*self._records(), *others],
            self._known.names(),
            visible,
        )

    # Telling agents and the registry

    def _discovery(self) -> DiscoveryRequest:
        own = self._membership.record
        others = [p for p in self._membership.proxies() if p.id != own.id]
        return announce([own, *others])

    def _membership_changed(self) -> None:
        """Tell agents, unless only tunnels changed: that would be as many messages as
        there are tunnels for each of them that comes or goes."""
        if self._discovery() != self._announced:
            self._announce_all()

    def _announce_all(self) -> None:
        request = self._announced = self._discovery()
        for tunnel in self._sites.tunnels():
            tunnel.send_discovery(request)

    def _records(self) -> list[TunnelRecord]:
        return [
            TunnelRecord(
                cluster=tunnel.cluster,
                agent=tunnel.agent,
                proxy=self._membership.record.id,
                since=tunnel.since,
                rtt_seconds=tunnel.rtt,
                channels=tunnel.open_channels,
            )
            for tunnel in self._sites.tunnels()
            if tunnel.accepts_dials
        ]

    def _publish_soon(self) -> None:
        if self._publishing is None:
            self._publishing = self._clock.callLater(GATHER, self._publish_gathered)

    def _publish_gathered(self) -> None:
        self._publishing = None
        self._publish()

    def _publish(self) -> None:
        self._membership.set_tunnels(self._records())

    # Leaving

    def refuse_new(self) -> None:
        """From now on, take no new tunnel and no new connection to a target."""
        self._draining = True

    def drain(self, seconds: float) -> Deferred[None]:
        """Ask agents to leave, and wait for open connections.

        :param seconds: told to the agents; the waiting is cut short by the caller.
        :return: fires when no connection to a target is open; can be cancelled.
        """
        self._announce_all()
        for tunnel in self._sites.tunnels():
            tunnel.send_drain("the proxy is shutting down", seconds)
        idle: Deferred[None] = Deferred(self._waiting_for_idle_cancelled)
        self._waiting_for_idle.append(idle)
        self._tell_if_idle()
        return idle

    @property
    def open_connections(self) -> int:
        """Connections to targets that are open now."""
        return sum(each.open_connections for each in self._with_connections())

    def _with_connections(self) -> tuple[Client | Peer, ...]:
        return *self._clients, *self._peers

    def _waiting_for_idle_cancelled(self, waiting: Deferred[None]) -> None:
        if waiting in self._waiting_for_idle:
            self._waiting_for_idle.remove(waiting)

    def _tell_if_idle(self) -> None:
        if self._waiting_for_idle and self.open_connections == 0:
            waiting, self._waiting_for_idle = self._waiting_for_idle, []
            for each in waiting:
                each.callback(None)

    def close_all(self) -> Deferred[None]:
        """End every connection.

        :return: fires when all are gone, what was written before flushed; can be
            cancelled.
        """
        ended: Deferred[None] = Deferred(lambda d: self._waiting_for_end.clear())
        self._waiting_for_end.append(ended)
        for each in (*self._with_connections(), *self._joiners):
            each.close("the proxy is shutting down")
        for tunnel in (*self._sites.tunnels(), *self._replaced):
            tunnel.close("the proxy is shutting down")
        self._tell_if_ended()
        return ended

    def _tell_if_ended(self) -> None:
        if self._clients or self._peers or self._joiners:
            return
        if self._sites.tunnels() or self._replaced:
            return
        if self._waiting_for_end:
            waiting, self._waiting_for_end = self._waiting_for_end, []
            for each in waiting:
                each.callback(None)
