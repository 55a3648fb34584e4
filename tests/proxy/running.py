"""A proxy in this process, with real sockets, and peers to try it with."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from rtunnel.config import load_proxy
from rtunnel.control import ControlChannel
from rtunnel.discovery.liveness import Liveness
from rtunnel.discovery.messages import DiscoveryRequest, Hello, Message
from rtunnel.errors import OPEN_CONNECT_FAILED, OpenRefused
from rtunnel.proxy.service import ProxyService
from rtunnel.splice import Stream
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ClientFactory
from rtunnel.state_directory import (
    load_agent_credentials,
    load_certificate,
    load_private_key,
    write_key_pair,
)
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import text, uint32
from rtunnel.wire.keys import PrivateKey
from tests.cli.running import rtunnel

EVERYTHING = "allow=[{users=['*'], clusters=['*'], targets=['*:*']}]"


def events(text: str, name: str) -> list[dict[str, Any]]:
    """The events of one kind in an audit file."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["event"] == name]


class Received:
    """Collects what a stream delivers."""

    def __init__(self) -> None:
        self.data = b""
        self.eof = False
        self.ended: Deferred[str | None] = Deferred()
        self.eof_seen: Deferred[None] = Deferred()

    def data_received(self, data: bytes) -> None:
        """Some bytes."""
        self.data += data

    def eof_received(self) -> None:
        """The end of them."""
        self.eof = True
        self.eof_seen.callback(None)

    def closed(self, reason: str | None) -> None:
        """The end of the stream."""
        self.ended.callback(reason)


class Echo(Received):
    """Sends back what a stream delivers, and ends when it ends."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def data_received(self, data: bytes) -> None:
        """Some bytes."""
        super().data_received(data)
        self._stream.write(data)

    def eof_received(self) -> None:
        """The end of them."""
        super().eof_received()
        self._stream.write_eof()
        self._stream.close()


class Peer:
    """The far end of a connection to the proxy: what it serves, what it hears.

    ``transport@rtunnel`` channels are echoed, refused with the text in ``refusal``, or
    never answered when ``asked`` is a Deferred, which fires when one is asked for. When
    ``answering`` is a Deferred, they are answered after it has fired.
    """

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.lost: Deferred[str] = Deferred()
        self.refusal: str | None = None
        self.asked: Deferred[None] | None = None
        self.answering: Deferred[None] | None = None
        self.dialled: list[OpenRequest] = []

    def connection_started(self, connection: Connection) -> None:
        """Logged in."""
        self.connection = connection

    def connection_lost(self, reason: str) -> None:
        """Gone."""
        self.lost.callback(reason)

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """None is served."""
        return None

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """Echo, refuse, or leave it open."""
        self.dialled.append(request)
        if self.asked is not None:
            self.asked.callback(None)
            await Deferred()
        if self.answering is not None:
            await self.answering
        if self.refusal is not None:
            raise OpenRefused(OPEN_CONNECT_FAILED, self.refusal)
        return lambda channel: channel.start(Echo(channel))


class Agent(Peer):
    """An agent that does as the test says."""

    def __init__(self, instance: str) -> None:
        super().__init__()
        self.instance = instance
        self.control: ControlChannel | None = None
        self.heard: list[Message] = []
        self.discovered: Deferred[DiscoveryRequest] = Deferred()

    def message_received(self, message: Message) -> bool:
        """From the proxy."""
        self.heard.append(message)
        if isinstance(message, DiscoveryRequest) and not self.discovered.called:
            self.discovered.callback(message)
        return True

    def peer_dead(self, reason: str) -> None:
        """The proxy does not answer."""
        assert self.connection is not None
        self.connection.close(reason)

    async def greet(
        self, reactor: Any, instance: str | None = None, hello: Hello | None = None
    ) -> None:
        """Open the control channel, say hello, and wait for the discovery request."""
        assert self.connection is not None
        channel = await self.connection.open_channel(b"control@rtunnel")
        self.control = ControlChannel(channel, reactor, Liveness(5, 3), self)
        self.lost.addBoth(self._stop)
        await self.control.send(hello or Hello("test", instance or self.instance))
        await self.discovered

    def _stop(self, result: Any) -> Any:
        if self.control is not None:
            self.control.stop()
        return result


class ProxyTestCase(TestCase):
    """A proxy of cluster ``a`` that is started for each test, and stopped after it."""

    settings: Sequence[str] = (EVERYTHING,)
    timeout = 20

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        """Make a state directory, and start."""
        from twisted.internet import reactor

        self.reactor: Any = reactor
        # Cleanups run backwards: a connection that either side has just ended may take
        # a moment to be gone.
        self.addCleanup(self.until, self._is_quiet)
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)
        self.state = self.directory / "proxy"
        self.run_rtunnel(
            *("init", "--state", self.state, "--cluster", "a"),
            *("--public", "127.0.0.1:3023", "--set", "drain.timeout=2"),
            *("--set", "ssh.listen=['tcp:0:interface=127.0.0.1']"),
            *(f"--set={setting}" for setting in self.settings),
        )
        self.config = load_proxy(self.state / "proxy.toml")
        self.proxy = ProxyService(self.config, reactor, now=time.time)
        self.peers: list[Peer] = []
        self.addCleanup(self.stop_proxy)
        self.proxy.startService()
        return self.proxy.started

    def _is_quiet(self) -> bool:
        busy = [*self.reactor.getReaders(), *self.reactor.getWriters()]
        return not any(isinstance(each, tcp.Connection) for each in busy)

    async def stop_proxy(self) -> None:
        """End every connection and stop."""
        for peer in self.peers:
            if peer.connection is not None:
                peer.connection.close("the test is over")
        if self.proxy.running:
            await self.proxy.stopService()
        for peer in self.peers:
            if peer.connection is not None and not peer.lost.called:
                await peer.lost

    def run_rtunnel(self, *arguments: Any) -> None:
        """Run a command that has to succeed."""
        outcome = rtunnel(*arguments)
        self.assertEqual((outcome.err, outcome.code), ("", 0))

    @property
    def port(self) -> int:
        """Where the proxy listens."""
        listen: str = self.proxy.status()["proxy"]["listen"][0]
        return int(listen.rpartition(":")[2])

    def audit_text(self) -> str:
        """The audit file."""
        return (self.state / "audit.jsonl").read_text()

    async def connect(
        self,
        peer: Peer,
        key: PrivateKey,
        certificate: Certificate | None,
        port: int | None = None,
    ) -> Connection:
        """Log in, at this proxy or where another one listens."""
        factory = ClientFactory(
            clock=self.reactor,
            username="whoever",
            key=key,
            certificate=certificate,
            check_host=lambda algorithm, blob: Certificate.from_blob(blob),
            handler=peer,
        )
        return await self.connect_with(factory, peer, port)

    async def connect_with(
        self, factory: Any, peer: Peer, port: int | None = None
    ) -> Connection:
        """Log in with what a factory builds."""
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port or self.port)
        transport: Any = await connectProtocol(endpoint, factory.buildProtocol(None))
        self.peers.append(peer)
        connection: Connection = await transport.ready
        return connection

    def make_agent(self, cluster: str = "b", name: str = "agent") -> Path:
        """A state directory for an agent."""
        state = self.directory / name
        self.run_rtunnel(
            "agent", "sign", cluster, "--state", self.state, "--out", state
        )
        return state

    async def agent(
        self, state: Path, cluster: str = "b", port: int | None = None
    ) -> Agent:
        """An agent that has logged in, and no more."""
        credentials = load_agent_credentials(state, cluster, time.time())
        agent = Agent(credentials.instance)
        await self.connect(agent, credentials.key, credentials.certificate, port)
        return agent

    async def agent_in_service(
        self, name: str = "agent", cluster: str = "b", port: int | None = None
    ) -> Agent:
        """A new agent with a tunnel."""
        agent = await self.agent(self.make_agent(cluster, name), cluster, port)
        await agent.greet(self.reactor)
        return agent

    async def client(
        self, name: str = "alice", *principals: str, port: int | None = None
    ) -> Connection:
        """A person who has logged in by certificate, here or elsewhere."""
        key, certificate = self.person(name, *principals)
        return await self.connect(Peer(), key, certificate, port)

    def person(
        self, name: str, *principals: str, ttl: str = "8h"
    ) -> tuple[PrivateKey, Certificate]:
        """A person's new key, and a certificate for it."""
        path = self.directory / f"{name}-{uuid4().hex}"
        write_key_pair(path, PrivateKey.generate(), name)
        arguments = [part for p in principals for part in ("--principal", p)]
        self.run_rtunnel(
            *("user", "sign", name, "--state", self.state),
            *("--key", f"{path}.pub", "--ttl", ttl, *arguments),
        )
        certificate = load_certificate(path.with_name(f"{path.name}-cert.pub"))
        return load_private_key(path), certificate

    async def open_target(
        self, client: Connection, host: str, port: int = 22
    ) -> Channel:
        """What ``ssh -W`` does."""
        return await client.open_channel(
            b"direct-tcpip",
            text(host) + uint32(port) + text("127.0.0.1") + uint32(40000),
        )

    async def opened(
        self, client: Connection, host: str = "web1.b", port: int = 22
    ) -> tuple[Channel, Received]:
        """A connection to a target, and what comes from there."""
        channel = await self.open_target(client, host, port)
        received = Received()
        channel.start(received)
        return channel, received

    async def until(self, condition: Any) -> None:
        """Wait until ``condition`` is true; the test's time-out ends it otherwise."""
        while not condition():
            await deferLater(self.reactor, 0.01)
