"""Everybody who has logged in at this proxy: agents' tunnels, clients and peers.

One listener serves both; what a peer proved to be decides what it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from rtunnel.audit.events import Event
from rtunnel.proxy.client import Client
from rtunnel.proxy.dispatch import Dispatcher
from rtunnel.proxy.join_desk import JoinDesk
from rtunnel.proxy.joiner import Joiner
from rtunnel.proxy.known_clusters import KnownClusters
from rtunnel.proxy.live_logins import LiveLogins
from rtunnel.proxy.peer import Answerer, Peer
from rtunnel.proxy.publication import Publication
from rtunnel.proxy.recording import Recording
from rtunnel.proxy.status import status_document
from rtunnel.proxy.target_connections import TargetConnection
from rtunnel.proxy.tunnel import Tunnel
from rtunnel.proxy.tunnels import Tunnels
from rtunnel.registry.membership import Membership
from rtunnel.ssh.connection import ConnectionHandler
from rtunnel.trust.identity import (
    AgentIdentity,
    Identity,
    JoinIdentity,
    UserIdentity,
)
from rtunnel.trust.policy import Policy


class Accepted:
    """The tunnels, clients and peers of this proxy.

    :param tunnels: the agents.
    :param publication: knows which tunnels others are told of.
    :param logins: hears of everybody who is logged in, and may end it.
    :param identify: who the holder of a key or certificate is.
    :param policy: the rules in force now.
    :param new_id: makes connection ids.
    :param now: wall clock, seconds since the epoch.
    :param answers: who answers what other proxies ask, by channel type.
    :param desk: serves newcomers.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        tunnels: Tunnels,
        publication: Publication,
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
    ) -> None:
        self._membership = membership
        self._tunnels = tunnels
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
        self._publication = publication
        self._desk = desk
        self._clients: set[Client] = set()
        self._peers: set[Peer] = set()
        self._joiners: set[Joiner] = set()
        self._draining = False
        self._waiting_for_idle: list[Deferred[None]] = []
        self._waiting_for_end: list[Deferred[None]] = []
        tunnels.on_ended = self._tell_if_ended

    # What a login becomes.

    def make_handler(self, identity: Identity) -> ConnectionHandler:
        """Serve whoever has logged in."""
        if isinstance(identity, AgentIdentity):
            return Tunnel(
                identity,
                self._tunnels,
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
            [*self._publication.records(), *others],
            self._known.names(),
            visible,
        )

    # Leaving

    def refuse_new(self) -> None:
        """From now on, take no new tunnel and no new connection to a target."""
        self._draining = True
        self._tunnels.refuse_new()

    def drain(self, seconds: float) -> Deferred[None]:
        """Ask agents to leave, and wait for open connections.

        :param seconds: told to the agents; the waiting is cut short by the caller.
        :return: fires when no connection to a target is open; can be cancelled.
        """
        self._publication.tell_agents()
        self._tunnels.send_drain(seconds)
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
        self._tunnels.close_all()
        self._tell_if_ended()
        return ended

    def _tell_if_ended(self) -> None:
        if self._clients or self._peers or self._joiners or self._tunnels.any_left:
            return
        if self._waiting_for_end:
            waiting, self._waiting_for_end = self._waiting_for_end, []
            for each in waiting:
                each.callback(None)
