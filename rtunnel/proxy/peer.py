"""Another proxy that has logged in here, and what it asks for its clients.

It may open ``transport@rtunnel``, and ask for what else this proxy answers to proxies.
Each request of the first kind shows how its client logged in there: that is verified,
the client identified and authorised anew, by our own authorities, authorized_keys and
rules, and then dialled for through our own tunnels. A request never leads on to a third
proxy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.audit.events import LoginRefused
from rtunnel.discovery.peer_request import PeerRequest
from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_UNKNOWN_CHANNEL_TYPE,
    AuthenticationRefused,
    ConnectionClosed,
    MessageError,
    OpenRefused,
)
from rtunnel.naming import printable
from rtunnel.proxy import refusals
from rtunnel.proxy.dispatch import Dispatcher
from rtunnel.proxy.link_watch import LinkWatch
from rtunnel.proxy.peer_answer import give_answer
from rtunnel.proxy.peer_link import AGENT_REQUEST, LINK_IDLE
from rtunnel.proxy.target_connections import ConnectionOwner, TargetConnections
from rtunnel.proxy.tunnel import TRANSPORT_CHANNEL
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.log_rate import LogRate
from rtunnel.trust.identity import Identity, PeerIdentity, UserIdentity
from rtunnel.wire.data_types import text

#: From the type-specific part of a channel open, and who asks, to the answer; raises
#: OpenRefused.
Answerer: TypeAlias = Callable[[bytes, PeerIdentity], Awaitable[bytes]]

#: Seconds without a channel after which we hang up on a peer that has not.
IDLE = 3 * LINK_IDLE


class PeerOwner(ConnectionOwner, Protocol):
    """What a peer's connection needs of the proxy."""

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""

    def has_lapsed(self, identity: Identity) -> bool:
        """Whether an identity may open nothing new: its time is over, or it would not
        be believed any longer."""

    def peer_started(self, peer: Peer) -> None:
        """A peer has logged in."""

    def peer_ended(self, peer: Peer) -> None:
        """Its connection is gone."""


class Peer:
    """A logged-in proxy; a :class:`~rtunnel.ssh.connection.ConnectionHandler`.

    :param identify: who the holder of a key or certificate is; see
        :class:`~rtunnel.trust.authentication.Authentication`.
    :param proxy_id: our own.
    :param proxy_name: our own.
    :param heartbeat: seconds between keepalives while channels are open.
    :param missed: keepalives missed before the connection is closed.
    :param answers: who answers a question, by its channel type.
    """

    #: Each connection stands on the login of its own user. A peer that has renewed its
    #: certificate makes a new link, and the old one shall lose nothing.
    lets_connections_finish = True

    _log = Logger()

    def __init__(
        self,
        identity: PeerIdentity,
        owner: PeerOwner,
        dispatcher: Dispatcher,
        identify: Callable[[bytes, bytes, str], Identity],
        clock: IReactorTime,
        *,
        proxy_id: str,
        proxy_name: str,
        heartbeat: float,
        missed: int,
        answers: Mapping[bytes, Answerer],
    ) -> None:
        self.identity = identity
        self._owner = owner
        self._dispatcher = dispatcher
        self._identify = identify
        self._clock = clock
        self._proxy_id = proxy_id
        self._proxy_name = proxy_name
        self._heartbeat = heartbeat
        self._missed = missed
        self._answers = answers
        self._connection: Connection | None = None
        self._watch: LinkWatch | None = None
        # Each has a line in the audit file besides.
        self._log_rate = LogRate(
            clock, f"clients of proxy {identity.proxy_id} who are nobody here"
        )
        self._connections = TargetConnections(owner, clock, proxy_id)

    @property
    def open_connections(self) -> int:
        """Connections to targets that are open now."""
        return self._connections.open

    def close(self, reason: str) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close(reason)

    # ConnectionHandler.

    def connection_started(self, connection: Connection) -> None:
        """The peer has logged in."""
        self._connection = connection
        self._watch = LinkWatch(
            connection, self._clock, self._heartbeat, self._missed, idle=IDLE
        )
        self._owner.peer_started(self)

    def connection_lost(self, reason: str) -> None:
        """The SSH connection is gone."""
        self._connection = None
        if self._watch is not None:
            self._watch.stop()
        self._owner.peer_ended(self)

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """None is served; the refusal is what keepalives want to hear."""
        return None

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """Reach a target for a client of the peer, or answer the peer itself.

        :raises OpenRefused: with a sentence for that client, or for the peer.
        """
        answerer = self._answers.get(request.kind)
        if answerer is None and request.kind != TRANSPORT_CHANNEL:
            raise OpenRefused(
                OPEN_UNKNOWN_CHANNEL_TYPE,
                f"channels of type {printable(request.kind, 64)!r} are not served here",
            )
        if self._owner.draining:
            raise refusals.peer_draining(self._proxy_name)
        if self._owner.has_lapsed(self.identity):
            raise refusals.peer_lapsed(self._proxy_name)
        if not self._owner.may_record:
            raise refusals.not_recorded()
        if answerer is not None:
            return give_answer(await answerer(request.data, self.identity))
        try:
            asked = PeerRequest.decode(request.data)
        except MessageError as error:
            raise OpenRefused(OPEN_ADMINISTRATIVELY_PROHIBITED, str(error)) from None
        user = self._user_behind(asked)
        connection = await self._connections.reach(
            user,
            asked.target,
            asked.connection_id,
            self._dispatcher.dial_for_peer(user, asked.target, asked.connection_id),
        )
        agent = connection.reached.agent

        def attach(channel: Channel) -> None:
            telling = channel.send_request(
                AGENT_REQUEST, text(agent or ""), want_reply=False
            )
            telling.addErrback(_not_told)
            connection.join(channel)

        return attach

    def _user_behind(self, asked: PeerRequest) -> UserIdentity:
        """Who logged in at the peer, by our own judgement.

        :raises OpenRefused: when nobody whom we know did; why is for our own log.
        """
        proof = asked.proof
        try:
            proof.check()
            identity = self._identify(proof.algorithm, proof.blob, asked.source)
            if not isinstance(identity, UserIdentity):
                raise AuthenticationRefused("that is not a person's certificate")
        except AuthenticationRefused as error:
            if self._log_rate.allows():
                self._log.warn(
                    "connection {connection_id} that proxy {peer} passes on for a "
                    "client from {source} refused: {reason}",
                    connection_id=asked.connection_id,
                    peer=self.identity.proxy_id,
                    source=asked.source,
                    reason=printable(str(error)),
                )
            self._owner.record(
                LoginRefused(
                    source=asked.source,
                    proxy=self._proxy_id,
                    user=printable(proof.username, 64),
                    reason=f"passed on by proxy {self.identity.proxy_id}: {error}",
                )
            )
            raise refusals.login_not_accepted(
                asked.target.cluster, self._proxy_name
            ) from None
        return identity


def _not_told(failure: Failure) -> None:
    failure.trap(ConnectionClosed)
