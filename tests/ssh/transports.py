"""Both ends of an SSH transport in memory, and a client that does as it is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from rtunnel.errors import AuthenticationRefused
from rtunnel.ssh.admission import Admission
from rtunnel.ssh.admitted_transport import Listener
from rtunnel.ssh.connection import Connection
from rtunnel.ssh.handshake_turns import HandshakeTurns
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.interfaces import ConnectionService
from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.ssh.log_rate import LogRate
from rtunnel.ssh.transport import ClientTransport, ServerTransport
from rtunnel.ssh.userauth import LoginRules
from rtunnel.ssh.userauth_client import Credentials
from rtunnel.trust.identity import Identity, UserIdentity
from rtunnel.trust.login_proof import CONNECTION_SERVICE
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, Algorithms
from rtunnel.wire.certificate import (
    Certificate,
    CertificateKind,
    parse_public_key,
    sign_certificate,
)
from rtunnel.wire.data_types import string, uint32
from rtunnel.wire.keys import PrivateKey, PublicKey
from rtunnel.wire.numbers import MSG_CHANNEL_DATA
from rtunnel.wire.packet_cipher import Buffer
from rtunnel.wire.source_address import Network
from tests.ssh.scripted_client import ScriptedClient

HOST_KEY = PrivateKey.generate()
USER_KEY = PrivateKey.generate()
ADDRESS = "192.0.2.7"


def identity(name: str = "alice") -> UserIdentity:
    """Somebody."""
    return UserIdentity(name, (name,), name, "SHA256:x", ADDRESS, None, None)


def identify(algorithm: bytes, blob: bytes, source: str) -> Identity:
    """Let the holder of :data:`USER_KEY` in, and nobody else."""
    if blob != USER_KEY.public.blob:
        raise AuthenticationRefused("nobody's key")
    return identity()


def certified(key: PrivateKey) -> HostKey:
    """A host key with a host certificate."""
    certificate = sign_certificate(
        PrivateKey.generate(),
        key.public,
        kind=CertificateKind.HOST,
        key_id="host",
        principals=["example.com"],
        valid_after=0,
        valid_before=2**40,
        serial=1,
    )
    return HostKey(key, certificate)


def believe(algorithm: bytes, blob: bytes) -> Certificate | PublicKey:
    """A host check that anybody passes."""
    return parse_public_key(algorithm, blob)


class RecordingService(ConnectionService):
    """Keeps what it gets and what it is told; answers as told."""

    name = CONNECTION_SERVICE

    def __init__(self) -> None:
        self.received: list[tuple[int, bytes]] = []
        self.told: list[str] = []
        self.answer: Callable[[int, bytes], None] = lambda number, payload: None

    def serviceStarted(self) -> None:
        """Keep that."""
        self.told.append("started")

    def serviceStopped(self) -> None:
        """Keep that."""
        self.told.append("stopped")

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Keep it, then answer."""
        self.received.append((messageNum, bytes(packet)))
        self.answer(messageNum, packet)

    def data_received(self, number: int, data: Buffer, largest: int) -> None:
        """Keep it as the one message that it stands for."""
        payload = uint32(number) + string(bytes(data))
        self.packetReceived(MSG_CHANNEL_DATA, payload)

    def pause_writing(self) -> None:
        """Keep that."""
        self.told.append("pause")

    def resume_writing(self) -> None:
        """Keep that."""
        self.told.append("resume")


class RecordingEvents:
    """Keeps every login that is decided."""

    def __init__(self) -> None:
        self.accepted: list[tuple[Identity, str]] = []
        self.refused: list[tuple[str, str, str]] = []
        self.tokens_refused: list[tuple[str, str, str]] = []

    def login_accepted(self, identity: Identity, address: str) -> None:
        """Keep it."""
        self.accepted.append((identity, address))

    def login_refused(self, address: str, username: str, reason: str) -> None:
        """Keep it."""
        self.refused.append((address, username, reason))

    def token_refused(self, address: str, token: str, reason: str) -> None:
        """Keep it."""
        self.tokens_refused.append((address, token, reason))


class Wire(StringTransport):
    """A TCP connection that never ends by itself."""

    def __init__(self, address: str = ADDRESS) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", address, 40000), lenient=True)

    def take(self) -> bytes:
        """What has been written since the last time."""
        data: bytes = self.value()
        self.clear()
        return data


def make_server(
    clock: Clock,
    *,
    limits: TransportLimits = DEFAULT_LIMITS,
    algorithms: Algorithms = DEFAULT_ALGORITHMS,
    host_keys: Sequence[HostKey] | None = None,
    rules: LoginRules | None = None,
    admission: Admission | None = None,
    turns: HandshakeTurns | None = None,
    proxy_protocol_from: tuple[Network, ...] = (),
    log_rate: LogRate | None = None,
    random: Callable[[int], bytes] = os.urandom,
) -> ServerTransport:
    """A server's end, not connected yet; its services are RecordingServices."""
    if turns is None:
        turns = HandshakeTurns(clock, limits.handshake_share)
    return ServerTransport(
        host_keys=[HostKey(HOST_KEY)] if host_keys is None else host_keys,
        rules=rules or LoginRules(identify, lambda who: RecordingService()),
        listener=Listener(
            admission or Admission(limits, clock, lambda: 0.0),
            turns,
            log_rate or LogRate(clock),
            proxy_protocol_from,
        ),
        clock=clock,
        limits=limits,
        algorithms=algorithms,
        random=random,
    )


def make_client(
    clock: Clock,
    *,
    limits: TransportLimits = DEFAULT_LIMITS,
    algorithms: Algorithms = DEFAULT_ALGORITHMS,
    credentials: Credentials | None = None,
    check_host: Callable[[bytes, bytes], Certificate | PublicKey] = believe,
    random: Callable[[int], bytes] = os.urandom,
) -> ClientTransport:
    """A client's end, not connected yet; its service is a RecordingService."""
    return ClientTransport(
        credentials=credentials or Credentials("alice", USER_KEY),
        check_host=check_host,
        make_service=lambda: cast(Connection, RecordingService()),
        clock=clock,
        limits=limits,
        algorithms=algorithms,
        random=random,
    )


class End:
    """One end of a :class:`Pair`, and the wire that it writes to."""

    def __init__(self, transport: ServerTransport | ClientTransport) -> None:
        self.transport = transport
        self.wire = Wire()
        self.lost = False

    @property
    def service(self) -> RecordingService:
        """Its running service."""
        assert isinstance(self.transport.service, RecordingService)
        return self.transport.service

    def tcp_full(self) -> None:
        """TCP has enough to send."""
        cast(IPushProducer, self.wire.producer).pauseProducing()

    def tcp_empty(self) -> None:
        """TCP can take more."""
        cast(IPushProducer, self.wire.producer).resumeProducing()

    def lose(self) -> None:
        """The TCP connection is gone."""
        if not self.lost:
            self.lost = True
            self.transport.connectionLost(Failure(ConnectionDone()))


class Pair:
    """A client and a server, connected; nothing moves until :meth:`pump`."""

    def __init__(
        self,
        server: ServerTransport | None = None,
        client: ClientTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.server_transport = server or make_server(self.clock)
        self.client_transport = client or make_client(self.clock)
        self.server = End(self.server_transport)
        self.client = End(self.client_transport)
        self.ends = (self.server, self.client)
        self.ready: list[Any] = []
        self.client_transport.ready.addBoth(self.ready.append)
        for end in self.ends:
            end.transport.makeConnection(end.wire)

    def move(self, origin: End, count: int | None = None) -> bool:
        """Move what one end wrote to the other; whether there was something.

        :param count: bytes at most.
        """
        target = self.client if origin is self.server else self.server
        data = origin.wire.take()
        if count is not None and len(data) > count:
            origin.wire.write(data[count:])
            data = data[:count]
        if data and not target.lost:
            target.transport.dataReceived(data)
        return bool(data)

    def pump(self, count: int | None = None) -> None:
        """Move until nothing moves any more; TCP ends when an end hung up.

        :param count: bytes at a time.
        """
        while any([self.move(end, count) for end in self.ends]):
            pass
        if any(end.wire.disconnecting or end.wire.disconnected for end in self.ends):
            for end in self.ends:
                end.lose()

    def log_in(self) -> Pair:
        """Pump until the client is logged in."""
        self.pump()
        assert self.ready == [self.client_transport.service], self.ready
        return self


class RawClient(ScriptedClient):
    """A client on a server in memory: whatever is sent is answered at once."""

    def __init__(
        self,
        server: ServerTransport,
        *,
        strict: bool = True,
        address: str = ADDRESS,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__(USER_KEY, strict=strict, random=random)
        self.server = server
        self.wire = Wire(address)
        server.makeConnection(self.wire)

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are, and read what comes back."""
        self.server.dataReceived(data)
        self.read()

    def read(self) -> None:
        """Read what the server wrote."""
        self.bytes_received(self.wire.take())

    def take(self, number: int) -> bytes:
        """The payload of the first message with that number, taken out."""
        payload = self.taken(number)
        if payload is None:
            raise AssertionError(f"no message {number} among {self.received}")
        return payload

    def log_in(self) -> Self:
        """Everything up to USERAUTH_SUCCESS."""
        super().log_in()
        assert self.server.authenticated
        self.received.clear()
        return self
