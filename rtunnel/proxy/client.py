"""One client's connection: a person with a stock SSH client.

Serves ``direct-tcpip`` (``ssh -J``, ``-W``, ``-L``, ``-D``; RFC 4254 section 7.2) and
sessions, which run no shell: they list what can be reached, or carry the ``proxy:``
subsystem.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_UNKNOWN_CHANNEL_TYPE,
    InvalidName,
    OpenRefused,
)
from rtunnel.naming import MAX_HOST_LENGTH, Target, parse_target, printable
from rtunnel.proxy import refusals
from rtunnel.proxy.dispatch import Dispatcher
from rtunnel.proxy.session import Session
from rtunnel.proxy.target_connections import ConnectionOwner, TargetConnections
from rtunnel.splice import Stream
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.trust.identity import Identity, UserIdentity
from rtunnel.trust.login_proof import LoginProof
from rtunnel.wire.data_types import Reader

#: Sessions of one connection that have come neither to their end nor to a target. As
#: OpenSSH's MaxSessions.
MAX_SESSIONS = 10


class ClientOwner(ConnectionOwner, Protocol):
    """What a client's connection needs of the proxy."""

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""

    def new_connection_id(self) -> str:
        """An id for a connection to a target, never given before."""

    def status_for(self, user: UserIdentity) -> dict[str, object]:
        """The status document, cut to the clusters that this user may reach."""

    def has_lapsed(self, identity: Identity) -> bool:
        """Whether an identity may open nothing new: its time is over, or it would not
        be believed any longer."""

    def client_started(self, client: Client) -> None:
        """A client has logged in."""

    def client_ended(self, client: Client) -> None:
        """Its connection is gone."""


class Client:
    """A logged-in client; a :class:`~rtunnel.ssh.connection.ConnectionHandler`."""

    #: Not when the person's certificate expires, unless the proxy's config says so.
    lets_connections_finish = False

    def __init__(
        self,
        identity: UserIdentity,
        owner: ClientOwner,
        dispatcher: Dispatcher,
        clock: IReactorTime,
        proxy_id: str,
    ) -> None:
        self.identity = identity
        self._owner = owner
        self._dispatcher = dispatcher
        self._clock = clock
        self._connection: Connection | None = None
        self._login_proof: LoginProof | None = None
        self._sessions: list[Session] = []
        self._connections = TargetConnections(owner, clock, proxy_id, self._left)

    @property
    def open_connections(self) -> int:
        """Connections to targets that are open now."""
        return self._connections.open

    def connection_started(self, connection: Connection) -> None:
        """The client has logged in."""
        self._connection = connection
        self._login_proof = connection.transport.login_proof
        self._owner.client_started(self)

    def connection_lost(self, reason: str) -> None:
        """The SSH connection is gone."""
        self._connection = None
        for session in self._sessions:
            session.end()
        self._owner.client_ended(self)

    def _left(self) -> bool:
        return self._connection is not None and self._connection.peer_said_goodbye

    def close(self, reason: str) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close(reason)

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """None is served; ``tcpip-forward`` in particular is not."""
        return None

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """Open what the client asks for.

        :raises OpenRefused: with the sentence that ``ssh`` shows.
        """
        self._check_may_open()
        if request.kind == b"direct-tcpip":
            try:
                target = _direct_tcpip_target(request.data)
            except InvalidName as error:
                raise OpenRefused(
                    OPEN_ADMINISTRATIVELY_PROHIBITED, str(error)
                ) from None
            connect = await self._reach(target)
            return connect
        if request.kind == b"session":
            return self._new_session().attach
        raise OpenRefused(
            OPEN_UNKNOWN_CHANNEL_TYPE,
            f"channels of type {printable(request.kind, 64)!r} are not served here",
        )

    def _check_may_open(self) -> None:
        if self._owner.draining:
            raise refusals.draining()
        if self._owner.has_lapsed(self.identity):
            raise refusals.lapsed()

    def _new_session(self) -> Session:
        for session in self._sessions:
            if not session.is_pending:
                session.end()
        self._sessions = [each for each in self._sessions if each.is_pending]
        if len(self._sessions) >= MAX_SESSIONS:
            raise refusals.too_many_sessions(MAX_SESSIONS)
        self._sessions.append(Session(self, self._clock))
        return self._sessions[-1]

    def status(self) -> dict[str, object]:
        """The status document for this user."""
        return self._owner.status_for(self.identity)

    async def reach(self, target: Target) -> Callable[[Stream], None]:
        """Dial a target for a session, which may have been open for a while.

        :raises OpenRefused: when it cannot be reached.
        """
        self._check_may_open()
        return await self._reach(target)

    async def _reach(self, target: Target) -> Callable[[Stream], None]:
        """Dial a target and give back what joins it to the client's channel.

        :raises OpenRefused: when it cannot be reached; this is in the audit log then.
        """
        if not self._owner.may_record:
            raise refusals.not_recorded()
        connection_id = self._owner.new_connection_id()
        dial = self._dispatcher.dial(
            self.identity, target, connection_id, self._login_proof
        )
        reached = await self._connections.reach(
            self.identity, target, connection_id, dial
        )
        return reached.join


def _direct_tcpip_target(data: bytes) -> Target:
    # string host, uint32 port, string originator address, uint32 originator port
    reader = Reader(data)
    host = reader.string()
    port = reader.uint32()
    # Nobody looks at the originator, but the request is kept while it is dialled for.
    reader.string(MAX_HOST_LENGTH)
    reader.uint32()
    reader.end()
    if len(host) > MAX_HOST_LENGTH:
        raise InvalidName(
            f"the host name is {len(host)} bytes long; {MAX_HOST_LENGTH} is the limit"
        )
    try:
        return parse_target(host.decode("ascii"), port)
    except UnicodeDecodeError:
        raise InvalidName(
            f"{printable(host)!r} is not a target: ask for HOST.CLUSTER or CLUSTER"
        ) from None
