"""A peer that lets us send 4 GiB on each channel, and reads none of it, as a program.

``greedy_peer.py client PORT DIRECTORY TARGET_PORT COUNT`` logs in as the person whose
key is in the directory, and opens so many channels to ``web1.b``.

``greedy_peer.py agent PORT DIRECTORY COUNT`` logs in as the agent whose state directory
that is and confirms every channel. Thrown out, it comes back.

Either prints ``deaf`` when it stops to read, with so many channels open.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import LoopingCall, react

from rtunnel.discovery.messages import Heartbeat, Hello, encode
from rtunnel.errors import OPEN_ADMINISTRATIVELY_PROHIBITED, OpenRefused
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.connection import Attach, Connection, ConnectionHandler, OpenRequest
from rtunnel.ssh.factory import ClientFactory
from rtunnel.ssh.transport import ClientTransport
from rtunnel.state_directory import load_agent_credentials
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import text, uint32
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.window import MAX_WINDOW

# The module is typed as the module it replaces.
reactor: Any = global_reactor

GREEDY = ChannelLimits(
    window=MAX_WINDOW,
    initial_window=MAX_WINDOW,
    window_budget=MAX_WINDOW * 10_000,
    outstanding_requests=1_000_000,
)

#: Seconds between heartbeats, which an agent sends as if all were well.
HEARTBEAT = 2.0


class Greedy:
    """The connection's owner, and every channel's receiver.

    :param accepting: how many channels to confirm before it stops to read.
    """

    def __init__(self, accepting: int = 0) -> None:
        self.connection: Connection | None = None
        self.ended: Deferred[None] = Deferred()
        self._left = accepting

    def connection_started(self, connection: Connection) -> None:
        """See ConnectionHandler."""
        self.connection = connection

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """See ConnectionHandler."""
        if not self._left:
            raise OpenRefused(OPEN_ADMINISTRATIVELY_PROHIBITED, "this is no agent")
        return self._attach

    def _attach(self, channel: Channel) -> None:
        channel.start(self)
        self._left -= 1
        if not self._left:
            reactor.callLater(0, self.stop_reading)

    def stop_reading(self) -> None:
        """Leave in the kernel what comes."""
        assert self.connection is not None
        cast(Any, self.connection.transport).transport.pauseProducing()
        print("deaf", flush=True)

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """See ConnectionHandler."""
        return None

    def connection_lost(self, reason: str) -> None:
        """See ConnectionHandler."""
        print(f"lost: {reason}", flush=True)
        self.ended.callback(None)

    def data_received(self, data: bytes) -> None:
        """See StreamReceiver."""

    def eof_received(self) -> None:
        """See StreamReceiver."""

    def closed(self, reason: str | None) -> None:
        """See StreamReceiver."""


async def log_in(
    port: int,
    username: str,
    key: PrivateKey,
    certificate: Certificate,
    handler: ConnectionHandler,
) -> Connection:
    """Log in at a proxy, whoever it is."""
    factory = ClientFactory(
        clock=reactor,
        username=username,
        key=key,
        certificate=certificate,
        check_host=lambda algorithm, blob: Certificate.from_blob(blob),
        handler=handler,
        make_connection=lambda handler: Connection(handler, GREEDY),
    )
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    transport = cast(ClientTransport, await endpoint.connect(factory))
    return await transport.ready


async def be_client(port: int, directory: Path, target: int, count: int) -> None:
    """Ask for much."""
    key = PrivateKey.from_openssh((directory / "id").read_bytes())
    line = (directory / "id-cert.pub").read_text()
    greedy = Greedy()
    connection = await log_in(
        port, "anybody", key, Certificate.from_openssh(line)[0], greedy
    )
    where = text("web1.b") + uint32(target) + text("127.0.0.1") + uint32(1)
    for _ in range(count):
        channel = await connection.open_channel(b"direct-tcpip", where)
        channel.start(greedy)
    greedy.stop_reading()
    await greedy.ended


async def be_agent(port: int, directory: Path, count: int) -> None:
    """Offer much, again and again."""
    agent = load_agent_credentials(directory, "c", time.time())
    hello = encode(Hello(version="0", instance=agent.instance))
    heartbeat = encode(Heartbeat(sequence=0))
    while True:
        greedy = Greedy(accepting=count)
        connection = await log_in(port, "agent", agent.key, agent.certificate, greedy)
        channel = await connection.open_channel(b"control@rtunnel")
        channel.start(greedy)
        await channel.send_request(*hello)

        def beat(channel: Channel = channel) -> None:
            answer = channel.send_request(*heartbeat)
            answer.addBoth(lambda _: None)

        beating = LoopingCall(beat)
        beating.start(HEARTBEAT).addErrback(lambda _: None)
        await greedy.ended
        beating.stop()


def main() -> None:
    """Run it with the arguments of the command line."""
    role, port, directory, *numbers = sys.argv[1:]

    def start(_: object) -> Deferred[None]:
        be = be_client if role == "client" else be_agent
        return Deferred.fromCoroutine(
            be(int(port), Path(directory), *map(int, numbers))
        )

    react(start)


if __name__ == "__main__":
    main()
