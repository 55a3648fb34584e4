"""Our client with a server that takes the steps of its part in any order, or wrong.

A client believes nothing before the host key's signature is right and the host check
has passed, says who it is to no other, and is logged in only if it has been told so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from fuzz.harness import Harness
from fuzz.keys import HOST_CA, NOW, USER, certificate, fixed_key
from fuzz.remembered import remember_cryptography
from fuzz.script import Script
from rtunnel.errors import ConnectionFailed, HostRefused, RtunnelError
from rtunnel.ssh.limits import TransportLimits
from rtunnel.ssh.userauth_client import Credentials
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, signature_algorithm
from rtunnel.wire.certificate import Certificate, CertificateKind
from rtunnel.wire.data_types import Reader, boolean, name_list, string, text, uint32
from rtunnel.wire.key_exchange import CURVE25519, Transcript, derive_key
from rtunnel.wire.keys import ED25519, PrivateKey, PublicKey
from rtunnel.wire.negotiation import (
    KexInit,
    build_kexinit,
    encode_ext_info,
    is_strict,
    negotiate,
)
from rtunnel.wire.numbers import (
    MSG_CHANNEL_EOF,
    MSG_EXT_INFO,
    MSG_IGNORE,
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_ACCEPT,
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)
from rtunnel.wire.packet_stream import PacketOpener, PacketSealer
from tests.ssh.transports import RecordingService, Wire, make_client

_ALGORITHMS = attrs.evolve(DEFAULT_ALGORITHMS, key_exchanges=(CURVE25519,))
_LIMITS = TransportLimits(held_packets=64, held_bytes=65536, rekey_packets=24)
_CERTIFICATE = b"ssh-ed25519-cert-v01@openssh.com"

_HOST = fixed_key(4)
_STRANGER = fixed_key(5)
_HOST_CERTIFICATE = certificate(
    CertificateKind.HOST, key=_HOST.public, ca=HOST_CA, principals=("site",)
)
_STRANGERS_CERTIFICATE = certificate(
    CertificateKind.HOST, key=_STRANGER.public, ca=_STRANGER, principals=("site",)
)


class _Server:
    """The server, its client, and the decisions of one script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.clock = Clock()
        flags = script.byte()
        self.key: PrivateKey = _STRANGER if flags & 1 else _HOST
        self.certificate = _STRANGERS_CERTIFICATE if flags & 1 else _HOST_CERTIFICATE
        self.algorithms = attrs.evolve(
            _ALGORITHMS, host_keys=((ED25519,) if flags & 2 else (_CERTIFICATE,))
        )
        self.is_strict = not flags & 4
        self.checks = 0
        self.accepted = 0
        self.result: list[object] = []
        self.client = make_client(
            self.clock,
            limits=_LIMITS,
            algorithms=_ALGORITHMS,
            credentials=Credentials("alice", USER, certificate()),
            check_host=self._check_host,
            random=bytes,
        )
        self.client.ready.addBoth(self.result.append)
        self.wire = Wire()
        self.sealer = PacketSealer(bytes)
        self.opener = PacketOpener(2**20)
        self.received: list[tuple[int, bytes]] = []
        self.session_id = b""
        self.exchanges = 0
        self.is_deaf = False
        self.has_line = False
        self.spoiled_next: Callable[[bytes], bytes] | None = None
        #: Whether a signature was right in all key exchanges, and SUCCESS was said.
        self.signed_well = False
        self.said_success = False
        self.told: list[str] = []
        self.client.makeConnection(self.wire)

    def _check_host(self, algorithm: bytes, blob: bytes) -> Certificate | PublicKey:
        self.checks += 1
        if algorithm == ED25519:
            if blob != _HOST.public.blob:
                raise HostRefused("another host key")
            self.accepted += 1
            return PublicKey.from_blob(blob)
        shown = Certificate.from_blob(blob)
        shown.check(kind=CertificateKind.HOST, trusted=[HOST_CA.public], now=NOW)
        assert blob == _HOST_CERTIFICATE.blob, "a certificate that nobody signed"
        self.accepted += 1
        return shown

    # Packets.

    def send_bytes(self, data: bytes) -> None:
        if self.spoiled_next is not None:
            data, self.spoiled_next = self.spoiled_next(data), None
        self.client.dataReceived(data)
        if not self.is_deaf:
            try:
                self.read()
            except (RtunnelError, AssertionError):
                self.is_deaf = True

    def read(self) -> None:
        data = self.wire.take()
        if not self.has_line and data:
            line, _, data = data.partition(b"\r\n")
            assert line == b"SSH-2.0-rtunnel"
            self.has_line = True
        self.opener.feed(data)
        while packet := self.opener.next_packet():
            number, payload = packet[0], bytes(packet[1])
            self.received.append((number, payload))
            if number == MSG_NEWKEYS:
                break
            assert self.accepted or number != MSG_USERAUTH_REQUEST

    def send(self, number: int, payload: bytes) -> None:
        out: list[bytes] = []
        self.sealer.seal(number, payload, b"", out)
        self.send_bytes(b"".join(out))

    def taken(self, number: int) -> bytes:
        for index, (found, payload) in enumerate(self.received):
            if found == number:
                del self.received[index]
                return payload
        raise AssertionError(f"no message {number}")

    # Steps.

    def version(self) -> None:
        self.send_bytes(b"SSH-2.0-test\r\n")

    def banner_line(self) -> None:
        self.send_bytes(self.script.chunk() + b"\r\n")

    def raw(self) -> None:
        self.send_bytes(self.script.chunk())

    def _offer(self) -> KexInit:
        return build_kexinit(
            self.algorithms,
            self.algorithms.host_keys,
            bytes(16),
            is_client=False,
            first=self.is_strict and not self.exchanges,
        )

    def keys(self) -> None:
        """A key exchange, as good as it comes but for what the script changes."""
        with suppress(AssertionError, RtunnelError):
            self._exchange_keys()

    def _exchange_keys(self) -> None:
        flags = self.script.byte()
        ours = self._offer()
        self.send(MSG_KEXINIT, ours.payload[1:])
        theirs = KexInit.parse(bytes([MSG_KEXINIT]) + self.taken(MSG_KEXINIT))
        agreed = negotiate(theirs, ours)
        public = Reader(self.taken(MSG_KEX_ECDH_INIT)).string()
        reply, secret = agreed.key_exchange.answer(public)
        is_certificate = agreed.host_key == _CERTIFICATE
        blob = self.certificate.blob if is_certificate else self.key.public.blob
        if flags & 1:
            blob = self.script.changed(blob)
        transcript = Transcript(
            b"SSH-2.0-rtunnel", b"SSH-2.0-test", theirs.payload, ours.payload
        )
        exchange_hash = transcript.exchange_hash(blob, public, reply, secret)
        key = _STRANGER if flags & 2 else self.key
        signature = key.sign(exchange_hash, signature_algorithm(agreed.host_key))
        good = string(blob) + string(reply) + string(signature)
        payload = self.script.changed(good) if flags & 4 else good
        self.signed_well = payload == good and key is self.key
        self.send(MSG_KEX_ECDH_REPLY, payload)
        if not self.exchanges:
            self.is_strict = is_strict(theirs, ours)
            self.session_id = exchange_hash
        cipher = agreed.cipher_client_to_server
        iv_in, iv_out, key_in, key_out = (
            derive_key(letter, length, secret, exchange_hash, self.session_id)
            for letter, length in (
                (b"A", cipher.iv_length),
                (b"B", cipher.iv_length),
                (b"C", cipher.key_length),
                (b"D", cipher.key_length),
            )
        )
        self.taken(MSG_NEWKEYS)
        # It sends this only to a host that has proven itself.
        assert self.signed_well and self.accepted
        self.exchanges += 1
        self.opener.change_keys(cipher.make(key_in, iv_in, None, b""), self.is_strict)
        self.read()
        out: list[bytes] = []
        self.sealer.seal(MSG_NEWKEYS, b"", b"", out)
        self.sealer.change_keys(cipher.make(key_out, iv_out, None, b""), self.is_strict)
        self.send_bytes(b"".join(out))

    def kexinit(self) -> None:
        self.send(MSG_KEXINIT, self.script.changed(self._offer().payload[1:]))

    def reply(self) -> None:
        payload = string(self.key.public.blob) + string(bytes(32)) + string(bytes(83))
        self.send(MSG_KEX_ECDH_REPLY, self.script.changed(payload))

    def new_keys(self) -> None:
        self.send(MSG_NEWKEYS, self.script.chunk()[:4])

    def extensions(self) -> None:
        payload = encode_ext_info([(b"server-sig-algs", b"ssh-ed25519,x")])
        self.send(MSG_EXT_INFO, self.script.changed(payload))

    def accept(self) -> None:
        self.send(MSG_SERVICE_ACCEPT, self.script.changed(text("ssh-userauth")))

    def succeed(self) -> None:
        self.said_success = True
        self.send(MSG_USERAUTH_SUCCESS, self.script.changed(b""))

    def fail(self) -> None:
        payload = name_list([b"publickey", b"password"]) + boolean(False)
        self.send(MSG_USERAUTH_FAILURE, self.script.changed(payload))

    def banner(self) -> None:
        payload = text("hello\r\n") + text("")
        self.send(MSG_USERAUTH_BANNER, self.script.changed(payload))

    def message(self) -> None:
        self.said_success = True
        self.send(self.script.byte(), self.script.chunk())

    def ignore(self) -> None:
        for _ in range(1 + self.script.below(32)):
            self.send(MSG_IGNORE, string(b""))

    def data(self) -> None:
        for _ in range(1 + self.script.below(32)):
            self.send(MSG_CHANNEL_EOF, uint32(0))

    def answer(self) -> None:
        if self.client.authenticated:
            self.client.sendPacket(MSG_CHANNEL_EOF, uint32(0))
        self.send_bytes(b"")

    def spoil(self) -> None:
        self.spoiled_next = self.script.spoiler()

    def wait(self) -> None:
        self.clock.advance(self.script.byte() / 16)
        self.send_bytes(b"")

    def rekey(self) -> None:
        if self.client.authenticated:
            self.client.exchanges.start()
            self.send_bytes(b"")

    def another_key(self) -> None:
        """Be somebody else from the next key exchange on."""
        self.key, self.certificate = _STRANGER, _STRANGERS_CERTIFICATE

    def cancel(self) -> None:
        if self.script.below(4) == 3:
            self.client.ready.cancel()

    def run(self) -> None:
        """Play the script, and see whether everything ends well."""
        client, wire = self.client, self.wire
        while not (self.script.is_over or wire.disconnecting or wire.disconnected):
            _STEPS[self.script.below(len(_STEPS))](self)
            self._check()
        service = client.service
        client.connectionLost(Failure(ConnectionDone()))
        self._check()
        self.clock.advance(60)
        assert not self.clock.getDelayedCalls(), "a timer outlives its connection"
        assert len(self.result) == 1, "somebody waits for ever"
        if isinstance(service, RecordingService):
            assert service.told[-1] == "stopped"

    def _check(self) -> None:
        assert self.checks <= 1 and self.accepted <= 1
        if self.client.authenticated:
            assert self.accepted and self.said_success and self.exchanges
        if self.result:
            (result,) = self.result
            if isinstance(result, Failure):
                result.trap(ConnectionFailed, CancelledError)
            else:
                assert isinstance(result, RecordingService)
                assert self.client.authenticated


_STEPS: tuple[Callable[[_Server], None], ...] = (
    _Server.version,
    _Server.keys,
    _Server.accept,
    _Server.succeed,
    _Server.banner_line,
    _Server.raw,
    _Server.kexinit,
    _Server.reply,
    _Server.new_keys,
    _Server.extensions,
    _Server.fail,
    _Server.banner,
    _Server.message,
    _Server.ignore,
    _Server.data,
    _Server.answer,
    _Server.spoil,
    _Server.wait,
    _Server.rekey,
    _Server.another_key,
    _Server.cancel,
)


def _run(data: bytes) -> None:
    _Server(Script(data)).run()


def _scripts() -> list[bytes]:
    def script(flags: int, *steps: Callable[[_Server], None] | bytes) -> bytes:
        return bytes([flags]) + b"".join(
            step if isinstance(step, bytes) else bytes([_STEPS.index(step)])
            for step in steps
        )

    connect = (_Server.version, _Server.keys, b"\0")
    log_in = (*connect, _Server.accept, b"\0", _Server.succeed, b"\0")
    return [
        *(script(flags, *log_in, _Server.data, b"\5") for flags in range(8)),
        script(0, *log_in, _Server.rekey, _Server.keys, b"\0", _Server.answer),
        script(0, *log_in, _Server.another_key, _Server.keys, b"\0"),
        *(
            script(kind, _Server.version, _Server.keys, bytes([flags]) + b"\1\x40\1x\1")
            for kind in (0, 2)
            for flags in (1, 2, 4)
        ),
        script(0, _Server.version, _Server.keys, b"\4\1\xff\1\x01\1"),
        script(0, _Server.banner_line, b"\5hello", *connect, _Server.succeed, b"\0"),
        script(0, *connect, _Server.extensions, b"\0", _Server.accept, b"\0"),
        script(0, *connect, _Server.accept, b"\0", _Server.banner, b"\0", _Server.fail),
        script(0, *connect, _Server.wait, b"\xff", _Server.wait, b"\xff"),
        script(0, _Server.version, _Server.kexinit, b"\0", _Server.reply, b"\0"),
        script(0, _Server.version, _Server.ignore, b"\1", _Server.keys, b"\0"),
        script(4, _Server.version, _Server.ignore, b"\1", _Server.keys, b"\0"),
        script(0, *connect, _Server.spoil, b"\0\7\7", _Server.accept, b"\0"),
        script(0, _Server.version, _Server.cancel, b"\3"),
    ]


HARNESSES = (
    Harness(
        "hostile_server",
        _run,
        _scripts,
        is_machine=True,
        prepare=remember_cryptography,
    ),
)
