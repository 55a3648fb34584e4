"""The SSH transport as a state machine: handshakes gone wrong, and a man in the middle.

``server_transport`` is a server with a client that takes the steps of a login in any
order, with any field and any byte of a packet changed. ``tampered_pair`` is a client
and a server with somebody between them who holds back, changes, drops, repeats and puts
in what is on its way; neither may ever deliver what the other did not send.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from fuzz.harness import Harness
from fuzz.keys import NOW, USER, fixed_key
from fuzz.remembered import remember_cryptography
from fuzz.script import Script
from rtunnel.errors import AuthenticationRefused, ProtocolError, RtunnelError
from rtunnel.ssh.admission import Admission
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.host_key_update import PROVE_HOST_KEYS, HostKeyUpdate
from rtunnel.ssh.limits import TransportLimits
from rtunnel.ssh.transport import ServerTransport
from rtunnel.ssh.userauth import LoginRules
from rtunnel.trust.identity import Identity, JoinIdentity
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS
from rtunnel.wire.data_types import Reader, boolean, string, text, uint32
from rtunnel.wire.key_exchange import CURVE25519
from rtunnel.wire.keys import ED25519, PublicKey
from rtunnel.wire.negotiation import encode_ext_info
from rtunnel.wire.numbers import (
    MSG_CHANNEL_EOF,
    MSG_EXT_INFO,
    MSG_IGNORE,
    MSG_KEX_ECDH_INIT,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_REQUEST,
    MSG_USERAUTH_REQUEST,
)
from rtunnel.wire.source_address import parse_networks
from tests.ssh.transports import (
    HOST_KEY,
    USER_KEY,
    Pair,
    RawClient,
    RecordingService,
    identify,
    make_client,
    make_server,
)

# The cheapest key exchange: what one costs bounds how many scripts there are.
_ALGORITHMS = attrs.evolve(DEFAULT_ALGORITHMS, key_exchanges=(CURVE25519,))
_LIMITS = TransportLimits(held_packets=64, held_bytes=65536, rekey_packets=24)
_BALANCERS = parse_networks("198.51.100.0/24")
_BALANCER = "198.51.100.1"
_HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 22\r\n"


class _Client(RawClient):
    """A client that no longer reads once it does not understand the server.

    ``spoil`` changes the next packet on its way.
    """

    def __init__(self, server: ServerTransport, address: str) -> None:
        self.spoil: Callable[[bytes], bytes] | None = None
        self.is_deaf = False
        super().__init__(server, address=address, random=bytes)
        self.algorithms = _ALGORITHMS

    def send_bytes(self, data: bytes) -> None:
        if self.spoil is not None:
            data, self.spoil = self.spoil(data), None
        self.server.dataReceived(data)
        if not self.is_deaf:
            try:
                self.read()
            except (RtunnelError, AssertionError):
                self.is_deaf = True


class _Server:
    """A server, its client, and the decisions of one script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.clock = Clock()
        self.admission = Admission(_LIMITS, self.clock, lambda: 0.0)
        self.services: list[RecordingService] = []
        flags = script.byte()
        self.transport = make_server(
            self.clock,
            limits=_LIMITS,
            algorithms=_ALGORITHMS if flags & 1 else DEFAULT_ALGORITHMS,
            rules=LoginRules(
                identify, lambda who: self._service(), check_token=self._check_token
            ),
            admission=self.admission,
            proxy_protocol_from=_BALANCERS,
            random=bytes,
        )
        self.client = _Client(self.transport, _BALANCER if flags & 2 else "192.0.2.7")
        if flags & 4:
            self.client.algorithms = DEFAULT_ALGORITHMS
        #: Whether a login that is right in every way has been sent.
        self.may_be_in = False
        #: Tokens that are being looked up.
        self.deciding: list[Deferred[None]] = []
        self.tokens_asked = 0

    def _service(self) -> RecordingService:
        service = RecordingService()
        self.services.append(service)
        return service

    async def _check_token(self, token: str, source: str) -> Identity:
        self.tokens_asked += 1
        assert not self.deciding, "two logins are decided at once"
        assert not self.transport.authenticated
        if token != "wait":
            raise AuthenticationRefused("no such token")
        decision: Deferred[None] = Deferred()
        self.deciding.append(decision)
        try:
            await decision
        finally:
            self.deciding.clear()
        self.may_be_in = True
        return JoinIdentity("agent", "site", "0123", token, source, NOW)

    def version(self) -> None:
        self.client.send_version()

    def header(self) -> None:
        self.client.send_bytes(_HEADER)

    def raw(self) -> None:
        self.client.send_bytes(self.script.chunk())

    def keys(self) -> None:
        """A key exchange, as good as it comes."""
        # There is no answer when the server is busy with another, or hung up.
        with suppress(AssertionError, RtunnelError):
            self.client.exchange_keys()

    def kexinit(self) -> None:
        payload = self.client.kexinit().payload[1:]
        self.client.send(MSG_KEXINIT, self.script.changed(payload))

    def value(self) -> None:
        size = (32, 1216)[self.script.below(2)]
        payload = string(self.script.changed(b"\x09" + bytes(size - 1)))
        self.client.send(MSG_KEX_ECDH_INIT, payload)

    def new_keys(self) -> None:
        self.client.send(MSG_NEWKEYS, self.script.chunk()[:4])

    def extensions(self) -> None:
        payload = encode_ext_info([(b"ext", b"value")])
        self.client.send(MSG_EXT_INFO, self.script.changed(payload))

    def service(self) -> None:
        names = (b"ssh-userauth", b"ssh-userauth", b"ssh-connection", b"x" * 65)
        payload = string(names[self.script.below(4)])
        self.client.send(MSG_SERVICE_REQUEST, payload)

    def log_in(self) -> None:
        client, flags = self.client, self.script.byte()
        is_good = not flags & 0b1110
        self.may_be_in |= is_good
        payload = client.auth_request(
            HOST_KEY if flags & 2 else USER_KEY,
            signed=not flags & 1,
            username=b"bob" if flags & 16 else b"alice",
            session_id=bytes(32) if flags & 4 else None,
            spoil=(lambda signature: signature[:-1] + b"?")
            if flags & 8
            else (lambda signature: signature),
        )
        client.send(MSG_USERAUTH_REQUEST, payload)

    def token(self) -> None:
        payload = text("join") + text("ssh-connection") + text("password")
        payload += boolean(False) + text("wait" if self.script.below(4) else "other")
        self.client.send(MSG_USERAUTH_REQUEST, self.script.changed(payload))

    def decide(self) -> None:
        """A token has been looked up."""
        if self.deciding:
            decision = self.deciding[0]
            if self.script.below(4):
                decision.callback(None)
            else:
                decision.errback(AuthenticationRefused("used up"))
            self.client.send_bytes(b"")

    def bad_login(self) -> None:
        payload = text("alice") + text("ssh-connection") + text("none")
        self.client.send(MSG_USERAUTH_REQUEST, self.script.changed(payload))

    def message(self) -> None:
        self.client.send(self.script.byte(), self.script.chunk())

    def ignore(self) -> None:
        for _ in range(1 + self.script.below(64)):
            self.client.send(MSG_IGNORE, string(b""))

    def data(self) -> None:
        for _ in range(1 + self.script.below(32)):
            self.client.send(MSG_CHANNEL_EOF, uint32(0))

    def answer(self) -> None:
        if self.transport.authenticated:
            self.transport.sendPacket(MSG_CHANNEL_EOF, uint32(0))
        self.client.send_bytes(b"")

    def spoil(self) -> None:
        """The next packet."""
        self.client.spoil = self.script.spoiler()

    def wait(self) -> None:
        self.clock.advance(self.script.byte() / 16)
        self.client.send_bytes(b"")

    def rekey(self) -> None:
        if self.transport.authenticated:
            self.transport.exchanges.start()
            self.client.send_bytes(b"")

    def hang_up(self) -> None:
        if self.script.below(4) == 3:
            self.transport.disconnect(11, "enough")

    def run(self) -> None:
        """Play the script, and see whether everything ends well."""
        transport, wire = self.transport, self.client.wire
        while not (self.script.is_over or wire.disconnecting or wire.disconnected):
            _STEPS[self.script.below(len(_STEPS))](self)
            if transport.authenticated:
                assert self.may_be_in and transport.identity is not None
                assert len(self.services) == 1
            else:
                assert transport.identity is None and not self.services
        transport.connectionLost()
        self.clock.advance(60)
        assert not self.clock.getDelayedCalls(), "a timer outlives its connection"
        assert not self.admission.unauthenticated, "a place is not given back"
        assert not self.deciding, "somebody waits for ever"
        for service in self.services:
            assert service.told[-1] == "stopped"


_STEPS: tuple[Callable[[_Server], None], ...] = (
    _Server.version,
    _Server.keys,
    _Server.service,
    _Server.log_in,
    _Server.header,
    _Server.raw,
    _Server.kexinit,
    _Server.value,
    _Server.new_keys,
    _Server.extensions,
    _Server.bad_login,
    _Server.message,
    _Server.ignore,
    _Server.data,
    _Server.answer,
    _Server.spoil,
    _Server.wait,
    _Server.rekey,
    _Server.hang_up,
    _Server.token,
    _Server.decide,
)


def _server(data: bytes) -> None:
    _Server(Script(data)).run()


def _scripts() -> list[bytes]:
    def script(flags: int, *steps: Callable[[_Server], None] | bytes) -> bytes:
        return bytes([flags]) + b"".join(
            step if isinstance(step, bytes) else bytes([_STEPS.index(step)])
            for step in steps
        )

    connect = (_Server.version, _Server.keys)
    log_in = (*connect, _Server.service, b"\0", _Server.log_in, b"\0")
    return [
        script(1, *log_in, _Server.data, b"\x05", _Server.answer),
        script(5, *log_in, _Server.rekey, _Server.keys, _Server.data, b"\x1f"),
        script(1, *log_in, _Server.keys, _Server.answer, _Server.message, b"\xc8\1a"),
        script(3, _Server.header, *log_in),
        script(1, _Server.header),
        script(1, *connect, _Server.extensions, b"\0", _Server.bad_login, b"\0"),
        script(1, *connect, _Server.service, b"\0", *(_Server.bad_login, b"\0") * 7),
        script(1, *connect, _Server.service, b"\0", _Server.log_in, b"\1"),
        script(1, *connect, _Server.service, b"\0", _Server.log_in, b"\x08"),
        script(1, _Server.version, _Server.kexinit, b"\0", _Server.value, b"\0\0"),
        script(5, _Server.version, _Server.kexinit, b"\0", _Server.new_keys, b"\0"),
        script(1, _Server.version, _Server.ignore, b"\1", _Server.keys),
        script(1, *connect, _Server.spoil, b"\0\7\7", _Server.service, b"\0"),
        script(1, *connect, _Server.wait, b"\xff", _Server.wait, b"\xff"),
        *(
            script(1, *connect, _Server.service, b"\0", *steps)
            for token in [(_Server.token, b"\1\0")]
            for steps in (
                (*token, _Server.decide, b"\1", _Server.answer),
                (*token, _Server.decide, b"\0", *token, _Server.decide, b"\1"),
                (*token, _Server.log_in, b"\0", _Server.decide, b"\1"),
                (*token, *token, _Server.keys, _Server.decide, b"\1"),
                (*token, _Server.wait, b"\xff", _Server.wait, b"\xff"),
                (_Server.token, b"\0\0") * 7,
            )
        ),
        script(1, _Server.raw, b"\x10SSH-2.0-x\r\nabcde"),
    ]


class _Tampered:
    """A client, a server, and the decisions of who sits between them."""

    def __init__(self, script: Script) -> None:
        self.script = script
        clock = Clock()
        self.pair = Pair(
            make_server(clock, limits=_LIMITS, algorithms=_ALGORITHMS, random=bytes),
            make_client(clock, limits=_LIMITS, algorithms=_ALGORITHMS, random=bytes),
            clock,
        )
        self.sent: tuple[list[tuple[int, bytes]], ...] = ([], [])
        self.services: list[RecordingService | None] = [None, None]
        self.repeatable = b""

    def move(self, end: int) -> None:
        self.pair.move(self.pair.ends[end], 1 + self.script.byte() * 8)

    def pump(self, end: int) -> None:
        while any([self.pair.move(each) for each in self.pair.ends]):
            pass

    def change(self, end: int) -> None:
        wire = self.pair.ends[end].wire
        data = bytearray(wire.take())
        where, value = self.script.byte(), self.script.byte()
        if data:
            data[where * len(data) // 256] ^= value
        wire.write(bytes(data))

    def drop(self, end: int) -> None:
        wire = self.pair.ends[end].wire
        data = wire.take()
        self.repeatable = data[: self.script.byte()]
        wire.write(data[len(self.repeatable) :])

    def repeat(self, end: int) -> None:
        self.put_in(end, self.repeatable)

    def inject(self, end: int) -> None:
        self.put_in(end, self.script.chunk())

    def inject_ignore(self, end: int) -> None:
        packet = uint32(12) + bytes([6, MSG_IGNORE]) + uint32(0) + bytes(6)
        self.put_in(end, packet)

    def put_in(self, end: int, data: bytes) -> None:
        wire = self.pair.ends[end].wire
        rest = wire.take()
        wire.write(data + rest if self.script.below(2) else rest + data)

    def send(self, end: int) -> None:
        transport = self.pair.ends[end].transport
        if transport.authenticated:
            for _ in range(1 + self.script.below(8)):
                payload = uint32(len(self.sent[end])) + bytes(self.script.byte())
                self.sent[end].append((MSG_CHANNEL_EOF, payload))
                transport.sendPacket(MSG_CHANNEL_EOF, payload)

    def rekey(self, end: int) -> None:
        transport = self.pair.ends[end].transport
        if transport.authenticated:
            transport.exchanges.start()

    def fill(self, end: int) -> None:
        if self.pair.ends[end].wire.producer is not None:
            self.pair.ends[end].tcp_full()

    def empty(self, end: int) -> None:
        if self.pair.ends[end].wire.producer is not None:
            self.pair.ends[end].tcp_empty()

    def wait(self, end: int) -> None:
        self.pair.clock.advance(self.script.byte() / 16)

    def run(self) -> None:
        """Play the script, and see whether everything ends well."""
        if self.script.below(4):
            self.pair.pump()
        while not self.script.is_over:
            decision = self.script.byte()
            end = decision & 1
            _TAMPERINGS[(decision >> 1) % len(_TAMPERINGS)](self, end)
            self._check()
        self._check()
        for each in self.pair.ends:
            each.lose()
        self.pair.clock.advance(60)
        assert not self.pair.clock.getDelayedCalls(), "a timer outlives its connection"
        assert len(self.pair.ready) == 1, "somebody waits for ever"

    def _check(self) -> None:
        for end, each in enumerate(self.pair.ends):
            running = each.transport.service
            if isinstance(running, RecordingService):
                self.services[end] = running
            service = self.services[end]
            if service is not None:
                received = service.received
                assert received == self.sent[1 - end][: len(received)]


_TAMPERINGS: tuple[Callable[[_Tampered, int], None], ...] = (
    _Tampered.move,
    _Tampered.pump,
    _Tampered.send,
    _Tampered.rekey,
    _Tampered.change,
    _Tampered.drop,
    _Tampered.repeat,
    _Tampered.inject,
    _Tampered.inject_ignore,
    _Tampered.fill,
    _Tampered.empty,
    _Tampered.wait,
)


def _tampered(data: bytes) -> None:
    _Tampered(Script(data)).run()


def _tamperings() -> list[bytes]:
    def script(
        start: int, *steps: tuple[Callable[[_Tampered, int], None], int, bytes]
    ) -> bytes:
        return bytes([start]) + b"".join(
            bytes([_TAMPERINGS.index(step) << 1 | end]) + rest
            for step, end, rest in steps
        )

    send = [(_Tampered.send, end, b"\3\1\2\3\4") for end in (0, 1)]
    pump = (_Tampered.pump, 0, b"")
    return [
        script(1, *send, pump, *send, (_Tampered.move, 0, b"\4"), pump),
        script(1, *send, (_Tampered.rekey, 0, b""), (_Tampered.rekey, 1, b""), pump),
        script(1, *send, (_Tampered.change, 0, b"\x80\1"), pump),
        script(1, *send, (_Tampered.drop, 0, b"\x24"), pump),
        script(
            1,
            *send,
            (_Tampered.drop, 0, b"\x24"),
            (_Tampered.repeat, 0, b"\1"),
            (_Tampered.repeat, 0, b"\1"),
            pump,
        ),
        script(0, (_Tampered.move, 0, b"\xff"), (_Tampered.inject_ignore, 1, b"\0")),
        script(0, *[(_Tampered.move, end, b"\x08") for end in (0, 1, 0, 1)], pump),
        script(0, (_Tampered.inject, 0, b"\x05abc\r\n\1"), pump),
        script(1, (_Tampered.fill, 0, b""), *send, (_Tampered.empty, 0, b""), pump),
    ]


_HOST_KEYS = [HostKey(fixed_key(number)) for number in (4, 5, 6)]


def _prove(data: bytes) -> None:
    """What a client asks us to prove (OpenSSH PROTOCOL section 2.5)."""
    update = HostKeyUpdate(_HOST_KEYS, ED25519, bytes(32))
    answer = update.prove(data)
    if answer is None:
        return
    asked, proofs = Reader(data), Reader(answer)
    while asked.remaining:
        blob = asked.string()
        signed = string(PROVE_HOST_KEYS) + string(bytes(32)) + string(blob)
        key = PublicKey.from_blob(blob)
        assert key.verify(proofs.string(), signed, ED25519)
    proofs.end()
    assert update.prove(data) is None, "signatures for nothing"


HARNESSES = (
    Harness(
        "host_keys_prove",
        _prove,
        lambda: [
            string(_HOST_KEYS[1].private.public.blob),
            HostKeyUpdate(_HOST_KEYS, ED25519, bytes(32)).announcement(),
            string(b"") + string(USER.public.blob),
        ],
        (ProtocolError,),
        tuple(string(key.private.public.blob) for key in _HOST_KEYS),
    ),
    Harness(
        "server_transport",
        _server,
        _scripts,
        is_machine=True,
        prepare=remember_cryptography,
    ),
    Harness(
        "tampered_pair",
        _tampered,
        _tamperings,
        is_machine=True,
        prepare=remember_cryptography,
    ),
)
