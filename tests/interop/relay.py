"""Somebody between an SSH client and its server, who changes what passes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, cast
from typing import Protocol as Interface

from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from rtunnel.wire.numbers import MSG_NEWKEYS
from tests.interop.processes import LOOPBACK

# The module is typed as the module it replaces.
reactor: Any = global_reactor


class Tamper(Interface):
    """What is done to one connection."""

    def to_server(self, data: bytes, send: Callable[[bytes], None]) -> None:
        """The client has sent ``data``; ``send`` sends to the server."""

    def to_client(self, data: bytes, send: Callable[[bytes], None]) -> None:
        """The server has sent ``data``; ``send`` sends to the client."""

    def stop(self) -> None:
        """The test is over."""


class Handshake:
    """One direction, packet by packet, until keys are in use there."""

    def __init__(self) -> None:
        self.is_encrypted = False
        self._data = b""
        self._has_line = False

    def pass_on(self, data: bytes) -> bytes:
        """What to send in place of ``data``."""
        self._data += data
        out = b""
        while not self.is_encrypted:
            piece = self._next()
            if not piece:
                return out
            out += piece
        rest, self._data = self._data, b""
        return out + self.encrypted(rest)

    def packet(self, number: int, packet: bytes) -> bytes:
        """What to send in place of a whole packet that anybody can read."""
        return packet

    def encrypted(self, data: bytes) -> bytes:
        """What to send in place of bytes that nobody can read; there may be none."""
        return data

    def _next(self) -> bytes:
        """What to send in place of the next version line or packet."""
        if not self._has_line:
            line = self._take(self._data.find(b"\n") + 1)
            self._has_line = bool(line)
            return line
        if len(self._data) < 6:
            return b""
        packet = self._take(4 + struct.unpack_from(">I", self._data)[0])
        if not packet:
            return b""
        number = packet[5]
        self.is_encrypted = number == MSG_NEWKEYS
        return self.packet(number, packet)

    def _take(self, count: int) -> bytes:
        if len(self._data) < count:
            return b""
        piece, self._data = self._data[:count], self._data[count:]
        return piece


class _Side(Protocol):
    """One of the two connections of a relay."""

    def __init__(self, taken: Callable[[bytes], None]) -> None:
        self.taken = taken
        self.other: _Side | None = None
        self._early: list[bytes] = []

    def send(self, data: bytes) -> None:
        """Send, now or when there is a connection."""
        if self.transport is None:
            self._early.append(data)
        elif data:
            self.transport.write(data)

    def connectionMade(self) -> None:
        """What was sent early goes first."""
        assert self.transport is not None
        self.transport.setTcpNoDelay(True)  # type: ignore[attr-defined]
        early, self._early = self._early, []
        for data in early:
            self.send(data)

    def dataReceived(self, data: bytes) -> None:
        """Hand it over."""
        self.taken(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The other side ends, too."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.loseConnection()


class Relay(Factory):
    """Listens in place of a server.

    :param port: of the server.
    :param tamper: makes what is done to one more connection.
    """

    noisy = False

    def __init__(self, port: int, tamper: Callable[[], Tamper]) -> None:
        self._port = port
        self._tamper = tamper
        self._listener: Any = None
        self._sides: list[_Side] = []
        self._tampers: list[Tamper] = []

    async def listen(self) -> int:
        """Listen and return the port."""
        endpoint = TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK)
        self._listener = await endpoint.listen(self)
        return cast(int, self._listener.getHost().port)

    async def close(self) -> None:
        """Listen no more, and cut what is left."""
        await self._listener.stopListening()
        for tamper in self._tampers:
            tamper.stop()
        for side in self._sides:
            if side.transport is not None:
                cast(Any, side.transport).abortConnection()

    def buildProtocol(self, addr: object) -> _Side:
        """Connect to the server, too."""
        tamper = self._tamper()
        self._tampers.append(tamper)
        near = _Side(lambda data: tamper.to_server(data, far.send))
        far = _Side(lambda data: tamper.to_client(data, near.send))
        near.other, far.other = far, near
        self._sides += [near, far]
        server = TCP4ClientEndpoint(reactor, LOOPBACK, self._port)
        connectProtocol(server, far).addErrback(lambda failure: None)
        return near
