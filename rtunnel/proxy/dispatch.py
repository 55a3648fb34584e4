"""From "who wants what" to an open stream: authorise, choose a way, dial.

The client hears of a failure only after every way has been tried: first our own
tunnels, then peers that hold one (docs/architecture.md, "The life of a connection").
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from rtunnel.discovery.peer_request import PeerRequest
from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    ConnectionClosed,
    ConnectionFailed,
    InvalidName,
    OpenRefused,
)
from rtunnel.naming import Target
from rtunnel.proxy import refusals
from rtunnel.proxy.fair_shares import ShareTaken
from rtunnel.proxy.local_site import LocalSite
from rtunnel.proxy.sites import Sites
from rtunnel.proxy.tunnel import Tunnel
from rtunnel.splice import Stream
from rtunnel.trust.hosts import parse_host
from rtunnel.trust.identity import UserIdentity
from rtunnel.trust.login_proof import LoginProof
from rtunnel.trust.policy import Allow, Deny, Policy

#: Seconds an agent has to answer one dial; its own TCP time-out is shorter.
DIAL_TIMEOUT = 15.0

#: Seconds a peer has to answer, the link to it and its agent's time included.
PEER_TIMEOUT = 20.0

#: Agents tried for one dial before peers are asked.
MAX_TRIES = 3

#: Peers asked for one dial before the client hears of the failure.
MAX_PEERS = 2

#: Seconds after which no further way is tried.
GIVE_UP_AFTER = 30.0

#: Reason codes by which an agent says something of the target. With any other one it,
#: or the tunnel to it, says that it cannot be asked now.
ANSWERS = (OPEN_ADMINISTRATIVELY_PROHIBITED, OPEN_CONNECT_FAILED)


class KnownClusters(Protocol):
    """Which clusters were ever seen."""

    def names(self) -> frozenset[str]:
        """Their names."""


@attrs.frozen
class Reached:
    """A target that has accepted.

    ``agent`` is the instance id of the agent that dialled; None on the local site.
    """

    stream: Stream
    agent: str | None


@attrs.frozen
class PeerSite:
    """A peer that holds tunnels to a cluster.

    :param id: the peer's.
    :param name: for sentences that people read.
    :param agents: instance ids of the agents that hold them.
    """

    id: str
    name: str
    agents: frozenset[str]


class PeerDialler(Protocol):
    """The other proxies."""

    def holding(self, cluster: str) -> Sequence[PeerSite]:
        """Those with a tunnel to a cluster, best first."""

    async def dial(self, site: PeerSite, request: PeerRequest, person: str) -> Reached:
        """Ask one of them.

        :param person: whose share of the link to it this takes.
        :raises OpenRefused: with its reason and sentence.
        :raises ConnectionFailed: when it cannot be asked.
        :raises ConnectionClosed: when the link to it broke meanwhile.
        :raises ShareTaken: when that person has a fair share of the link.
        """


class Dispatcher:
    """Opens streams to targets for clients of this proxy, and of its peers.

    :param own_cluster: the proxy's own cluster, dialled directly.
    :param own_name: the proxy's name, for what clients of peers are told.
    :param policy: the rules in force now; asked for every dial.
    :param now: wall clock, seconds since the epoch.
    """

    def __init__(
        self,
        *,
        own_cluster: str,
        own_name: str,
        policy: Callable[[], Policy],
        sites: Sites[Tunnel],
        local: LocalSite,
        peers: PeerDialler,
        known: KnownClusters,
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self._own_cluster = own_cluster
        self._own_name = own_name
        self._policy = policy
        self._sites = sites
        self._local = local
        self._peers = peers
        self._known = known
        self._clock = clock
        self._now = now

    def may_reach(self, user: UserIdentity, target: Target) -> Allow | Deny:
        """What the rules in force now say of a user and a target.

        The one place that asks them: for a new connection, whether its client is ours
        or a peer's, and again for those that are open.
        """
        return self._policy().decide(
            user, target.cluster, target.host, target.port, self._now()
        )

    async def dial(
        self,
        user: UserIdentity,
        target: Target,
        connection_id: str,
        proof: LoginProof | None,
    ) -> Reached:
        """Reach a target for a client of this proxy.

        :param proof: how the user logged in here; without it no peer can be asked.
        :raises OpenRefused: with the code and sentence for the client.
        """
        _check_host(target)
        decision = self.may_reach(user, target)
        if isinstance(decision, Deny):
            raise refusals.not_allowed(user.name, target, decision.other_times)
        if target.cluster == self._own_cluster:
            return Reached(await self._local.dial(target, user.name), None)
        failures = _Failures(self._clock.seconds() + GIVE_UP_AFTER)
        reached = await self._through_tunnels(user, target, connection_id, failures)
        if reached is None and proof is not None:
            request = PeerRequest(target, user.source, connection_id, proof)
            reached = await self._through_peers(request, user.name, failures)
        if reached is not None:
            return reached
        raise failures.worst or self._nowhere(user, target)

    async def dial_for_peer(
        self, user: UserIdentity, target: Target, connection_id: str
    ) -> Reached:
        """Reach a target for a client of a peer: through our own tunnels, no further.

        :param user: whom we have identified ourselves.
        :raises OpenRefused: with the code and sentence for the client; the code is one
            of :data:`ANSWERS` only when another way would lead to the same.
        """
        decision = self.may_reach(user, target)
        if isinstance(decision, Deny):
            raise refusals.not_allowed_by_peer(
                user.name, target, self._own_name, decision.other_times
            )
        if target.cluster == self._own_cluster:
            raise refusals.local_for_peer(target, self._own_name)
        failures = _Failures(self._clock.seconds() + GIVE_UP_AFTER)
        reached = await self._through_tunnels(user, target, connection_id, failures)
        if reached is not None:
            return reached
        if failures.answer is not None:
            raise failures.answer
        if failures.fault is not None:
            raise refusals.fault_at_peer(failures.fault)
        raise refusals.no_tunnel_at_peer(target.cluster, self._own_name)

    async def _through_tunnels(
        self,
        user: UserIdentity,
        target: Target,
        connection_id: str,
        failures: _Failures,
    ) -> Reached | None:
        request = TransportRequest(
            host=target.host,
            port=target.port,
            user=user.name,
            source=user.source,
            connection_id=connection_id,
        )
        cluster = target.cluster
        for tunnel in self._sites.candidates(cluster)[:MAX_TRIES]:
            if self._clock.seconds() >= failures.deadline:
                break
            dialled = Deferred.fromCoroutine(tunnel.dial(request))
            dialled.addTimeout(DIAL_TIMEOUT, self._clock)
            try:
                return Reached(await dialled, tunnel.agent)
            except OpenRefused as error:
                failures.add(error, [tunnel.agent])
            except TimeoutError:
                failures.fault = refusals.no_answer(cluster, DIAL_TIMEOUT)
            except ShareTaken as error:
                failures.fault = refusals.share_taken(user.name, cluster, error.count)
            except ConnectionClosed:
                failures.fault = refusals.tunnel_lost(cluster)
        return None

    async def _through_peers(
        self, request: PeerRequest, person: str, failures: _Failures
    ) -> Reached | None:
        """Ask peers for agents that have not answered themselves yet."""
        cluster = request.target.cluster
        asked = 0
        for site in self._peers.holding(cluster):
            if asked == MAX_PEERS or self._clock.seconds() >= failures.deadline:
                break
            if site.agents <= failures.answered:
                continue
            asked += 1
            dialled = Deferred.fromCoroutine(self._peers.dial(site, request, person))
            dialled.addTimeout(PEER_TIMEOUT, self._clock)
            try:
                return await dialled
            except OpenRefused as error:
                failures.add(error, site.agents, OPEN_CONNECT_FAILED)
            except TimeoutError:
                failures.fault = refusals.peer_no_answer(
                    cluster, site.name, PEER_TIMEOUT
                )
            except ConnectionClosed:
                failures.fault = refusals.peer_lost(cluster, site.name)
            except ShareTaken as error:
                failures.fault = refusals.share_of_link_taken(
                    person, site.name, error.count
                )
            except ConnectionFailed as error:
                failures.fault = refusals.peer_unreachable(
                    cluster, site.name, str(error)
                )
        return None

    def _nowhere(self, user: UserIdentity, target: Target) -> OpenRefused:
        cluster = target.cluster
        known = self._known.names()
        if cluster in known:
            return refusals.offline(cluster)
        policy = self._policy()
        return refusals.unknown_cluster(
            cluster,
            [name for name in known if policy.reaches_cluster(user, name)],
            alone=not target.host,
        )


def _check_host(target: Target) -> None:
    """Refuse spellings of addresses that no rule can speak of, as ``127.1``.

    :raises OpenRefused: saying what is wrong with it.
    """
    if target.host:
        try:
            parse_host(target.host)
        except InvalidName as error:
            raise OpenRefused(OPEN_ADMINISTRATIVELY_PROHIBITED, str(error)) from None


class _Failures:
    """What came of the ways that were tried for one dial.

    :param deadline: when to try no further one, seconds of the clock.
    :ivar answer: what an agent, or a peer, says of the target or the user.
    :ivar fault: why a way did not lead to an agent that could say something.
    :ivar answered: the agents that have said something.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.answer: OpenRefused | None = None
        self.fault: OpenRefused | None = None
        self.answered: frozenset[str] = frozenset()

    def add(
        self,
        refused: OpenRefused,
        agents: Collection[str],
        fault_code: int | None = None,
    ) -> None:
        """A way led to a refusal.

        :param agents: that have been asked by it.
        :param fault_code: reason code for the client if it is no answer; None for the
            same.
        """
        if refused.reason_code in ANSWERS:
            self.answer = refused
            self.answered |= frozenset(agents)
        else:
            code = refused.reason_code if fault_code is None else fault_code
            self.fault = OpenRefused(code, refused.text)

    @property
    def worst(self) -> OpenRefused | None:
        """What to tell the client: rather what is wrong there than what is on the
        way."""
        return self.answer or self.fault
