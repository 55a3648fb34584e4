"""Both ends of an SSH transport in memory, and a client that does as it is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.conch.ssh.service import SSHService
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
from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.ssh.log_rate import LogRate
from rtunnel.ssh.transport import ClientTransport, ServerTransport
from rtunnel.ssh.userauth import LoginRules
from rtunnel.ssh.userauth_client import Credentials
from rtunnel.trust.identity import Identity, UserIdentity
from rtunnel.trust.login_proof import CONNECTION_SERVICE, signed_data
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, Algorithms, signature_algorithm
from rtunnel.wire.certificate import Certificate, parse_public_key
from rtunnel.wire.data_types import Reader, boolean, string
from rtunnel.wire.key_exchange import Transcript, derive_key
from rtunnel.wire.keys import PrivateKey, PublicKey
from rtunnel.wire.negotiation import KexInit, build_kexinit, is_strict, negotiate
from rtunnel.wire.numbers import (
    MSG_DISCONNECT,
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_REQUEST,
    MSG_USERAUTH_REQUEST,
)
from rtunnel.wire.packet_stream import PacketOpener, PacketSealer
from rtunnel.wire.source_address import Network

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


def believe(algorithm: bytes, blob: bytes) -> Certificate | PublicKey:
    """A host check that anybody passes."""
    return parse_public_key(algorithm, blob)


class RecordingService(SSHService):
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

    def login_accepted(self, identity: Identity, address: str) -> None:
        """Keep it."""
        self.accepted.append((identity, address))

    def login_refused(self, address: str, username: str, reason: str) -> None:
        """Keep it."""
        self.refused.append((address, username, reason))


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


class RawClient:
    """A client that sends what a test tells it to, in whatever order.

    Made of the pure parts only: what it does right, it does by the RFCs and not by our
    transport.

    :param strict: whether to offer strict KEX.
    """

    def __init__(
        self,
        server: ServerTransport,
        *,
        strict: bool = True,
        address: str = ADDRESS,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.server = server
        self.wire = Wire(address)
        self.sealer = PacketSealer(random)
        self.opener = PacketOpener(2**20)
        self.session_id = b""
        self.version = b"SSH-2.0-test"
        self.received: list[tuple[int, bytes]] = []
        #: What we offer.
        self.algorithms = DEFAULT_ALGORITHMS
        #: The newest KEXINIT that we made.
        self.last_kexinit: KexInit | None = None
        self._strict = strict
        self._random = random
        self._reads_packets = False
        self._exchanges = 0
        server.makeConnection(self.wire)

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are, and read what comes back."""
        self.server.dataReceived(data)
        self.read()

    def packet(self, number: int, payload: bytes = b"") -> bytes:
        """The next packet, not sent."""
        out: list[bytes] = []
        self.sealer.seal(number, payload, b"", out)
        return b"".join(out)

    def send(self, number: int, payload: bytes = b"") -> None:
        """Send one packet, and read what comes back."""
        self.send_bytes(self.packet(number, payload))

    def read(self) -> None:
        """Read what the server wrote."""
        data = self.wire.take()
        if not self._reads_packets and data:
            line, _, data = data.partition(b"\r\n")
            assert line == b"SSH-2.0-rtunnel"
            self._reads_packets = True
        self.opener.feed(data)
        while packet := self.opener.next_packet():
            self.received.append((packet[0], bytes(packet[1])))
            if packet[0] == MSG_NEWKEYS:
                # What follows needs the new keys.
                break

    def take(self, number: int) -> bytes:
        """The payload of the first message with that number, taken out."""
        for index, (found, payload) in enumerate(self.received):
            if found == number:
                del self.received[index]
                return payload
        raise AssertionError(f"no message {number} among {self.received}")

    def numbers(self) -> list[int]:
        """Of all messages received and not taken."""
        return [number for number, _ in self.received]

    def disconnect_reason(self) -> tuple[int, str] | None:
        """What the server said in DISCONNECT, None if it did not."""
        if MSG_DISCONNECT not in self.numbers():
            return None
        reader = Reader(dict(self.received)[MSG_DISCONNECT])
        return reader.uint32(), reader.text()

    def kexinit(self) -> KexInit:
        """A KEXINIT of ours."""
        offer = build_kexinit(
            self.algorithms,
            self.algorithms.host_keys,
            self._random(16),
            is_client=True,
            first=self._strict and not self._exchanges,
        )
        self.last_kexinit = offer
        return offer

    def send_version(self) -> None:
        """Send our version line."""
        self.send_bytes(self.version + b"\r\n")

    def exchange_keys(self, ours: KexInit | None = None) -> None:
        """A whole key exchange, the first or a later one.

        :param ours: the KEXINIT that has been sent already.
        """
        if ours is None:
            ours = self.kexinit()
            self.send(MSG_KEXINIT, ours.payload[1:])
        theirs = KexInit.parse(bytes([MSG_KEXINIT]) + self.take(MSG_KEXINIT))
        agreed = negotiate(ours, theirs)
        half = agreed.key_exchange.start()
        self.send(MSG_KEX_ECDH_INIT, string(half.public))
        reader = Reader(self.take(MSG_KEX_ECDH_REPLY))
        blob, reply, signature = reader.string(), reader.string(), reader.string()
        secret = half.finish(reply)
        transcript = Transcript(
            self.version, b"SSH-2.0-rtunnel", ours.payload, theirs.payload
        )
        exchange_hash = transcript.exchange_hash(blob, half.public, reply, secret)
        key = parse_public_key(agreed.host_key, blob)
        assert key.verify(signature, exchange_hash, agreed.host_key)
        if not self._exchanges:
            self._strict = is_strict(ours, theirs)
            self.session_id = exchange_hash
        self._exchanges += 1
        cipher = agreed.cipher_client_to_server
        iv_out, iv_in, key_out, key_in = (
            derive_key(letter, length, secret, exchange_hash, self.session_id)
            for letter, length in (
                (b"A", cipher.iv_length),
                (b"B", cipher.iv_length),
                (b"C", cipher.key_length),
                (b"D", cipher.key_length),
            )
        )
        self.take(MSG_NEWKEYS)
        self.opener.change_keys(cipher.make(key_in, iv_in, None, b""), self._strict)
        self.read()
        newkeys = self.packet(MSG_NEWKEYS)
        self.sealer.change_keys(cipher.make(key_out, iv_out, None, b""), self._strict)
        self.send_bytes(newkeys)

    def connect(self) -> RawClient:
        """Everything up to the first NEWKEYS."""
        self.send_version()
        self.exchange_keys()
        return self

    def start_userauth(self) -> RawClient:
        """Everything up to where logins are asked for."""
        self.connect()
        self.send(MSG_SERVICE_REQUEST, string(b"ssh-userauth"))
        return self

    def auth_request(
        self,
        key: PrivateKey = USER_KEY,
        *,
        blob: bytes | None = None,
        algorithm: bytes | None = None,
        signed: bool = True,
        username: bytes = b"alice",
        service: bytes = CONNECTION_SERVICE,
        session_id: bytes | None = None,
        spoil: Callable[[bytes], bytes] = lambda signature: signature,
    ) -> bytes:
        """The payload of a ``publickey`` request, right unless told otherwise."""
        blob = key.public.blob if blob is None else blob
        if algorithm is None:
            algorithm = key.public.signature_algorithms[0]
        data = signed_data(
            self.session_id if session_id is None else session_id,
            username,
            service,
            algorithm,
            blob,
        )
        signature = b""
        if signed:
            signature = string(spoil(key.sign(data, signature_algorithm(algorithm))))
        return b"".join(
            [
                string(username),
                string(service),
                string(b"publickey"),
                boolean(signed),
                string(algorithm),
                string(blob),
                signature,
            ]
        )

    def log_in(self) -> RawClient:
        """Everything up to USERAUTH_SUCCESS."""
        self.start_userauth()
        self.send(MSG_USERAUTH_REQUEST, self.auth_request())
        assert self.server.authenticated
        self.received.clear()
        return self
