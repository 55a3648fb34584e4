"""One link to another proxy: an SSH connection that we made, and dials through it.

We log in with our own host certificate, and believe the peer when its host certificate
is of our cluster's authority and names the proxy that we want to reach.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.config import Address
from rtunnel.discovery.peer_request import PeerRequest
from rtunnel.errors import (
    OPEN_UNKNOWN_CHANNEL_TYPE,
    ConnectionClosed,
    ConnectionFailed,
    HostRefused,
    InvalidName,
    OpenRefused,
    ProtocolError,
    RtunnelError,
)
from rtunnel.naming import printable
from rtunnel.proxy.credentials import LiveCredentials
from rtunnel.proxy.dispatch import Reached
from rtunnel.proxy.fair_shares import FairShares
from rtunnel.proxy.link_watch import LinkWatch
from rtunnel.proxy.peer_answer import read_answer
from rtunnel.proxy.tunnel import TRANSPORT_CHANNEL
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ClientFactory
from rtunnel.ssh.transport import ClientTransport
from rtunnel.trust.host_check import check_host
from rtunnel.trust.identity import check_uuid
from rtunnel.trust.revocation import NO_REVOCATIONS, Revocations
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, Algorithms
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import Reader

#: Seconds for a new link, TCP and SSH and all addresses together.
LINK_TIMEOUT: Final = 5.0

#: Seconds without a channel after which a link is closed.
LINK_IDLE: Final = 60.0

#: By this channel request the peer says through which agent it has reached the target.
AGENT_REQUEST: Final = b"agent@rtunnel"

#: The SSH login name; no identity, that is the host certificate's.
USERNAME: Final = "proxy"

_T = TypeVar("_T")


@attrs.frozen
class LinkSettings:
    """What every link of a proxy has in common.

    :param cluster: the proxies' own.
    :param credentials: what we log in with, and whom we believe; asked for each link.
    :param reactor: resolves, connects, and is the clock.
    :param now: wall clock, seconds since the epoch.
    :param heartbeat: seconds between keepalives while channels are open.
    :param missed: keepalives missed before a link is closed.
    :param limits: what may be opened through one link.
    :param algorithms: what to offer.
    :param idle: seconds without a channel after which a link is closed.
    :param timeout: seconds for a new link.
    :param revocations: what is revoked now.
    """

    cluster: str
    credentials: LiveCredentials
    reactor: Any
    now: Callable[[], float]
    heartbeat: float
    missed: int
    limits: ChannelLimits
    algorithms: Algorithms = DEFAULT_ALGORITHMS
    idle: float = LINK_IDLE
    timeout: float = LINK_TIMEOUT
    revocations: Callable[[], Revocations] = lambda: NO_REVOCATIONS


def link_limits(channels: int) -> ChannelLimits:
    """What one proxy may open at another: as much as all its clients together.

    :param channels: open channels on one connection.
    """
    return ChannelLimits(
        channels=channels,
        pending_opens=channels,
        opens_per_second=2000.0,
        opens_burst=4000,
    )


class LinkOwner(Protocol):
    """Who keeps the table of links."""

    def link_failed(self, link: PeerLink) -> None:
        """The peer could not be reached, or does not answer."""

    def link_ended(self, link: PeerLink) -> None:
        """The link is gone, or never came to be. Called once."""


class PeerLink:
    """One link; a :class:`~rtunnel.ssh.connection.ConnectionHandler`.

    After :meth:`start` it can be dialled through, connected or not.

    :param peer: id of the other proxy.
    :param addresses: where it says that it can be reached.
    """

    _log = Logger()

    def __init__(
        self,
        peer: str,
        addresses: Sequence[str],
        owner: LinkOwner,
        settings: LinkSettings,
    ) -> None:
        self.peer = peer
        self._addresses = tuple(addresses)
        self._owner = owner
        self._settings = settings
        self._clock = settings.reactor
        self._connection: Connection | None = None
        self._shares: FairShares | None = None
        self._watch: LinkWatch | None = None
        self._host_certificate: Certificate | None = None
        self._waiting: list[Deferred[Connection]] = []
        self._waiting_for: dict[Deferred[Any], None] = {}
        self._given_up: set[Deferred[Any]] = set()
        self._ended = False
        self._failure: Exception = ConnectionFailed("the link has ended")
        self._connecting: Deferred[ClientTransport] | None = None

    @property
    def suspect(self) -> bool:
        """Whether the peer is silent when it should answer."""
        return self._watch is not None and self._watch.suspect

    def start(self) -> None:
        """Begin to connect."""
        self._connecting = Deferred.fromCoroutine(self._connect(self._addresses))
        self._connecting.addCallbacks(self._connected, self._not_connected)

    async def dial(self, request: PeerRequest, person: str) -> Reached:
        """Ask the peer to reach a target.

        :param person: who wants to; no peer believes us that.
        :raises OpenRefused: with the peer's reason and sentence.
        :raises ConnectionFailed: when the link cannot be made.
        :raises ConnectionClosed: when it breaks, or the peer falls silent.
        :raises ShareTaken: when the person has a fair share of the link.
        """
        return await self._wait_for(lambda up: self._open(request, person))

    async def _open(self, request: PeerRequest, person: str) -> Reached:
        assert self._shares is not None
        channel = await self._shares.open(person, TRANSPORT_CHANNEL, request.encode())
        try:
            return Reached(channel, await _agent_behind(channel))
        except BaseException:
            channel.abort()
            raise

    async def ask(self, kind: bytes, data: bytes) -> bytes:
        """Open a channel, and read what the peer says on it to its end.

        :param kind: channel type.
        :param data: the type-specific part of the open.
        :raises OpenRefused: with the peer's reason and sentence.
        :raises ConnectionFailed: when the link cannot be made.
        :raises ConnectionClosed: when it breaks, or the peer falls silent.
        """
        return await self._wait_for(lambda up: read_answer(up, kind, data))

    async def _wait_for(
        self, ask: Callable[[Connection], Coroutine[Any, Any, _T]]
    ) -> _T:
        """Ask the peer something; give up when it is gone or silent."""
        connection = await self._up()
        assert self._watch is not None
        if self._watch.suspect:
            raise ConnectionClosed("the peer does not answer")
        self._watch.wake()
        waiting = Deferred.fromCoroutine(ask(connection))
        self._waiting_for[waiting] = None
        try:
            return await waiting
        except CancelledError:
            if waiting in self._given_up:
                raise ConnectionClosed("the peer is gone or silent") from None
            raise
        finally:
            self._waiting_for.pop(waiting, None)
            self._given_up.discard(waiting)

    @property
    def is_distrusted(self) -> bool:
        """Whether the peer's host certificate has ended, or its authority is trusted no
        longer."""
        certificate = self._host_certificate
        if certificate is None:
            return False
        return (
            self._settings.now() >= certificate.valid_before
            or certificate.ca_key not in self._settings.credentials.anchors.host
        )

    def close_if_revoked(self) -> None:
        """End the link if the peer's host certificate is revoked by now."""
        if self._host_certificate is None:
            return
        revocations = self._settings.revocations()
        reason = revocations.certificate_reason(self._host_certificate)
        if reason is not None:
            self._log.warn(
                "closing the link to proxy {peer}: {reason}",
                peer=self.peer,
                reason=reason,
            )
            self.close("your host certificate has been revoked")

    def close(self, reason: str) -> None:
        """End the link, or the attempt to make it."""
        if self._connection is not None:
            self._connection.close(reason)
        elif self._connecting is not None:
            self._connecting.cancel()

    # Making the link.

    async def _up(self) -> Connection:
        if self._connection is not None:
            return self._connection
        if self._ended:
            raise self._failure
        waiting: Deferred[Connection] = Deferred()
        self._waiting.append(waiting)
        return await waiting

    async def _connect(self, addresses: Sequence[str]) -> ClientTransport:
        if not addresses:
            raise ConnectionFailed(
                "it has published no address; set peer.listen or peer.advertise in its "
                "proxy.toml, as its log says"
            )
        failure: Exception | None = None
        for text in addresses:
            share = self._settings.timeout / len(addresses)
            attempt = Deferred.fromCoroutine(self._connect_to(text))
            attempt.addTimeout(share, self._clock)
            try:
                return await attempt
            except TimeoutError:
                error: Exception = ConnectionFailed(
                    f"{printable(text)} does not answer within {share:g} seconds"
                )
            except (RtunnelError, ConnectError, DNSLookupError) as raised:
                error = raised
            failure = failure or error
        raise ConnectionFailed(printable(str(failure)))

    async def _connect_to(self, text: str) -> ClientTransport:
        settings = self._settings
        own = settings.credentials.present
        factory = ClientFactory(
            clock=self._clock,
            username=USERNAME,
            key=own.key,
            certificate=own.certificate,
            check_host=self._check_host,
            handler=self,
            algorithms=settings.algorithms,
            make_connection=lambda handler: Connection(handler, settings.limits),
        )
        endpoint = _endpoint(settings.reactor, Address.parse(text), settings.timeout)
        transport = cast(ClientTransport, await endpoint.connect(factory))
        await transport.ready
        return transport

    def _check_host(self, algorithm: bytes, blob: bytes) -> Certificate:
        """Is this the proxy that we want to reach?

        :raises HostRefused: to hang up before we say who we are.
        """
        host = check_host(
            algorithm,
            blob,
            trusts=lambda key: key in self._settings.credentials.anchors.host,
            now=self._settings.now(),
            principal=self._settings.cluster,
            revocations=self._settings.revocations(),
        )
        if host.proxy_id != self.peer:
            raise HostRefused(f"another proxy answers there: {host.proxy_id}")
        self._host_certificate = host.certificate
        return host.certificate

    def _connected(self, transport: ClientTransport) -> None:
        # What :meth:`connection_started` was told of already, or has ended again.
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if self._connection is not None:
                each.callback(self._connection)
            else:
                each.errback(ConnectionClosed("the link broke at once"))

    def _not_connected(self, failure: Failure) -> None:
        if isinstance(failure.value, RtunnelError):
            self._failure = failure.value
            self._log.warn(
                "no link to proxy {peer}: {reason}",
                peer=self.peer,
                reason=str(failure.value),
            )
            self._owner.link_failed(self)
        elif not failure.check(CancelledError):
            self._log.failure("a link to proxy {peer}", failure, peer=self.peer)
        self._end()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(self._failure)

    # ConnectionHandler.

    def connection_started(self, connection: Connection) -> None:
        """We are logged in."""
        self._connection = connection
        self._shares = FairShares(connection)
        self._watch = LinkWatch(
            connection,
            self._clock,
            self._settings.heartbeat,
            self._settings.missed,
            idle=self._settings.idle,
            silent=self._silent,
        )
        self._log.info("link to proxy {peer} is up", peer=self.peer)

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """A peer that wants something of us makes a link of its own."""
        raise OpenRefused(
            OPEN_UNKNOWN_CHANNEL_TYPE, "nothing is served in this direction"
        )

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """None is served; the refusal is what keepalives want to hear."""
        return None

    def connection_lost(self, reason: str) -> None:
        """The SSH connection is gone."""
        self._connection = self._shares = None
        if self._watch is not None:
            if self._watch.suspect:
                self._owner.link_failed(self)
            self._watch.stop()
        self._give_up_waiting()
        self._log.info(
            "link to proxy {peer} has ended: {reason}",
            peer=self.peer,
            reason=printable(reason),
        )
        self._end()

    def _silent(self) -> None:
        """Whoever waits for an answer shall try another way."""
        self._owner.link_failed(self)
        self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        for waiting in list(self._waiting_for):
            self._given_up.add(waiting)
            waiting.cancel()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._owner.link_ended(self)


async def _agent_behind(channel: Channel) -> str:
    """What the peer says right after the channel is open, before any data."""
    told: Deferred[str] = Deferred()

    def request_received(name: bytes, data: bytes) -> bool:
        if name != AGENT_REQUEST or told.called:
            return False
        try:
            told.callback(check_uuid(Reader(data).text(255)))
        except (InvalidName, ProtocolError) as error:
            told.errback(ConnectionClosed(str(error)))
        return True

    channel.on_request = request_received
    return await told


def _endpoint(reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
    endpoint: IStreamClientEndpoint = HostnameEndpoint(
        reactor, address.host, address.port, timeout=timeout
    )
    if address.tls:
        options = optionsForClientTLS(address.host)
        endpoint = wrapClientTLS(options, endpoint, reactor)
    return endpoint
