"""One agent's connection to this proxy, from its login to its end.

The agent opens ``control@rtunnel`` and says ``hello``; from then on the tunnel is in
service, and dials go through it as ``transport@rtunnel`` channels. The messages are in
``docs/protocol.md``.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.control import ControlChannel
from rtunnel.discovery.liveness import Liveness
from rtunnel.discovery.messages import (
    DiscoveryRequest,
    Drain,
    Hello,
    Message,
    replacement_proof,
)
from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.discovery.trust_messages import Renew
from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
    OPEN_UNKNOWN_CHANNEL_TYPE,
    ConnectionClosed,
    MessageError,
    OpenRefused,
    RequestFailed,
)
from rtunnel.naming import printable
from rtunnel.proxy.fair_shares import FairShares
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import TokenBucket
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.trust.identity import AgentIdentity, Identity
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.wire.keys import PublicKey

#: Seconds from login to ``hello``; an agent that is silent longer is disconnected.
HELLO_DEADLINE = 10.0

#: Renewals that an agent may ask for each second, and at once. It does with far fewer;
#: each costs signatures and a line in the audit file, here or at a peer.
RENEWALS_PER_SECOND, RENEWALS_BURST = 0.5, 10

CONTROL_CHANNEL = b"control@rtunnel"
TRANSPORT_CHANNEL = b"transport@rtunnel"


class TunnelOwner(Protocol):
    """Who decides on tunnels and keeps the table of them."""

    def has_lapsed(self, identity: Identity) -> bool:
        """Whether an identity may do nothing new: its time is over, or it would not be
        believed any longer."""

    def tunnel_started(self, tunnel: Tunnel) -> None:
        """The agent has logged in."""

    async def admit(self, tunnel: Tunnel) -> bool:
        """Take the tunnel into service, or refuse: its agent holds a live one."""

    def own_authority(self) -> PublicKey:
        """The authority of the host certificate that is shown now."""

    def renew(self, tunnel: Tunnel, request: RenewalRequest) -> bool:
        """The agent asks for its next certificate; says whether somebody will try.

        :raises MessageError: when it shows somebody else's.
        """

    def tunnel_in_service(self, tunnel: Tunnel) -> None:
        """The agent has heard that its tunnel is in service."""

    def tunnel_changed(self, tunnel: Tunnel) -> None:
        """The number of channels or the round trip time is another."""

    def tunnel_ended(self, tunnel: Tunnel, reason: str) -> None:
        """The connection is gone. Called once, whether it was admitted or not."""


class Tunnel:
    """The proxy's end of one tunnel; a :class:`~rtunnel.ssh.connection.\
ConnectionHandler`.

    :param identity: what the agent's certificate proves.
    :param liveness: makes the heartbeat schedule of a new tunnel.
    :param now: wall clock, seconds since the epoch.
    """

    #: Not when the agent's certificate expires, unless the proxy's config says so.
    lets_connections_finish = False

    _log = Logger()

    def __init__(
        self,
        identity: AgentIdentity,
        owner: TunnelOwner,
        clock: IReactorTime,
        heartbeat: float,
        missed: int,
        now: float,
    ) -> None:
        self._identity = identity
        self.since = now
        self.admitted = False
        self.version = ""
        self.replaces = ""
        self.host_certified_by: PublicKey | None = None
        self._successor: Tunnel | None = None
        self._owner = owner
        self._clock = clock
        self._liveness = Liveness(heartbeat, missed)
        self._connection: Connection | None = None
        self._control: ControlChannel | None = None
        self._hello_timer: IDelayedCall | None = None
        self._renewals = TokenBucket(
            RENEWALS_PER_SECOND, RENEWALS_BURST, clock.seconds()
        )
        self._shares: FairShares | None = None
        self._draining = False
        self._lost = False
        self._end_reason = ""

    @property
    def identity(self) -> AgentIdentity:
        """What the agent's certificate proves; once it is replaced, that of the tunnel
        in its place, for the agent has shown that certificate since."""
        return self._identity if self._successor is None else self._successor.identity

    @property
    def replacement_proof(self) -> str:
        """What the agent has to know to put another tunnel in the place of this one."""
        if self._connection is None:
            return ""
        return replacement_proof(self._connection.transport.session_id)

    @property
    def cluster(self) -> str:
        """The cluster that the certificate names."""
        return self.identity.cluster

    @property
    def agent(self) -> str:
        """The agent's instance id, from its certificate."""
        return self.identity.instance

    @property
    def open_channels(self) -> int:
        """Dials under way and connections open on this tunnel."""
        if self._connection is None:
            return 0
        control = 1 if self._control is not None else 0
        return max(0, self._connection.open_channels - control)

    @property
    def open_connections(self) -> int:
        """The same, for who asks what is lost when the tunnel ends."""
        return self.open_channels

    @property
    def accepts_dials(self) -> bool:
        """In service, answering, not draining, and its certificate still good."""
        return (
            self.admitted
            and not self._draining
            and not self._owner.has_lapsed(self.identity)
            and self._control is not None
            and not self._control.suspect
        )

    @property
    def was_lost(self) -> bool:
        """Whether it ended, or is about to, without either end having said so."""
        return self._lost

    @property
    def rtt(self) -> float | None:
        """Seconds that the newest heartbeat took to be answered; None before one."""
        return None if self._control is None else self._control.rtt

    def __repr__(self) -> str:
        state = "draining" if self._draining else "admitted" if self.admitted else "new"
        return f"<Tunnel {self.cluster} {self.agent} {state}>"

    def connection_started(self, connection: Connection) -> None:
        """The agent has logged in; it now has :data:`HELLO_DEADLINE` to greet."""
        self._connection = connection
        self._shares = FairShares(connection)
        connection.expect_peer_to_read(
            self._liveness.interval * (self._liveness.missed + 1)
        )
        self._hello_timer = self._clock.callLater(HELLO_DEADLINE, self._no_hello)
        self.host_certified_by = self._owner.own_authority()
        self._owner.tunnel_started(self)

    def _no_hello(self) -> None:
        self._hello_timer = None
        self.close(f"no hello within {HELLO_DEADLINE:g} seconds")

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """An agent may open its control channel, once, and nothing else."""
        if request.kind != CONTROL_CHANNEL:
            raise OpenRefused(
                OPEN_UNKNOWN_CHANNEL_TYPE, "an agent opens control@rtunnel only"
            )
        if self._control is not None:
            raise OpenRefused(
                OPEN_ADMINISTRATIVELY_PROHIBITED, "control@rtunnel is open already"
            )
        return self._attach_control

    def _attach_control(self, channel: Channel) -> None:
        self._control = ControlChannel(channel, self._clock, self._liveness, self)

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """No global request is served on a tunnel."""
        return None

    def message_received(self, message: Message) -> bool | Deferred[bool]:
        """A control message from the agent (called by the control channel)."""
        if isinstance(message, Hello):
            return Deferred.fromCoroutine(self._greeted(message))
        if isinstance(message, Renew):
            if not self._renewals.take(self._clock.seconds()):
                return False
            try:
                return self._owner.renew(self, message.request)
            except MessageError as error:
                self.close(str(error))
                return False
        if isinstance(message, Drain):
            if self._draining:
                # Said again it is no news, neither for the log nor for the registry.
                return True
            self._log.info(
                "agent {agent} of cluster {cluster} is leaving: {reason}",
                agent=self.agent,
                cluster=self.cluster,
                reason=printable(message.reason),
            )
            self._draining = True
            self._owner.tunnel_changed(self)
            return True
        return False

    async def _greeted(self, hello: Hello) -> bool:
        if self._hello_timer is None:
            self.close("hello was said twice")
            return False
        self._hello_timer.cancel()
        self._hello_timer = None
        if hello.instance != self.agent:
            self.close("hello names another instance than the certificate does")
            return False
        self.version = printable(hello.version, 32)
        self.replaces = hello.replaces
        if not await self._owner.admit(self):
            self.close("another live tunnel of this agent instance is in service here")
            return False
        self.admitted = True
        # After the reply to hello, not before: the agent is in service when it hears
        # of the proxies.
        self._clock.callLater(0, self._now_in_service)
        return True

    def _now_in_service(self) -> None:
        if self._connection is not None:
            self._owner.tunnel_in_service(self)

    def peer_dead(self, reason: str) -> None:
        """Heartbeats are not answered (called by the control channel)."""
        self._lost = True
        self._end_reason = self._end_reason or reason
        if self._connection is not None:
            self._connection.close(reason)

    def send_discovery(self, request: DiscoveryRequest) -> None:
        """Tell the agent which proxies there are."""
        self._say(request)

    def send_drain(self, reason: str, seconds: float) -> None:
        """Ask the agent to take its tunnel elsewhere.

        :param seconds: how long connections that are open may last.
        """
        self._say(Drain(reason, seconds))

    def replaced_by(self, successor: Tunnel) -> None:
        """Open nothing new on it: a tunnel of the same agent is in its place now. It
        goes on until its channels have ended."""
        self._successor = successor
        self._draining = True

    def say(self, message: Message) -> Deferred[None]:
        """Send a control message.

        :return: fails with RequestFailed when the agent refuses it, with
            ConnectionClosed when it is gone.
        """
        if self._control is None:
            return fail(ConnectionClosed("the tunnel is gone"))
        return self._control.send(message)

    def _say(self, message: Message) -> None:
        self.say(message).addErrback(self._not_heard)

    def _not_heard(self, failure: Failure) -> None:
        # An agent that is too old for a message refuses it; one that is gone is told
        # of elsewhere.
        failure.trap(RequestFailed, ConnectionClosed)

    async def still_answers(self, timeout: float) -> bool:
        """Whether the agent answers a heartbeat within ``timeout`` seconds."""
        return self._control is not None and await self._control.probe(timeout)

    async def dial(self, request: TransportRequest) -> Channel:
        """Open a channel to a target through the tunnel.

        :raises OpenRefused: with the agent's own reason and sentence.
        :raises ConnectionClosed: when the tunnel breaks meanwhile.
        :raises ShareTaken: when the user has a fair share of the tunnel.
        """
        if self._shares is None:
            raise OpenRefused(OPEN_RESOURCE_SHORTAGE, "the tunnel is gone")
        return await self._shares.open(
            request.user, TRANSPORT_CHANNEL, request.encode()
        )

    def close(self, reason: str) -> None:
        """End the tunnel with a reason that the agent will log."""
        self._end_reason = self._end_reason or reason
        if self._connection is not None:
            self._connection.close(reason, DISCONNECT_BY_APPLICATION)

    def connection_lost(self, reason: str) -> None:
        """The SSH connection is gone; every channel on it has been closed."""
        self._connection = self._shares = None
        self._lost = self._lost or not (self._draining or self._end_reason)
        if self._hello_timer is not None:
            self._hello_timer.cancel()
            self._hello_timer = None
        if self._control is not None:
            self._control.stop()
        self._owner.tunnel_ended(self, self._end_reason or reason)
