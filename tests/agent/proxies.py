"""Proxies for the tests of the agent: a real SSH server, and a proxy's manners.

They listen on 127.0.0.1 and answer hello, say which proxies there are, ask for
connections and drain, as tests tell them to.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from rtunnel.agent.connect import Connector
from rtunnel.agent.machine import Deadlines
from rtunnel.agent.reactors import IAgentReactor
from rtunnel.agent.service import AgentService
from rtunnel.config import Address, AgentConfig, RenewalConfig, TunnelConfig
from rtunnel.control import ControlChannel
from rtunnel.discovery.liveness import Liveness
from rtunnel.discovery.messages import (
    DiscoveryRequest,
    Hello,
    Message,
    ProxyAdvert,
    replacement_proof,
)
from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.errors import OPEN_UNKNOWN_CHANNEL_TYPE, OpenRefused
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ServerFactory
from rtunnel.ssh.host_key import HostKey
from rtunnel.state_directory import AgentCredentials
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.authentication import Authentication
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.authorized_keys import AuthorizedKeys
from rtunnel.trust.identity import Identity
from rtunnel.trust.targets import TargetPatterns
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey

reactor = cast(IAgentReactor, global_reactor)

#: What the certificates' validity is held against.
NOW = 1_800_000_000.0
INSTANCE = str(uuid.UUID(int=0xA9E27))
LOOPBACK = "127.0.0.1"


def authority() -> CertificateAuthority:
    """A new one."""
    return CertificateAuthority(PrivateKey.generate(), now=lambda: NOW)


class Side:
    """A proxy's end of one connection; also its control channel's receiver."""

    def __init__(self, proxy: FakeProxy) -> None:
        self.proxy = proxy
        self.connection: Connection | None = None
        self.control: ControlChannel | None = None
        self.received: list[Message] = []
        self.lost: str | None = None
        self._proof = ""

    def connection_started(self, connection: Connection) -> None:
        """An agent has logged in."""
        self.connection = connection
        self._proof = replacement_proof(cast(Any, connection.transport).session_id)
        self.proxy.sides.append(self)

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """Its control channel, nothing else."""
        if request.kind != b"control@rtunnel" or not self.proxy.takes_control:
            raise OpenRefused(OPEN_UNKNOWN_CHANNEL_TYPE, "no such channel here")
        return self._attach

    def _attach(self, channel: Channel) -> None:
        self.control = ControlChannel(channel, reactor, Liveness(60.0, 3), self)

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """None is served."""
        return None

    def connection_lost(self, reason: str) -> None:
        """The agent is gone."""
        self.lost = reason
        if self.control is not None:
            self.control.stop()

    def message_received(self, message: Message) -> bool | Awaitable[bool]:
        """Keep it; a hello is answered, and the proxies are listed."""
        self.received.append(message)
        if not isinstance(message, Hello):
            return self.proxy.on_message(self, message)
        answer = self.proxy.answer_hello()
        if answer is True:
            reactor.callLater(0, self.announce)
        return answer

    def peer_dead(self, reason: str) -> None:
        """Does not happen in time."""

    def announce(self) -> None:
        """Say which proxies there are."""
        if self.lost is None:
            self.send(DiscoveryRequest(tuple(self.proxy.adverts()), 60.0))

    def send(self, message: Message) -> None:
        """Say something."""
        assert self.control is not None
        self.control.send(message).addErrback(lambda failure: None)

    @property
    def proof(self) -> str:
        """What a tunnel has to show to replace this one."""
        return self._proof

    @property
    def greeted(self) -> bool:
        """Whether the tunnel is in service here."""
        return any(isinstance(message, Hello) for message in self.received)

    async def open(self, host: str, port: int, kind: bytes = b"") -> Channel:
        """Ask for a connection."""
        request = TransportRequest(host, port, "alice", "192.0.2.7", "c-1")
        assert self.connection is not None
        return await self.connection.open_channel(
            kind or b"transport@rtunnel", request.encode()
        )


class FakeProxy:
    """A proxy that listens; everything that tests may change is an attribute.

    :ivar sides: its ends of connections that have logged in, oldest first.
    :ivar connections: how many connections there were, logged in or not.
    """

    def __init__(self, host_ca: CertificateAuthority, agent_ca: CertificateAuthority):
        self.id = str(uuid.uuid4())
        self.sides: list[Side] = []
        self.connections = 0
        self.takes_control = True
        self.answer_hello: Callable[[], bool | Awaitable[bool]] = lambda: True
        self.on_message: Callable[[Side, Message], bool] = lambda side, message: True
        self.adverts: Callable[[], Sequence[ProxyAdvert]] = lambda: [self.advert()]
        self._open: list[Any] = []
        key = PrivateKey.generate()
        self.certificate: Certificate | None = host_ca.sign_host(
            key.public,
            proxy_id=self.id,
            cluster="a",
            public_names=["lb.example.com"],
            validity=3600,
        )
        self.key = key
        keys = AuthorizedKeys.parse("")
        anchors = TrustAnchors(agent=[agent_ca.public], host=[host_ca.public])
        rules = Authentication(
            anchors=lambda: anchors,
            cluster="a",
            authorized_keys=lambda: keys,
            now=lambda: NOW,
        )
        self._factory = ServerFactory(
            clock=reactor,
            host_keys=lambda: [HostKey(self.key, self.certificate)],
            identify=rules.identify,
            make_handler=self._make_side,
        )
        self._port: IListeningPort | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the port as before if there was one."""
        counting: Any = Factory()
        counting.buildProtocol = self._build
        port = reactor.listenTCP(self.port, counting, interface=LOOPBACK)
        self._port = port
        self.port = cast(IPv4Address, port.getHost()).port

    async def stop(self) -> None:
        """Listen no more, and cut every connection."""
        if self._port is not None:
            port, self._port = self._port, None
            await port.stopListening()  # type: ignore[misc]
        for protocol in self._open:
            protocol.transport.abortConnection()
        self._open.clear()
        await deferLater(reactor, 0)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{LOOPBACK}:{self.port}"

    def advert(self, *, direct: bool = False, ttl: float = 600.0) -> ProxyAdvert:
        """What is said about it."""
        addresses = (self.address,) if direct else ()
        return ProxyAdvert(self.id, addresses, 1, "active", ttl)

    @property
    def tunnels(self) -> list[Side]:
        """Tunnels in service here."""
        return [side for side in self.sides if side.greeted and side.lost is None]

    def _build(self, addr: Any) -> IProtocol:
        self.connections += 1
        protocol = self._factory.buildProtocol(addr)
        assert protocol is not None
        self._open.append(protocol)
        return protocol

    def _make_side(self, identity: Identity) -> Side:
        return Side(self)


class Balancer(Connector):
    """A connector whose one special address leads to any of several proxies.

    :param choose: the index of the proxy for each connection.
    """

    ADDRESS = "lb.example.com:3023"

    def __init__(
        self, proxies: Sequence[FakeProxy], choose: Callable[[], int] | None = None
    ) -> None:
        super().__init__(reactor, {})
        self.proxies = proxies
        count = itertools.count()
        self.choose = choose or (lambda: next(count) % len(self.proxies))
        self.dials = 0

    async def connect(
        self, address: Address, rotation: int, factory: IProtocolFactory
    ) -> IProtocol:
        """See ``Connector``."""
        if str(address) == self.ADDRESS:
            self.dials += 1
            address = Address.parse(self.proxies[self.choose()].address)
        return await super().connect(address, rotation, factory)


class AgentTestCase(TestCase):
    """An agent and proxies over real sockets."""

    timeout = 30

    def setUp(self) -> None:
        """Authorities, and a key for the agent."""
        self.host_ca, self.agent_ca = authority(), authority()
        key = PrivateKey.generate()
        certificate = self.agent_ca.sign_agent(
            key.public, cluster="b", instance=INSTANCE, validity=3600
        )
        self.credentials = AgentCredentials(key, certificate, (self.host_ca.public,))
        self.loads = 0

    def make_proxy(self, **changes: Any) -> FakeProxy:
        """A proxy that is there until the test ends."""
        proxy = FakeProxy(self.host_ca, self.agent_ca)
        for name, value in changes.items():
            setattr(proxy, name, value)
        self.addCleanup(lambda: Deferred.fromCoroutine(proxy.stop()))
        return proxy

    def make_proxies(self, count: int, *, direct: bool = False) -> list[FakeProxy]:
        """Proxies that know of each other."""
        proxies = [self.make_proxy() for _ in range(count)]
        for proxy in proxies:
            proxy.adverts = lambda: [each.advert(direct=direct) for each in proxies]
        return proxies

    def start_agent(
        self,
        *addresses: str,
        allow: Sequence[str] = ("*:*",),
        resolve: dict[str, str] | None = None,
        tunnels: Any = "all",
        heartbeat: float = 5.0,
        path: Path | None = None,
        state: Path = Path("."),
        renewal: RenewalConfig = RenewalConfig(),  # noqa: B008
        **more: Any,
    ) -> AgentService:
        """An agent that runs until the test ends."""
        config = AgentConfig(
            path=path or Path("agent.toml"),
            state=state,
            renewal=renewal,
            cluster="b",
            proxies=tuple(Address.parse(address) for address in addresses),
            tunnels=tunnels,
            allow=TargetPatterns.parse(allow),
            resolve=resolve or {},
            tunnel=TunnelConfig(heartbeat=heartbeat, missed=3),
        )
        more.setdefault("drain_timeout", 0.2)
        more.setdefault("deadlines", Deadlines())
        service = AgentService(
            config, reactor, now=lambda: NOW, load=self.load, environ={}, **more
        )
        service.startService()
        self.addCleanup(service.stopService)
        return service

    def load(self, config: AgentConfig, now: float) -> AgentCredentials:
        """What the agent's state directory holds."""
        self.loads += 1
        return self.credentials

    async def until(self, condition: Callable[[], object], seconds: float = 10) -> None:
        """Wait until a condition holds."""
        for _ in range(int(seconds * 200)):
            if condition():
                return
            await deferLater(reactor, 0.005)
        self.fail(f"it did not come about within {seconds} s")

    def listen(self, factory: Factory) -> int:
        """Listen until the test ends; the port."""
        port = reactor.listenTCP(0, cast(Any, factory), interface=LOOPBACK)
        self.addCleanup(port.stopListening)
        return cast(IPv4Address, port.getHost()).port

    def listen_silently(self) -> int:
        """A port that accepts and says nothing; cut when the test ends."""
        return self.listen(self._kept(Protocol))

    def listen_echoing(self) -> int:
        """A port that says everything again."""
        return self.listen(self._kept(_Echo))

    def _kept(self, kind: type[Protocol]) -> Factory:
        kept: list[Protocol] = []

        def build() -> Protocol:
            kept.append(kind())
            return kept[-1]

        def cut() -> Deferred[None]:
            for protocol in kept:
                if protocol.transport is not None:
                    cast(Any, protocol.transport).abortConnection()
            return deferLater(reactor, 0)

        self.addCleanup(cut)
        return Factory.forProtocol(build)


class _Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        """See ``IProtocol``."""
        assert self.transport is not None
        self.transport.write(data)
