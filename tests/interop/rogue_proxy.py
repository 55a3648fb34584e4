"""Proxies that say what they are told to, as a program.

``rogue_proxy.py STATE PORT TEXTS``: for each text in the file TEXTS, a JSON list of
strings of bytes in hexadecimal, :data:`LISTENERS` listeners on ports of 127.0.0.1 from
PORT on. The first is a proxy of the cluster in STATE, which has the host authority's
private key: it says the text in banners, in control messages and global requests that
do not exist, in requests for connections to targets, and when it leaves. The others are
no SSH servers: they say it in lines before a version line, in a version line, in a
DISCONNECT before any key exchange, and as an HTTP proxy that refuses.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol

from rtunnel.control import ControlChannel
from rtunnel.discovery.liveness import Liveness
from rtunnel.discovery.messages import Message
from rtunnel.errors import OPEN_UNKNOWN_CHANNEL_TYPE, OpenRefused
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ServerFactory
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.transport import ServerTransport
from rtunnel.state_directory import load_private_key
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.identity import Identity, PeerIdentity
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import string, uint32
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.numbers import (
    MSG_DISCONNECT,
    MSG_GLOBAL_REQUEST,
    MSG_USERAUTH_BANNER,
)
from rtunnel.wire.packet_stream import PacketSealer

reactor: Any = global_reactor

#: For each text.
LISTENERS = 5

#: Bytes of a text that fit into a packet of strangers.
MOST = 30_000


class Rogue:
    """One agent's connection, on the side of a proxy."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._connection: Connection | None = None

    def connection_started(self, connection: Connection) -> None:
        """See ConnectionHandler."""
        self._connection = connection

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """See ConnectionHandler."""
        if request.kind != b"control@rtunnel":
            raise OpenRefused(OPEN_UNKNOWN_CHANNEL_TYPE, self._text.decode("latin-1"))
        return self._attach

    def _attach(self, channel: Channel) -> None:
        ControlChannel(channel, reactor, Liveness(60, 3), self)
        channel.connection.transport.sendPacket(
            MSG_GLOBAL_REQUEST, string(self._text[:60]) + b"\0" + self._text[:MOST]
        )
        reactor.callLater(0.2, self._say, channel)

    def _say(self, channel: Channel) -> None:
        """Everything, in the order in which it is taken."""
        connection = self._connection
        if connection is None:
            return
        channel.send_request(self._text[:60], self._text[:MOST]).addErrback(_ignore)
        short = string(self._text[:255])
        for fields in (
            short + uint32(22) + string(b"alice") + string(b"192.0.2.1") + string(b"1"),
            string(b"web1") + uint32(22) + short + short + string(b"1"),
            string(b"web1") + uint32(22) + string(b"a") + string(b"s") + short,
            self._text[:MOST],
        ):
            opening = connection.open_channel(b"transport@rtunnel", fields)
            _start(opening)
        _start(connection.open_channel(self._text[:60], b""))
        reactor.callLater(0.2, self._leave)

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.transport.sendPacket(
                MSG_DISCONNECT, uint32(11) + string(self._text[:MOST]) + string(b"")
            )

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """See ConnectionHandler."""
        return None

    def connection_lost(self, reason: str) -> None:
        """See ConnectionHandler."""
        self._connection = None

    def message_received(self, message: Message) -> bool:
        """See ControlReceiver."""
        return True

    def peer_dead(self, reason: str) -> None:
        """See ControlReceiver."""


def _start(opening: Any) -> None:
    Deferred.fromCoroutine(opening).addErrback(_ignore)


def _ignore(failure: object) -> None:
    """Whether it is taken is for the agent to say."""


class RogueTransport(ServerTransport):
    """Says the text in banners before it lets an agent in."""

    text = b""

    def login_succeeded(self, *arguments: Any) -> None:
        """See ServerTransport."""
        for text in (self.text, self.text[::-1]):
            self.sendPacket(MSG_USERAUTH_BANNER, string(text[:MOST]) + string(b""))
        super().login_succeeded(*arguments)


class RogueServers(ServerFactory):
    """A listener that says one text."""

    def __init__(self, text: bytes, key: HostKey) -> None:
        self._text = text
        super().__init__(
            clock=reactor,
            host_keys=[key],
            identify=anybody,
            make_handler=lambda identity: Rogue(text),
        )

    def buildProtocol(  # type: ignore[override]  # Conch knows no None, Twisted does.
        self, addr: IAddress | None
    ) -> ServerTransport | None:
        """See ServerFactory."""
        transport = super().buildProtocol(addr)
        if transport is not None:
            transport.__class__ = RogueTransport
            vars(transport)["text"] = self._text
        return transport


def anybody(algorithm: bytes, blob: bytes, source: str) -> Identity:
    """Whoever has logged in may do all that there is."""
    shown = Certificate.from_blob(blob)
    return PeerIdentity("x", (), "x", source, shown, shown.valid_before)


class NoServer(Protocol):
    """Says something, and hangs up."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def connectionMade(self) -> None:
        """At once."""
        assert self.transport is not None
        self.transport.write(self._said)
        self.transport.loseConnection()


def _unencrypted(text: bytes) -> bytes:
    """A DISCONNECT before any key exchange."""
    out = [b"SSH-2.0-x\r\n"]
    said = uint32(2) + string(text[:MOST]) + string(b"")
    PacketSealer(bytes).seal(MSG_DISCONNECT, said, b"", out)
    return b"".join(out)


def _factories(text: bytes, authority: CertificateAuthority) -> Iterator[Factory]:
    key = PrivateKey.generate()
    certificate = authority.sign_host(
        key.public,
        proxy_id=str(uuid.uuid4()),
        cluster="a",
        public_names=(),
        validity=3600,
    )
    yield RogueServers(text, HostKey(key, certificate))
    for said in (
        text[:200] + b"\r\nSSH-2.0-x\r\n",
        b"SSH-2.0-" + text + b"\r\n",
        _unencrypted(text),
        b"HTTP/1.1 407 " + text + b"\r\n\r\n",
    ):
        yield Factory.forProtocol(partial(NoServer, said))


def main() -> None:
    """Run it with the arguments of the command line."""
    state, port, texts = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    key = load_private_key(state / "host_ca")
    authority = CertificateAuthority(key, now=time.time)
    for text in map(bytes.fromhex, json.loads(texts.read_text())):
        for factory in _factories(text, authority):
            reactor.listenTCP(port, factory, interface="127.0.0.1")
            port += 1
    reactor.run()


if __name__ == "__main__":
    main()
