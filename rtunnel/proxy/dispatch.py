"""From "who wants what" to an open stream: authorise, choose a way, dial.

The client hears of a failure only after every way has been tried (design, Dispatch).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.errors import ConnectionClosed, OpenRefused
from rtunnel.naming import Target
from rtunnel.proxy import refusals
from rtunnel.proxy.local_site import LocalSite
from rtunnel.proxy.sites import Sites
from rtunnel.proxy.tunnel import Tunnel
from rtunnel.splice import Stream
from rtunnel.trust.identity import UserIdentity
from rtunnel.trust.policy import Deny, Policy

#: Seconds an agent has to answer one dial; its own TCP time-out is shorter.
DIAL_TIMEOUT = 15.0

#: Agents tried for one dial before the client hears of the failure.
MAX_TRIES = 3


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


class Dispatcher:
    """Opens streams to targets for clients of this proxy.

    :param own_cluster: the proxy's own cluster, dialled directly.
    :param policy: the rules in force now; asked for every dial.
    """

    def __init__(
        self,
        *,
        own_cluster: str,
        policy: Callable[[], Policy],
        sites: Sites[Tunnel],
        local: LocalSite,
        known: KnownClusters,
        clock: IReactorTime,
    ) -> None:
        self._own_cluster = own_cluster
        self._policy = policy
        self._sites = sites
        self._local = local
        self._known = known
        self._clock = clock

    async def dial(
        self, user: UserIdentity, target: Target, source: str, connection_id: str
    ) -> Reached:
        """Reach a target for a user.

        :param source: the client's address, for the agent's log.
        :raises OpenRefused: with the code and sentence for the client.
        """
        decision = self._policy().decide(user, target.cluster, target.host, target.port)
        if isinstance(decision, Deny):
            raise refusals.not_allowed(user.name, target)
        if target.cluster == self._own_cluster:
            return Reached(await self._local.dial(target), None)
        request = TransportRequest(
            host=target.host,
            port=target.port,
            user=user.name,
            source=source,
            connection_id=connection_id,
        )
        return await self._through_tunnel(user, target, request)

    async def _through_tunnel(
        self, user: UserIdentity, target: Target, request: TransportRequest
    ) -> Reached:
        failure: OpenRefused | None = None
        for tunnel in self._sites.candidates(target.cluster)[:MAX_TRIES]:
            try:
                stream = await self._dial_one(tunnel, request)
            except OpenRefused as error:
                failure = error
            else:
                return Reached(stream, tunnel.agent)
        if failure is not None:
            raise failure
        known = self._known.names()
        if target.cluster in known:
            raise refusals.offline(target.cluster)
        policy = self._policy()
        raise refusals.unknown_cluster(
            target.cluster,
            [name for name in known if policy.reaches_cluster(user, name)],
        )

    async def _dial_one(self, tunnel: Tunnel, request: TransportRequest) -> Stream:
        dialled = Deferred.fromCoroutine(tunnel.dial(request))
        dialled.addTimeout(DIAL_TIMEOUT, self._clock)
        try:
            return await dialled
        except TimeoutError:
            raise refusals.no_answer(tunnel.cluster, DIAL_TIMEOUT) from None
        except ConnectionClosed:
            raise refusals.tunnel_lost(tunnel.cluster) from None
