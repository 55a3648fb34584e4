"""What a connection asks of its owner above and of its transport below."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs
from twisted.conch.ssh.service import SSHService
from twisted.internet.interfaces import IReactorTime

from rtunnel.trust.identity import Identity
from rtunnel.trust.login_proof import LoginProof
from rtunnel.wire.packet_cipher import Buffer

if TYPE_CHECKING:
    from rtunnel.ssh.channel import Channel
    from rtunnel.ssh.connection import Connection

#: What is done with a channel just confirmed, before anything can come through it.
Attach: TypeAlias = "Callable[[Channel], None]"


@attrs.frozen
class OpenRequest:
    """A peer asks for a channel.

    :param kind: channel type, e.g. ``b"direct-tcpip"``.
    :param data: the part of CHANNEL_OPEN that depends on the type.
    """

    kind: bytes
    data: bytes


class ConnectionService(SSHService):
    """What runs on a transport once the peer is authenticated."""

    def data_received(self, number: int, data: Buffer, largest: int) -> None:
        """Data of one CHANNEL_DATA, or of several in a row.

        Each other message, and some of these, come by ``packetReceived``.

        :param number: ours of the channel.
        :param data: gone when this returns, if it is a view.
        :param largest: bytes of data in the largest of these messages.
        :raises ProtocolError: when it breaks the protocol or a limit.
        """
        raise NotImplementedError


class ConnectionHandler(Protocol):
    """Who decides about what the peer asks."""

    def connection_started(self, connection: Connection) -> None:
        """Channels can be opened now."""

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """The peer asks for a channel, which is confirmed when this returns.

        Cancelled when the connection goes away. What it returns is called right after
        the confirmation is sent; if the connection went away although this returned,
        with a channel that is closed already.

        :raises OpenRefused: to refuse, with a reason for the peer.
        :raises ProtocolError: when the data is malformed; the peer is refused this
            channel, and keeps the others.
        """

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """The peer asks for something that concerns no channel.

        :returns: data for REQUEST_SUCCESS, or None for REQUEST_FAILURE.
        """

    def connection_lost(self, reason: str) -> None:
        """The connection is gone. Called once, after every channel's ``closed``."""


class PacketTransport(Protocol):
    """What carries a connection's messages."""

    @property
    def clock(self) -> IReactorTime:
        """What tells the time."""

    @property
    def is_writable(self) -> bool:
        """Whether there is room for data; ``pause_writing`` tells when it changes."""

    @property
    def last_received(self) -> float:
        """``clock.seconds()`` of the newest byte from the peer."""

    @property
    def session_id(self) -> bytes:
        """The first exchange hash (RFC 4253 section 7.2)."""

    @property
    def identity(self) -> Identity | None:
        """Who logged in, at a server."""

    @property
    def login_proof(self) -> LoginProof | None:
        """What they proved it with, at a server."""

    @property
    def close_reason(self) -> str:
        """One sentence, once the connection has ended; may be empty."""

    @property
    def peer_said_goodbye(self) -> bool:
        """Whether the peer ended the connection, and of its own accord."""

    def sendPacket(self, messageType: int, payload: bytes, data: Buffer = b"") -> None:
        """Send one message, ``data`` being its end."""

    def send_data(self, channel: int, data: Buffer, limit: int) -> None:
        """Send CHANNEL_DATA, ``limit`` bytes of it in one packet."""

    def disconnect(self, reason_code: int, description: str) -> None:
        """Send SSH_MSG_DISCONNECT and hang up."""

    def expect_peer_to_read(self, seconds: float) -> None:
        """The peer is a program of ours; TCP gives it up if it takes nothing for so
        long."""

    def sendUnimplemented(self) -> None:
        """Send SSH_MSG_UNIMPLEMENTED for the message just received."""
