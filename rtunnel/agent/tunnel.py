"""One tunnel: an SSH connection to one proxy, from the dial to the end.

:mod:`rtunnel.agent.machine` says what happens when; this does it. The host-key check
reads which proxy answered, and hangs up before logging in when the owner does not want
that one. The control channel says hello and hears what the proxy has to say; channels
of the type ``transport@rtunnel`` are handed to the :class:`~rtunnel.agent.dial.Site`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, cast

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IReactorTime,
    ITCPTransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel import __version__
from rtunnel.agent.connect import Connector
from rtunnel.agent.dial import Site
from rtunnel.agent.host_check import check_host
from rtunnel.agent.machine import (
    DEFAULT_DEADLINES,
    Deadlines,
    TunnelCore,
    TunnelMachine,
    TunnelState,
)
from rtunnel.agent.pool import Dial
from rtunnel.agent.tunnel_owner import TunnelOwner, TunnelStatus
from rtunnel.config import Address, TunnelConfig
from rtunnel.control import ControlChannel
from rtunnel.discovery.liveness import Liveness
from rtunnel.discovery.message_fields import MAX_SECONDS
from rtunnel.discovery.messages import (
    DiscoveryRequest,
    Drain,
    Hello,
    Message,
    replacement_proof,
)
from rtunnel.discovery.tracker import ClaimAnswer
from rtunnel.discovery.trust_messages import (
    NotRenewed,
    RenewalDue,
    Renewed,
    Replace,
    Revoked,
    Trust,
)
from rtunnel.errors import (
    OPEN_RESOURCE_SHORTAGE,
    OPEN_UNKNOWN_CHANNEL_TYPE,
    ConnectionClosed,
    HostRefused,
    OpenRefused,
    RequestFailed,
    RtunnelError,
)
from rtunnel.naming import printable
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ClientFactory
from rtunnel.ssh.transport import ClientTransport
from rtunnel.state_directory import AgentCredentials
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, Algorithms
from rtunnel.wire.certificate import (
    Certificate,
)

CONTROL_CHANNEL: Final = b"control@rtunnel"
TRANSPORT_CHANNEL: Final = b"transport@rtunnel"

#: Seconds for which the tunnel of a proxy that leaves is kept for want of another.
REPLACE_TIMEOUT: Final = 2.0

#: Seconds that a tunnel is kept for what is open on it when another has its place.
RETIRE_TIMEOUT: Final = MAX_SECONDS
#: Seconds that a tunnel is in service at least before a proxy has it made anew.
MIN_AGE: Final = 0.5

#: What a proxy may open here, for all of its clients together. Targets that let one of
#: them wait, an address where nobody is for instance, do not lock the others out.
TUNNEL_LIMITS: Final = ChannelLimits(
    pending_opens=ChannelLimits().channels, opens_per_second=2000.0, opens_burst=4000
)

#: The SSH login name; no identity, that is the certificate's.
USERNAME: Final = "agent"


class Tunnel:
    """The agent's end of one tunnel.

    :param dial: where to, and which proxy is expected there.
    :param now: wall clock, seconds since the epoch.
    :param algorithms: what to offer.
    :param chance: a number from 0 up to 1.
    :ivar proxy_id: of the proxy, once it is claimed for this tunnel.
    """

    _log = Logger()

    def __init__(
        self,
        dial: Dial,
        owner: TunnelOwner,
        *,
        connector: Connector,
        credentials: AgentCredentials,
        site: Site,
        clock: IReactorTime,
        now: Callable[[], float],
        heartbeat: TunnelConfig,
        algorithms: Algorithms = DEFAULT_ALGORITHMS,
        deadlines: Deadlines = DEFAULT_DEADLINES,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.dialled = dial
        self.proxy_id: str | None = None
        self.since: float | None = None
        self._owner = owner
        self._connector = connector
        self._credentials = credentials
        self._site = site
        self._clock = clock
        self._now = now
        self._heartbeat = heartbeat
        self._chance = chance
        self._algorithms = algorithms
        self._core = TunnelCore(self, clock, deadlines)
        self._life = TunnelMachine(self._core)
        self._connecting: Deferred[IProtocol] | None = None
        self._transport: ClientTransport | None = None
        self._connection: Connection | None = None
        self._control: ControlChannel | None = None
        self._channels = 0
        self._may_let_go = False
        self._retiring = False
        self._let_go_timer: IDelayedCall | None = None
        self._replace_timer: IDelayedCall | None = None

    # What the owner calls.

    @property
    def state(self) -> TunnelState:
        """How far it is."""
        return self._core.state

    def status(self) -> TunnelStatus:
        """A snapshot for status and logs."""
        control = self._control
        return TunnelStatus(
            address=self.dialled.address,
            proxy=self.proxy_id,
            state=self.state.value,
            since=self.since,
            rtt_seconds=None if control is None else control.rtt,
            channels=self._channels,
            suspect=control is not None and control.suspect,
        )

    def start(self) -> None:
        """Dial."""
        self._life.start()

    def drain(self, seconds: float) -> None:
        """Let go of it in good order.

        :param seconds: that what is open has to finish.
        """
        self._life.drain_requested(seconds)
        self.let_go()

    def retire(self) -> None:
        """Another tunnel has taken its place: what is open on it may take its time."""
        self._retiring = True
        self._life.drain_requested(RETIRE_TIMEOUT)

    @property
    def certificate(self) -> Certificate:
        """That it logs in with."""
        return self._credentials.certificate

    @property
    def host_certificate(self) -> Certificate | None:
        """What the proxy has proven itself with; None without a connection."""
        return None if self._transport is None else self._transport.host_certificate

    @property
    def replacement_proof(self) -> str:
        """What another tunnel has to show to replace this one."""
        if self._transport is None:
            return ""
        return replacement_proof(self._transport.session_id)

    def send(self, message: Message) -> Deferred[None]:
        """Say something to the proxy.

        :return: fails with RequestFailed when the proxy refuses it, with
            ConnectionClosed when the tunnel is gone.
        """
        if self._control is None:
            return fail(ConnectionClosed("the tunnel is gone"))
        return self._control.send(message)

    def let_go(self) -> None:
        """Nobody needs a draining tunnel any longer: close it when nothing is open."""
        self._may_let_go = True
        self._check_drained()

    def close(self, reason: str) -> None:
        """End it now, whatever is open."""
        self._life.close(reason)

    # What the machine asks for; see TunnelActions.

    def dial(self) -> None:
        """Begin to connect."""
        self._connecting = Deferred.fromCoroutine(self._connect())
        self._connecting.addCallbacks(self._connected, self._not_connected)

    def greet(self) -> None:
        """Open the control channel and say hello."""
        greeting = Deferred.fromCoroutine(self._greet())
        greeting.addErrback(self._greeting_failed)

    def serve(self) -> None:
        """The tunnel is in service."""
        self.since = self._now()
        self._owner.tunnel_in_service(self)

    def refuse_new(self, by_proxy: bool) -> None:
        """Serve no new channels, and let the tunnel be replaced."""
        if by_proxy:
            self._let_go_timer = self._clock.callLater(REPLACE_TIMEOUT, self.let_go)
        self._owner.tunnel_draining(self, by_proxy)

    def say_drain(self, seconds: float) -> None:
        """Tell the proxy that we are leaving."""
        reason = "replaced by another tunnel" if self._retiring else "the agent leaves"
        saying = self.send(Drain(reason, seconds)).addErrback(self._not_heard)
        if self._retiring:
            # From its answer on the proxy asks for nothing more here.
            saying.addCallback(self._retired)

    def _retired(self, result: None) -> None:
        self._retiring = False
        self.let_go()

    def hang_up(self, reason: str) -> None:
        """End the connection, or the attempt, in good order."""
        if self._connection is not None:
            self._connection.close(reason)
        elif self._transport is not None:
            self._transport.ready.cancel()
        elif self._connecting is not None:
            self._connecting.cancel()

    def cut(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            transport = cast(ITCPTransport, self._transport.transport)
            transport.abortConnection()

    def ended(self, reason: str, by_us: bool) -> None:
        """It is over."""
        for timer in (self._let_go_timer, self._replace_timer):
            if timer is not None and timer.active():
                timer.cancel()
        if self._control is not None:
            self._control.stop()
        self._connection = self._transport = self._connecting = None
        self._owner.tunnel_ended(self, reason, by_us)

    # On the way up.

    async def _connect(self) -> IProtocol:
        factory = ClientFactory(
            clock=self._clock,
            username=USERNAME,
            key=self._credentials.key,
            certificate=self._credentials.certificate,
            check_host=self._check_host,
            handler=self,
            algorithms=self._algorithms,
            make_connection=lambda handler: Connection(handler, TUNNEL_LIMITS),
        )
        address = Address.parse(self.dialled.address)
        return await self._connector.connect(address, self.dialled.rotation, factory)

    def _connected(self, protocol: IProtocol) -> None:
        self._transport = cast(ClientTransport, protocol)
        self._life.connected()
        self._transport.ready.addCallbacks(self._logged_in, self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            self._life.lost("given up")
            return
        if not failure.check(RtunnelError, ConnectError):
            self._log.failure(
                "a dial to {address} failed", failure, address=self.dialled.address
            )
        self._life.lost(printable(failure.getErrorMessage()))

    def _check_host(self, algorithm: bytes, blob: bytes) -> Certificate:
        """Which proxy is this, and do we want a tunnel to it?

        :raises HostRefused: to hang up before we say who we are.
        """
        host = check_host(algorithm, blob, self._credentials, self._now())
        proxy_id = host.proxy_id
        expected = self.dialled.expected
        if expected is not None and proxy_id != expected:
            raise HostRefused(
                f"{self.dialled.address} leads to proxy {proxy_id}, not to {expected}"
            )
        if self.state is not TunnelState.HANDSHAKING:
            raise HostRefused("the tunnel is not wanted any longer")
        answer = self._owner.host_identified(self, proxy_id)
        if answer is not ClaimAnswer.GRANTED:
            raise HostRefused(f"hung up on proxy {proxy_id}: {answer.value}")
        self.proxy_id = proxy_id
        self._life.host_accepted()
        return host.certificate

    def _logged_in(self, connection: Connection) -> None:
        self._connection = connection
        connection.expect_peer_to_read(
            self._heartbeat.heartbeat * (self._heartbeat.missed + 1)
        )
        self._life.authenticated()

    async def _greet(self) -> None:
        connection = self._connection
        assert connection is not None
        channel = await connection.open_channel(CONTROL_CHANNEL)
        liveness = Liveness(self._heartbeat.heartbeat, self._heartbeat.missed)
        self._control = ControlChannel(channel, self._clock, liveness, self)
        hello = Hello(
            version=__version__,
            instance=self._credentials.instance,
            limits={"channels": connection.limits.channels},
            replaces=self._owner.replacement_proof(self),
        )
        await self._control.send(hello)
        self._life.greeted()

    def _greeting_failed(self, failure: Failure) -> None:
        error = failure.trap(OpenRefused, RequestFailed, ConnectionClosed)
        if error is not ConnectionClosed:
            text = printable(failure.getErrorMessage())
            self._life.failed(f"the proxy does not take the tunnel: {text}")

    # In service: ConnectionHandler.

    def connection_started(self, connection: Connection) -> None:
        """See ``ConnectionHandler``: what follows is for who waits for ``ready``."""

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """The proxy asks for a connection to a target.

        :raises OpenRefused: with the sentence that the client's ``ssh`` shows.
        """
        if request.kind != TRANSPORT_CHANNEL:
            raise OpenRefused(
                OPEN_UNKNOWN_CHANNEL_TYPE, "an agent serves transport@rtunnel only"
            )
        if self.state is not TunnelState.IN_SERVICE and not self._retiring:
            raise OpenRefused(
                OPEN_RESOURCE_SHORTAGE, "the agent is leaving; connect again"
            )
        self._channels += 1
        try:
            return await self._site.serve(
                request.data, self.proxy_id or "", self._channel_gone
            )
        except BaseException:
            self._channel_gone()
            raise

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """None is served; the refusal is what OpenSSH's keepalives want to hear."""
        return None

    def connection_lost(self, reason: str) -> None:
        """The SSH connection is gone."""
        self._life.lost(printable(reason))

    def _channel_gone(self) -> None:
        self._channels -= 1
        self._check_drained()

    def _check_drained(self) -> None:
        draining = self.state is TunnelState.DRAINING
        if draining and self._may_let_go and not self._channels:
            self._life.drained()

    # In service: ControlReceiver.

    def message_received(self, message: Message) -> bool:
        """The proxy says something.

        :returns: whether it means anything to an agent.
        """
        match message:
            case DiscoveryRequest():
                self._owner.discovery_received(self, message)
            case Drain():
                if self.state is not TunnelState.DRAINING:
                    self._log.info(
                        "proxy {proxy} is leaving: {reason}",
                        proxy=self.proxy_id,
                        reason=printable(message.reason),
                    )
                self._life.drain_received(message.seconds)
            case Replace():
                self._replace_within(message.seconds)
            case RenewalDue() | Renewed() | NotRenewed() | Trust() | Revoked():
                return self._owner.trust_message_received(self, message)
            case _:
                return False
        return True

    def peer_dead(self, reason: str) -> None:
        """The proxy does not answer, or breaks the protocol."""
        self._life.failed(reason)

    def _replace_within(self, seconds: float) -> None:
        if self._replace_timer is None:
            self._replace_timer = self._clock.callLater(
                max(MIN_AGE, seconds * self._chance()),
                self._owner.replacement_wanted,
                self,
            )

    def _not_heard(self, failure: Failure) -> None:
        failure.trap(RequestFailed, ConnectionClosed)
