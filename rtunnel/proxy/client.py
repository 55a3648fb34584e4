"""One client's connection: a person with a stock SSH client.

Serves ``direct-tcpip`` (``ssh -J``, ``-W``, ``-L``, ``-D``; RFC 4254 section 7.2) and
sessions, which run no shell: they list what can be reached, or carry the ``proxy:``
subsystem.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
from twisted.internet.interfaces import IReactorTime

from rtunnel.audit.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    Event,
)
from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_UNKNOWN_CHANNEL_TYPE,
    InvalidName,
    OpenRefused,
)
from rtunnel.naming import MAX_HOST_LENGTH, Target, parse_target, printable
from rtunnel.proxy import refusals
from rtunnel.proxy.dispatch import Dispatcher, Reached
from rtunnel.proxy.session import Session
from rtunnel.splice import SpliceReport, Stream, splice
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.trust.identity import UserIdentity
from rtunnel.wire.data_types import Reader


class ClientOwner(Protocol):
    """What a client's connection needs of the proxy."""

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""

    def record(self, event: Event) -> None:
        """Write an audit event."""

    def new_connection_id(self) -> str:
        """An id for a connection to a target, never given before."""

    def status_for(self, user: UserIdentity) -> dict[str, object]:
        """The status document, cut to the clusters that this user may reach."""

    def client_started(self, client: Client) -> None:
        """A client has logged in."""

    def client_ended(self, client: Client) -> None:
        """Its connection is gone."""

    def connection_ended(self) -> None:
        """One of the connections to targets has ended."""


class Client:
    """A logged-in client; a :class:`~rtunnel.ssh.connection.ConnectionHandler`."""

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
        self._proxy_id = proxy_id
        self._connection: Connection | None = None
        #: Connections to targets that are open now.
        self.open_connections = 0

    def connection_started(self, connection: Connection) -> None:
        """The client has logged in."""
        self._connection = connection
        self._owner.client_started(self)

    def connection_lost(self, reason: str) -> None:
        """The SSH connection is gone."""
        self._connection = None
        self._owner.client_ended(self)

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
        if self._owner.draining:
            raise refusals.draining()
        if request.kind == b"direct-tcpip":
            try:
                target = _direct_tcpip_target(request.data)
            except InvalidName as error:
                raise OpenRefused(
                    OPEN_ADMINISTRATIVELY_PROHIBITED, str(error)
                ) from None
            connect = await self.reach(target)
            return connect
        if request.kind == b"session":
            return Session(self, self._clock).attach
        raise OpenRefused(
            OPEN_UNKNOWN_CHANNEL_TYPE,
            f"channels of type {printable(request.kind, 64)!r} are not served here",
        )

    def status(self) -> dict[str, object]:
        """The status document for this user."""
        return self._owner.status_for(self.identity)

    async def reach(self, target: Target) -> Callable[[Stream], None]:
        """Dial a target and give back what joins it to the client's channel.

        :raises OpenRefused: when it cannot be reached; this is in the audit log then.
        """
        connection_id = self._owner.new_connection_id()
        user = self.identity
        try:
            reached = await self._dispatcher.dial(
                user, target, user.source, connection_id
            )
        except OpenRefused as error:
            self._owner.record(
                ConnectionRefused(
                    connection_id=connection_id,
                    user=user.name,
                    key_id=user.key_id,
                    source=user.source,
                    cluster=target.cluster,
                    target=str(target),
                    proxy=self._proxy_id,
                    reason=error.text,
                    outcome=(
                        "refused"
                        if error.reason_code == OPEN_ADMINISTRATIVELY_PROHIBITED
                        else "failed"
                    ),
                )
            )
            raise
        return _Joining(self, target, reached, connection_id).join

    def connection_opened(self, joining: _Joining) -> None:
        """A target and a channel are joined."""
        user = self.identity
        self.open_connections += 1
        self._owner.record(
            ConnectionOpened(
                connection_id=joining.connection_id,
                user=user.name,
                key_id=user.key_id,
                source=user.source,
                cluster=joining.target.cluster,
                target=str(joining.target),
                proxy=self._proxy_id,
                agent=joining.reached.agent,
            )
        )

    def connection_closed(self, joining: _Joining, report: SpliceReport) -> None:
        """Both directions of a connection have ended."""
        user = self.identity
        self.open_connections -= 1
        self._owner.record(
            ConnectionClosed(
                connection_id=joining.connection_id,
                user=user.name,
                key_id=user.key_id,
                source=user.source,
                cluster=joining.target.cluster,
                target=str(joining.target),
                proxy=self._proxy_id,
                agent=joining.reached.agent,
                bytes_in=report.bytes_in,
                bytes_out=report.bytes_out,
                seconds=report.seconds,
                reason=report.reason,
            )
        )
        self._owner.connection_ended()

    @property
    def clock(self) -> IReactorTime:
        """The clock that times connections."""
        return self._clock


@attrs.frozen
class _Joining:
    client: Client
    target: Target
    reached: Reached
    connection_id: str

    def join(self, stream: Stream) -> None:
        self.client.connection_opened(self)
        splice(stream, self.reached.stream, self.client.clock, self._ended)

    def _ended(self, report: SpliceReport) -> None:
        self.client.connection_closed(self, report)


def _direct_tcpip_target(data: bytes) -> Target:
    # string host, uint32 port, string originator address, uint32 originator port
    reader = Reader(data)
    host = reader.string()
    port = reader.uint32()
    reader.string()
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
