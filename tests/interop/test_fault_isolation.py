"""A fault on one connection or channel costs nobody else a byte.

A hundred streams go through one tunnel and are compared all the while; each fault is
committed beside them, once from a client's side and once from an agent's.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from rtunnel.errors import OpenRefused
from rtunnel.ssh.connection import Connection
from rtunnel.ssh.factory import ClientFactory
from rtunnel.ssh.transport import ClientTransport
from rtunnel.testing import RecordingHandler, RecordingReceiver
from rtunnel.wire.certificate import Certificate
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
    MSG_KEXINIT,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)
from tests.interop.deployment import USER, Layout
from tests.interop.processes import LOOPBACK, wait_until
from tests.interop.scripted_agent import Fault, ScriptedAgent
from tests.interop.sharing import shared
from tests.interop.socket_client import SocketClient, target
from tests.interop.witnesses import Witnesses

# The module is typed as the module it replaces.
reactor: Any = global_reactor

#: Streams that must not notice anything.
STREAMS = 100
#: Seconds that anything here may take.
PATIENCE = 30.0

_ALL = 2**32 - 1

#: SSH_OPEN_RESOURCE_SHORTAGE.
_SHORTAGE = 4


class IsolationCase(TestCase):
    """A deployment, and a client with a hundred streams through its agent."""

    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        """Log in and open the streams."""
        self.deployment = shared(Layout(proxies=1))
        (self.proxy,) = self.deployment.proxies
        person = self.deployment.directory / USER
        self.key = PrivateKey.from_openssh((person / "id").read_bytes())
        line = (person / "id-cert.pub").read_text()
        self.certificate, _ = Certificate.from_openssh(line)
        self.logged = len(self.proxy.process.output())
        self.echo = self.deployment.target("echo")
        self.connection = await self.log_in()
        self.streams = await Witnesses.open(
            self.connection, "web1.b", self.echo, STREAMS
        )

    async def log_in(self) -> Connection:
        """A connection of our own client."""
        factory = ClientFactory(
            clock=reactor,
            username="alice",
            key=self.key,
            certificate=self.certificate,
            check_host=lambda algorithm, blob: Certificate.from_blob(blob),
            handler=RecordingHandler(),
        )
        endpoint = TCP4ClientEndpoint(reactor, LOOPBACK, self.proxy.port)
        transport = cast(ClientTransport, await endpoint.connect(factory))
        connection = await transport.ready
        self.addCleanup(self.hang_up, connection)
        return connection

    async def hang_up(self, connection: Connection) -> None:
        """Wait for the end of a connection, too."""
        transport = cast(Any, connection.transport)
        connection.close()
        await self.until(lambda: transport._lost)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait while the streams go on."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            await deferLater(reactor, 0.01)

    async def assert_go_on(self, streams: Witnesses) -> None:
        """Each of them gets on."""
        before = streams.rounds()

        def got_on() -> bool:
            streams.raise_if_any_ended()
            return all(
                now > then for now, then in zip(streams.rounds(), before, strict=True)
            )

        await self.until(got_on)

    def assert_quiet_log(self) -> None:
        """No traceback, and the proxy is there."""
        self.assertTrue(self.proxy.process.is_alive)
        said = self.proxy.process.output()[self.logged :]
        self.assertNotIn("Traceback", said)
        self.assertNotIn("Unhandled", said)


Commit = Callable[[SocketClient, int], object]


def _send(number: int, payload: Callable[[int], bytes]) -> Commit:
    return lambda client, channel: client.send(number, payload(channel))


def _past_window(client: SocketClient, channel: int) -> None:
    for _ in range(300):
        client.send_data(channel, bytes(32768))


def _above_all_bounds(client: SocketClient, channel: int) -> None:
    for _ in range(2):
        client.send(MSG_CHANNEL_WINDOW_ADJUST, uint32(channel) + uint32(_ALL))


def _spoilt_packet(client: SocketClient, channel: int) -> None:
    packet = bytearray(client.packet(MSG_IGNORE, string(bytes(1000))))
    packet[500] ^= 1
    client.send_bytes(bytes(packet))


def _impossible_length(client: SocketClient, channel: int) -> None:
    client.send_bytes(uint32(_ALL) + bytes(60))


def _extended_too_large(client: SocketClient, channel: int) -> None:
    data = uint32(channel) + uint32(1) + string(bytes(2**18 + 1))
    client.send(MSG_CHANNEL_EXTENDED_DATA, data)


def _closed_twice(client: SocketClient, channel: int) -> None:
    for _ in range(2):
        client.send(MSG_CHANNEL_CLOSE, uint32(channel))


def _named_longer_than_it_is(channel: int) -> bytes:
    return uint32(channel) + uint32(1000) + b"x"


def _half_an_adjustment(channel: int) -> bytes:
    return uint32(channel) + b"\0\1"


def _reset(client: SocketClient, channel: int) -> None:
    linger = struct.pack("ii", 1, 0)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.is_closed = True
    client.socket.close()


def _stall(client: SocketClient, channel: int) -> None:
    client.send(MSG_KEXINIT, client.kexinit().payload[1:])


def _after_eof(client: SocketClient, channel: int) -> None:
    client.send(MSG_CHANNEL_EOF, uint32(channel))
    client.send_data(channel, b"x")


#: What a client can do wrong on a channel to a target, and whether its connection
#: survives that.
CLIENT_FAULTS: dict[str, tuple[Commit, bool]] = {
    "data past the window": (_past_window, True),
    "a packet that is too large": (
        lambda client, channel: client.send_data(channel, bytes(40_000)),
        True,
    ),
    "extended data that is too large": (_extended_too_large, True),
    "data after the end of data": (_after_eof, True),
    "CLOSE with data unsent": (
        _send(MSG_CHANNEL_CLOSE, lambda channel: uint32(channel)),
        True,
    ),
    "a window above all bounds": (_above_all_bounds, False),
    "an answer that nobody asked for": (
        _send(MSG_REQUEST_SUCCESS, lambda channel: b""),
        False,
    ),
    "a refusal that nobody asked for": (
        _send(MSG_REQUEST_FAILURE, lambda channel: b""),
        False,
    ),
    "a channel's answer that nobody asked for": (
        _send(MSG_CHANNEL_SUCCESS, uint32),
        False,
    ),
    "a channel's refusal that nobody asked for": (
        _send(MSG_CHANNEL_FAILURE, uint32),
        False,
    ),
    "a confirmation that nobody asked for": (
        _send(
            MSG_CHANNEL_OPEN_CONFIRMATION, lambda channel: uint32(channel) + bytes(12)
        ),
        False,
    ),
    "an open's refusal that nobody asked for": (
        _send(MSG_CHANNEL_OPEN_FAILURE, lambda channel: uint32(channel) + bytes(12)),
        False,
    ),
    "data for a channel that there is not": (
        _send(MSG_CHANNEL_DATA, lambda channel: uint32(channel + 7) + string(b"x")),
        False,
    ),
    "window for a channel that there is not": (
        _send(
            MSG_CHANNEL_WINDOW_ADJUST, lambda channel: uint32(channel + 7) + uint32(1)
        ),
        False,
    ),
    "a request on a channel that there is not": (
        _send(
            MSG_CHANNEL_REQUEST,
            lambda channel: uint32(channel + 7) + string(b"env") + boolean(True),
        ),
        False,
    ),
    "a channel closed twice": (_closed_twice, False),
    "data that ends early": (_send(MSG_CHANNEL_DATA, _named_longer_than_it_is), False),
    "an adjustment that ends early": (
        _send(MSG_CHANNEL_WINDOW_ADJUST, _half_an_adjustment),
        False,
    ),
    "an open that ends early": (
        _send(MSG_CHANNEL_OPEN, lambda channel: string(b"direct-tcpip")),
        False,
    ),
    "a packet of an impossible length": (_impossible_length, False),
    "a packet that is not authentic": (_spoilt_packet, False),
    "a reset": (_reset, False),
    "a key exchange that does not go on": (_stall, True),
}


class ClientFaultTests(IsolationCase):
    """Another client, whose channel goes through the same tunnel."""

    async def test_faults_of_a_client(self) -> None:
        """Each ends its own channel or connection; the tunnel does not notice."""
        zeros = self.deployment.target("zeros")
        (tunnel,) = self.proxy.tunnels()
        for what, (commit, survives) in CLIENT_FAULTS.items():
            await deferToThread(self._commit, what, commit, survives, zeros)
            await self.assert_go_on(self.streams)
        await self.streams.finish()
        self.assert_quiet_log()
        (still,) = self.proxy.tunnels()
        self.assertEqual(still["since"], tunnel["since"])

    def _commit(self, what: str, commit: Commit, survives: bool, zeros: int) -> None:
        client = SocketClient(self.proxy.port, self.key, self.certificate)
        try:
            client.log_in()
            # One channel with data both ways on its way, and one beside it.
            channel = client.open_target("web1.b", zeros, window=100_000)
            beside = client.open_target("web1.b", self.echo)
            client.take_data(1000)
            commit(client, channel)
            if not survives:
                if not client.is_closed:
                    client.wait_closed()
                return
            if commit is _stall:
                # It has 30 s; see test_limits_of_channels.
                return
            client.wait_channel_closed()
            client.received.clear()
            client.send_data(beside, what.encode())
            self.assertEqual(client.take_data(len(what)), what.encode())
        finally:
            client.close()

    async def test_faults_in_opens_of_a_client(self) -> None:
        """Maximum packets that nobody could use, windows that nobody needs."""

        def misbehave() -> None:
            client = SocketClient(self.proxy.port, self.key, self.certificate)
            client.log_in()
            for size in (0, 1, 1023):
                client.request_channel(
                    b"direct-tcpip", target("web1.b", self.echo), max_packet=size
                )
                self.assertEqual(client.answer_to_open()[0], 1)
            for size, window in ((1024, 10), (_ALL, _ALL), (1024, 0)):
                channel = client.open_target(
                    "web1.b", self.echo, max_packet=size, window=window
                )
                client.send_data(channel, bytes(5000))
                if window:
                    client.take_data(min(window, 5000))
            client.close()

        await deferToThread(misbehave)
        await self.assert_go_on(self.streams)
        await self.streams.finish()
        self.assert_quiet_log()

    async def test_more_channels_than_there_may_be(self) -> None:
        """Are refused; what is open, with whomever, goes on."""

        def misbehave() -> None:
            client = SocketClient(self.proxy.port, self.key, self.certificate)
            client.log_in()
            beside = client.open_target("web1.b", self.echo)
            refused = 0
            # Sessions that are asked for nothing have a lower limit than channels.
            for _ in range(1100):
                client.request_channel()
                refused += client.answer_to_open()[0] == _SHORTAGE
            self.assertGreater(refused, 0)
            client.received.clear()
            client.send_data(beside, b"still here")
            self.assertEqual(client.take_data(10), b"still here")
            client.close()

        await deferToThread(misbehave)
        await self.assert_go_on(self.streams)
        await self.streams.finish()
        self.assert_quiet_log()


def _answer(number: int, payload: Callable[[int], bytes]) -> Fault:
    def fault(agent: ScriptedAgent, own: int, recipient: int) -> None:
        agent.confirm(own, recipient)
        agent.send(number, payload(recipient))

    return fault


def _agent_past_window(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    for _ in range(300):
        agent.send_data(recipient, bytes(32768))


def _agent_after_eof(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    agent.send(MSG_CHANNEL_EOF, uint32(recipient))
    agent.send_data(recipient, b"x")


def _agent_extended(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    _extended_too_large(agent, recipient)


def _agent_closes_unsent(agent: ScriptedAgent, own: int, recipient: int) -> None:
    # What the client writes is more than this.
    agent.confirm(own, recipient, window=10)
    agent.send(MSG_CHANNEL_CLOSE, uint32(recipient))


def _agent_closed_twice(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    _closed_twice(agent, recipient)


def _agent_impossible_length(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    _impossible_length(agent, recipient)


def _agent_spoilt(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    _spoilt_packet(agent, recipient)


def _agent_reset(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    _reset(agent, recipient)


#: What an agent can do wrong on one of its channels, and whether its tunnel survives.
AGENT_FAULTS: dict[str, tuple[Fault, bool]] = {
    "packet-of-no-bytes": (
        lambda agent, own, recipient: agent.confirm(own, recipient, max_packet=0),
        True,
    ),
    "packet-of-one-byte": (
        lambda agent, own, recipient: agent.confirm(own, recipient, max_packet=1),
        True,
    ),
    "past-the-window": (_agent_past_window, True),
    "packet-too-large": (
        _answer(
            MSG_CHANNEL_DATA, lambda channel: uint32(channel) + string(bytes(2**17))
        ),
        True,
    ),
    "extended-too-large": (_agent_extended, True),
    "after-eof": (_agent_after_eof, True),
    "close-at-once": (_answer(MSG_CHANNEL_CLOSE, uint32), True),
    "close-with-data-unsent": (_agent_closes_unsent, True),
    "closed-twice": (_agent_closed_twice, False),
    "window-above-all-bounds": (
        _answer(
            MSG_CHANNEL_WINDOW_ADJUST, lambda channel: uint32(channel) + uint32(_ALL)
        ),
        False,
    ),
    "unsolicited-success": (_answer(MSG_CHANNEL_SUCCESS, uint32), False),
    "unsolicited-failure": (_answer(MSG_CHANNEL_FAILURE, uint32), False),
    "unsolicited-answer": (_answer(MSG_REQUEST_SUCCESS, lambda channel: b""), False),
    "unsolicited-refusal": (_answer(MSG_REQUEST_FAILURE, lambda channel: b""), False),
    "confirmed-twice": (
        _answer(
            MSG_CHANNEL_OPEN_CONFIRMATION,
            lambda channel: uint32(channel) + bytes(12),
        ),
        False,
    ),
    "failed-after-all": (
        _answer(
            MSG_CHANNEL_OPEN_FAILURE,
            lambda channel: uint32(channel) + uint32(1) + string(b"") + string(b""),
        ),
        False,
    ),
    "no-such-channel": (
        _answer(MSG_CHANNEL_EOF, lambda channel: uint32(channel + 999)),
        False,
    ),
    "data-that-ends-early": (
        _answer(MSG_CHANNEL_DATA, _named_longer_than_it_is),
        False,
    ),
    "adjustment-that-ends-early": (
        _answer(MSG_CHANNEL_WINDOW_ADJUST, _half_an_adjustment),
        False,
    ),
    "impossible-length": (_agent_impossible_length, False),
    "not-authentic": (_agent_spoilt, False),
    "reset": (_agent_reset, False),
}


class AgentFaultTests(IsolationCase):
    """Another agent, through which the same client reaches targets."""

    async def test_faults_of_an_agent(self) -> None:
        """Each ends that channel or that tunnel; the client's others go on.

        What ends a channel leaves the hundred others of the faulty tunnel itself alone.
        """
        name = "scripted-agent"
        agent = self.deployment.add_agent("c", name)
        faults = {host: fault for host, (fault, _) in AGENT_FAULTS.items()}

        def start() -> ScriptedAgent:
            known = len(self.proxy.tunnels("c"))
            scripted = ScriptedAgent(self.proxy.port, agent.state, "c", faults)
            wait_until(lambda: len(self.proxy.tunnels("c")) > known, 20, "a tunnel")
            return scripted

        scripted = await deferToThread(start)
        beside = await Witnesses.open(self.connection, "echo.c", 7, STREAMS)
        for host, (_, survives) in AGENT_FAULTS.items():
            if scripted.is_closed:
                await deferToThread(self._wait_no_tunnel)
                scripted = await deferToThread(start)
            receiver = RecordingReceiver()
            try:
                channel = await self.connection.open_channel(
                    b"direct-tcpip", target(f"{host}.c", 7)
                )
            except OpenRefused:
                pass
            else:
                channel.start(receiver)
                channel.write(b"x" * 1000)
                await self.until(partial(getattr, receiver, "is_closed"))
            await self.assert_go_on(self.streams)
            if survives:
                await self.assert_go_on(beside)
                self.assertFalse(scripted.is_closed, host)
            else:
                await beside.wait_cut()
                await self.until(partial(getattr, scripted, "is_closed"))
        await self.streams.finish()
        await deferToThread(scripted.stop)
        await deferToThread(self._wait_no_tunnel)
        self.assert_quiet_log()

    def _wait_no_tunnel(self) -> None:
        wait_until(lambda: not self.proxy.tunnels("c"), 20, "the end of the tunnel")
