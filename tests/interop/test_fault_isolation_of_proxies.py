"""A fault on a proxy's connection or channel costs an agent's others nothing.

A real agent has tunnels to many proxies, which are this test: one of them has a hundred
streams to a target, which are compared all the while, and each of the others does
something wrong.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from rtunnel.control import ControlChannel
from rtunnel.discovery.liveness import Liveness
from rtunnel.discovery.messages import DiscoveryRequest, Message, ProxyAdvert
from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.errors import OPEN_UNKNOWN_CHANNEL_TYPE, OpenRefused
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ServerFactory
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.interfaces import ConnectionHandler
from rtunnel.ssh.limits import TransportLimits
from rtunnel.state_directory import load_private_key
from rtunnel.testing import RecordingReceiver
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.wire.data_types import boolean, string, uint32
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_IGNORE,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)
from tests.interop import targets
from tests.interop.isolation import STREAMS, WitnessCase
from tests.interop.processes import LOOPBACK, Process, free_port
from tests.interop.programs import Agent, rtunnel_here
from tests.interop.rogue_proxy import anybody
from tests.interop.witnesses import Witness, Witnesses
from tests.ssh.listening import listen

# The module is typed as the module it replaces.
reactor: Any = global_reactor

#: Streams of the tunnel on which a channel's fault is committed.
BESIDE = 20

_ALL = 2**32 - 1

#: What asks without end has no limit of its own.
LIMITS = ChannelLimits(outstanding_requests=1_000_000)
TRANSPORT_LIMITS = TransportLimits(unread_bytes=2**30)

#: Gets the transport, the channel and the agent's number of it.
Commit = Callable[[Any, Channel, int], object]


def sends(number: int, payload: Callable[[int], bytes]) -> Commit:
    """Send one message."""
    return lambda transport, channel, own: transport.sendPacket(number, payload(own))


def _past_window(transport: Any, channel: Channel, own: int) -> None:
    for _ in range(300):
        data = uint32(own) + string(bytes(32768))
        transport.sendPacket(MSG_CHANNEL_DATA, data)


def _after_eof(transport: Any, channel: Channel, own: int) -> None:
    transport.sendPacket(MSG_CHANNEL_EOF, uint32(own))
    transport.sendPacket(MSG_CHANNEL_DATA, uint32(own) + string(b"x"))


def _close_unsent(transport: Any, channel: Channel, own: int) -> None:
    channel.pauseProducing()
    channel.write(bytes(2**20))
    channel.abort()


def _ask(transport: Any, channel: Channel, own: int) -> None:
    for _ in range(10_000):
        channel.send_request(b"env").addErrback(lambda _: None)
        answer = transport.service.send_global_request(b"novelty")
        answer.addErrback(lambda _: None)
    channel.close()


def _ask_and_not_read(transport: Any, channel: Channel, own: int) -> None:
    transport.transport.pauseProducing()
    request = uint32(own) + string(b"env") + boolean(True)
    for _ in range(200_000):
        transport.sendPacket(MSG_CHANNEL_REQUEST, request)


def _closed_twice(transport: Any, channel: Channel, own: int) -> None:
    for _ in range(2):
        transport.sendPacket(MSG_CHANNEL_CLOSE, uint32(own))


def _above_all_bounds(transport: Any, channel: Channel, own: int) -> None:
    for _ in range(2):
        adjust = uint32(own) + uint32(_ALL)
        transport.sendPacket(MSG_CHANNEL_WINDOW_ADJUST, adjust)


def _impossible_length(transport: Any, channel: Channel, own: int) -> None:
    transport.transport.write(uint32(_ALL) + bytes(60))


def _spoilt_packet(transport: Any, channel: Channel, own: int) -> None:
    pieces: list[bytes] = []
    transport._sealer.seal(MSG_IGNORE, string(bytes(1000)), b"", pieces)
    packet = bytearray(b"".join(pieces))
    packet[500] ^= 1
    transport.transport.write(bytes(packet))


#: What ends the channel, and no more.
CHANNEL_FAULTS: dict[str, Commit] = {
    "data past the window": _past_window,
    "a packet that is too large": sends(
        MSG_CHANNEL_DATA, lambda own: uint32(own) + string(bytes(2**18 + 1))
    ),
    "extended data that is too large": sends(
        MSG_CHANNEL_EXTENDED_DATA,
        lambda own: uint32(own) + uint32(1) + string(bytes(2**18 + 1)),
    ),
    "data after the end of data": _after_eof,
    "CLOSE with data unsent": _close_unsent,
    "requests without end": _ask,
}

#: What ends the connection, and no other.
CONNECTION_FAULTS: dict[str, Commit] = {
    "a window above all bounds": _above_all_bounds,
    "an answer that nobody asked for": sends(MSG_REQUEST_SUCCESS, lambda own: b""),
    "a refusal that nobody asked for": sends(MSG_REQUEST_FAILURE, lambda own: b""),
    "a channel's answer that nobody asked for": sends(MSG_CHANNEL_SUCCESS, uint32),
    "a channel's refusal that nobody asked for": sends(MSG_CHANNEL_FAILURE, uint32),
    "a confirmation that nobody asked for": sends(
        MSG_CHANNEL_OPEN_CONFIRMATION, lambda own: uint32(own) + bytes(12)
    ),
    "an open's refusal that nobody asked for": sends(
        MSG_CHANNEL_OPEN_FAILURE, lambda own: uint32(own) + bytes(12)
    ),
    "data for a channel that there is not": sends(
        MSG_CHANNEL_DATA, lambda own: uint32(own + 7) + string(b"x")
    ),
    "a channel closed twice": _closed_twice,
    "data that ends early": sends(
        MSG_CHANNEL_DATA, lambda own: uint32(own) + uint32(1000) + b"x"
    ),
    "an open that ends early": sends(
        MSG_CHANNEL_OPEN, lambda own: string(b"transport@rtunnel")
    ),
    "a packet of an impossible length": _impossible_length,
    "a packet that is not authentic": _spoilt_packet,
    "requests whose answers are not read": _ask_and_not_read,
    "a reset": lambda transport, channel, own: transport.transport.abortConnection(),
}


class FaultyProxy:
    """One agent's connection, on the side of a proxy.

    :param others: where the agent finds the other proxies.
    :ivar connection: once the agent has its control channel.
    """

    def __init__(self, others: Sequence[ProxyAdvert]) -> None:
        self._others = others
        self.connection: Connection | None = None
        self.is_lost = False

    def connection_started(self, connection: Connection) -> None:
        """See ConnectionHandler."""

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """See ConnectionHandler."""
        if request.kind != b"control@rtunnel":
            raise OpenRefused(OPEN_UNKNOWN_CHANNEL_TYPE, "not here")
        return self._attach

    def _attach(self, channel: Channel) -> None:
        control = ControlChannel(channel, reactor, Liveness(60, 3), self)
        told = control.send(DiscoveryRequest(tuple(self._others), 600.0))
        told.addErrback(lambda _: None)
        self.connection = channel.connection

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """See ConnectionHandler."""
        return None

    def connection_lost(self, reason: str) -> None:
        """See ConnectionHandler."""
        self.is_lost = True

    def message_received(self, message: Message) -> bool:
        """See ControlReceiver."""
        return True

    def peer_dead(self, reason: str) -> None:
        """See ControlReceiver."""


class ProxyFaultTests(WitnessCase):
    """Proxies of one cluster, and one agent that has tunnels to all of them."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Start them, and two targets."""
        self.directory = Path(tempfile.mkdtemp(prefix="rtunnel-"))
        self.addCleanup(shutil.rmtree, self.directory)
        state = self.directory / "proxy"
        await deferToThread(
            partial(
                rtunnel_here,
                *("init", "--state", state, "--cluster", "a"),
                *("--public", f"{LOOPBACK}:3023"),
            )
        )
        self.authority = CertificateAuthority(
            load_private_key(state / "host_ca"), now=time.time
        )
        self.proxies: dict[str, FaultyProxy] = {}
        self.adverts: list[ProxyAdvert] = []
        names = ("streams", "channels", *CONNECTION_FAULTS)
        first, *_ = [await self.listen(name) for name in names]
        self.echo, self.silent = [
            await self.target(behaviour) for behaviour in ("echo", "silent")
        ]
        self.agent = Agent("agent", self.directory)
        await deferToThread(
            partial(
                rtunnel_here,
                *("agent", "sign", "b", "--state", state, "--out", self.agent.state),
                *("--set", f'proxies=["{first}"]'),
                *("--set", 'allow=["web1:*"]'),
                *("--set", 'resolve={web1="127.0.0.1"}'),
            )
        )
        self.agent.start()
        self.addCleanup(self.agent.process.kill)
        await self.until(lambda: len(self.connected()) == len(names))

    async def target(self, behaviour: str) -> int:
        """The port of a target of :mod:`tests.interop.targets`."""
        port = free_port()
        process = Process(
            behaviour,
            [sys.executable, targets.__file__, behaviour, str(port)],
            self.directory,
        )
        self.addCleanup(process.kill)
        await deferToThread(process.wait_for_port, port)
        return port

    async def listen(self, name: str) -> str:
        """A proxy of that name; its address."""
        key = PrivateKey.generate()
        proxy_id = str(uuid.uuid4())
        certificate = self.authority.sign_host(
            key.public,
            proxy_id=proxy_id,
            cluster="a",
            public_names=(),
            validity=3600,
        )

        def make_handler(identity: object) -> ConnectionHandler:
            # What it comes back with after a fault is another.
            proxy = FaultyProxy(self.adverts)
            self.proxies.setdefault(name, proxy)
            return self.proxies[name] if not self.proxies[name].is_lost else proxy

        factory = ServerFactory(
            clock=reactor,
            host_keys=[HostKey(key, certificate)],
            identify=anybody,
            make_handler=make_handler,
            limits=TRANSPORT_LIMITS,
            make_connection=lambda handler: Connection(handler, LIMITS),
        )
        port = await listen(self, factory, [])
        address = f"{LOOPBACK}:{port}"
        self.adverts.append(ProxyAdvert(proxy_id, (address,), 1, "active", 600.0))
        return address

    def connected(self) -> list[FaultyProxy]:
        """Those that the agent is in service at."""
        return [each for each in self.proxies.values() if each.connection is not None]

    def last_words(self) -> str:
        """See :class:`WitnessCase`."""
        return self.agent.process.tail()

    async def open(self, name: str, port: int) -> Channel:
        """A channel through a proxy's tunnel to a target."""
        connection = self.proxies[name].connection
        assert connection is not None
        number = uuid.uuid4().hex
        request = TransportRequest("web1", port, "alice", "192.0.2.1", number)
        return await connection.open_channel(b"transport@rtunnel", request.encode())

    async def witnesses(self, name: str, count: int) -> Witnesses:
        """Streams through a proxy's tunnel."""
        return Witnesses(
            [Witness(await self.open(name, self.echo), seed) for seed in range(count)]
        )

    async def commit(self, name: str, act: Commit) -> RecordingReceiver:
        """Do something wrong on a new channel; who hears what becomes of it.

        Nobody reads what is sent on it.
        """
        channel = await self.open(name, self.silent)
        receiver = RecordingReceiver()
        channel.start(receiver)
        channel.write(b"x" * 1000)
        act(channel.connection.transport, channel, channel._recipient)
        return receiver

    async def test_faults_of_a_proxy(self) -> None:
        """Each ends that channel or that tunnel; the agent's others go on."""
        streams = await self.witnesses("streams", STREAMS)
        beside = await self.witnesses("channels", BESIDE)
        for what, act in CHANNEL_FAULTS.items():
            receiver = await self.commit("channels", act)
            await self.until(partial(getattr, receiver, "is_closed"))
            await self.assert_go_on(streams)
            await self.assert_go_on(beside)
            self.assertFalse(self.proxies["channels"].is_lost, what)
        for what, act in CONNECTION_FAULTS.items():
            await self.commit(what, act)
            await self.until(partial(getattr, self.proxies[what], "is_lost"))
            await self.assert_go_on(streams)
        await self.assert_go_on(beside)
        await streams.finish()
        await beside.finish()
        self.assertTrue(self.agent.process.is_alive)
        said = self.agent.process.output()
        self.assertNotIn("Traceback", said)
        self.assertNotIn("Unhandled", said)
        await self.hang_up()

    async def hang_up(self) -> None:
        """End the agent, and see all of its connections end."""
        self.agent.process.kill()
        await self.until(lambda: all(each.is_lost for each in self.proxies.values()))
        later: Deferred[None] = deferLater(reactor, 0.1)
        await later
