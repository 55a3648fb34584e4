"""A small SSH client of the demo's own, for machines without ``ssh``.

It does what ``ssh -J`` does: one SSH connection to the proxy, a ``direct-tcpip``
channel through it, and inside that another SSH connection to the target.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    HostRefused,
    OpenRefused,
)
from rtunnel.splice import Stream
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ClientFactory
from rtunnel.state_directory import (
    load_certificate,
    load_private_key,
    load_public_key,
    load_trust_anchors,
)
from rtunnel.wire.certificate import CertificateKind, parse_public_key
from rtunnel.wire.data_types import string, text, uint32
from rtunnel.wire.keys import PublicKey

USERNAME = "demo"


async def ask_target(
    reactor: Any,
    *,
    proxy: tuple[str, int],
    target: tuple[str, int],
    directory: Path,
    command: str,
    now: Callable[[], float],
) -> tuple[str, str, int]:
    """Run ``command`` at the target, through the proxy.

    :param proxy: host and port.
    :param target: host and port, as the proxy is to be asked for them.
    :param directory: the demo's, with everybody's keys.
    :return: standard output, standard error, exit code.
    """
    key = load_private_key(directory / "user")
    anchors = load_trust_anchors(directory / "proxy-1" / "host_ca.pub")
    expected = load_public_key(directory / "target.pub")[0]

    def check_proxy(algorithm: bytes, blob: bytes) -> Any:
        offered = parse_public_key(algorithm, blob)
        if isinstance(offered, PublicKey):
            raise HostRefused("the proxy shows no certificate")
        offered.check(
            kind=CertificateKind.HOST, trusted=anchors, now=now(), principal=proxy[0]
        )
        return offered

    def check_target(algorithm: bytes, blob: bytes) -> Any:
        if blob != expected.blob:
            raise HostRefused("the target shows another key")
        return expected

    outer = ClientFactory(
        clock=reactor,
        username=USERNAME,
        key=key,
        certificate=load_certificate(directory / "user-cert.pub"),
        check_host=check_proxy,
        handler=_Asking(),
    )
    endpoint = HostnameEndpoint(reactor, proxy[0].encode(), proxy[1])
    transport: Any = await connectProtocol(endpoint, outer.buildProtocol(None))
    connection: Connection = await transport.ready
    try:
        channel = await connection.open_channel(
            b"direct-tcpip",
            text(target[0]) + uint32(target[1]) + text("127.0.0.1") + uint32(0),
        )
        inner: Any = ClientFactory(
            clock=reactor,
            username=USERNAME,
            key=key,
            certificate=None,
            check_host=check_target,
            handler=_Asking(),
        ).buildProtocol(None)
        StreamTransport(channel, inner).start()
        session = await (await inner.ready).open_channel(b"session")
        answer = _Answer()
        session.on_request = answer.request_received
        session.start(answer)
        await session.send_request(b"exec", string(command.encode()))
        return await answer.complete, "", answer.exit_status
    finally:
        connection.close("done")


class _Asking:
    """A connection whose other end has nothing to ask of us."""

    def connection_started(self, connection: Connection) -> None:
        pass

    def connection_lost(self, reason: str) -> None:
        pass

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        return None

    async def channel_requested(self, request: OpenRequest) -> Attach:
        raise OpenRefused(OPEN_ADMINISTRATIVELY_PROHIBITED, "nothing is served here")


class _Answer:
    """Collects what a command prints."""

    def __init__(self) -> None:
        self._output = b""
        self.exit_status = 255
        self.complete: Deferred[str] = Deferred()

    def data_received(self, data: bytes) -> None:
        self._output += data

    def eof_received(self) -> None:
        pass

    def closed(self, reason: str | None) -> None:
        self.complete.callback(self._output.decode("utf-8", "replace"))

    def request_received(self, name: bytes, data: bytes) -> bool:
        if name == b"exit-status":
            self.exit_status = int.from_bytes(data[:4], "big")
        return True


@implementer(ITransport)
class StreamTransport:
    """A stream as the transport of a Twisted protocol: SSH inside a channel.

    :param stream: not started yet.
    :param protocol: what speaks over it.
    """

    disconnecting = False

    def __init__(self, stream: Stream, protocol: Protocol) -> None:
        self._stream = stream
        self._protocol = protocol

    def start(self) -> None:
        """Connect the protocol."""
        self._protocol.makeConnection(self)
        self._stream.start(self)

    def data_received(self, data: bytes) -> None:
        """Hand it to the protocol."""
        self._protocol.dataReceived(bytes(data))

    def eof_received(self) -> None:
        """Nothing more will come: the connection is over."""
        self._stream.close()

    def closed(self, reason: str | None) -> None:
        """Tell the protocol."""
        self._protocol.connectionLost(Failure(ConnectionDone(reason or "")))

    def write(self, data: bytes) -> None:
        """Send."""
        self._stream.write(data)

    def writeSequence(self, data: Any) -> None:
        """Send all of them."""
        self._stream.write(b"".join(data))

    def loseConnection(self) -> None:
        """Send what was written, then end."""
        self._stream.close()

    def abortConnection(self) -> None:
        """End now."""
        self._stream.abort()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Have ``producer`` paused while the stream is full."""
        self._stream.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """It produces no more."""
        self._stream.unregisterProducer()

    def getPeer(self) -> IPv4Address:
        """Nobody in particular."""
        return IPv4Address("TCP", "127.0.0.1", 0)

    def getHost(self) -> IPv4Address:
        """Nobody in particular."""
        return IPv4Address("TCP", "127.0.0.1", 0)
