"""Reactors for the tests of the agent: in memory, with a resolver that tests feed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IResolutionReceiver,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.target_dialer import IDialingReactor


@implementer(IHostResolution)
@attrs.define
class FakeResolution:
    """A resolution under way."""

    name: str

    def cancel(self) -> None:
        """See ``IHostResolution``."""


@implementer(IHostnameResolver)
class FakeResolver:
    """Answers from a table, when the test says so.

    :param at_once: without being told.
    :ivar asked: the names that were asked for.
    """

    def __init__(
        self, table: Mapping[str, Sequence[str]], *, at_once: bool = False
    ) -> None:
        self.table = table
        self.at_once = at_once
        self.asked: list[str] = []
        self.waiting: list[IResolutionReceiver] = []

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: object = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See ``IHostnameResolver``."""
        self.asked.append(hostName)
        resolution = FakeResolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        for address in self.table.get(hostName, ()):
            kind = IPv6Address if ":" in address else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", address, portNumber))
        self.waiting.append(resolutionReceiver)
        if self.at_once:
            self.answer()
        return resolution

    def answer(self) -> None:
        """Everything that was asked for is complete."""
        waiting, self.waiting = self.waiting, []
        for receiver in waiting:
            receiver.resolutionComplete()


class RecordingProtocol(Protocol):
    """Keeps what comes, and notes the end."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = False

    def dataReceived(self, data: bytes) -> None:
        """See ``IProtocol``."""
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See ``IProtocol``."""
        self.closed = True


class TcpTransport(StringTransport):
    """A StringTransport with what only TCP has."""

    protocol: IProtocol

    def unregisterProducer(self) -> None:
        """As a socket does: it may be done twice."""
        if self.producer is not None:
            super().unregisterProducer()

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See ``ITCPTransport``."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """See ``ITCPTransport``."""

    def loseWriteConnection(self) -> None:
        """See ``ITCPTransport``."""


@implementer(IDialingReactor)
class MemoryReactor(MemoryReactorClock):
    """Connects nowhere; resolves by a table, as soon as it is asked.

    :param table: names, and the addresses of each.
    """

    def __init__(self, table: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__()
        self.resolver = FakeResolver(table or {}, at_once=True)
        self.nameResolver = self.resolver

    @property
    def attempts(self) -> list[tuple[str, int]]:
        """Where connections were tried to, in order."""
        return [(client[0], client[1]) for client in self.tcpClients]

    def accept(self, number: int = -1) -> tuple[Any, TcpTransport]:
        """The peer of an attempt accepts; the wrapped protocol and its transport."""
        host, port, factory = self.tcpClients[number][:3]
        transport = TcpTransport(peerAddress=IPv4Address("TCP", host, port))
        protocol = factory.buildProtocol(transport.getPeer())
        assert protocol is not None
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return protocol, transport

    def refuse(self, number: int = -1) -> None:
        """The peer of an attempt refuses."""
        factory = self.tcpClients[number][2]
        connector = self.connectors[number]
        factory.clientConnectionFailed(connector, Failure(ConnectionRefusedError()))

    def given_up(self, number: int) -> bool:
        """Whether an attempt was given up."""
        return bool(self.connectors[number].stoppedConnecting)
