"""An SSH client that does as it is told, for whatever carries its bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self

from rtunnel.trust.login_proof import CONNECTION_SERVICE, signed_data
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, signature_algorithm
from rtunnel.wire.certificate import parse_public_key
from rtunnel.wire.data_types import Reader, boolean, string
from rtunnel.wire.key_exchange import Transcript, derive_key
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.negotiation import KexInit, build_kexinit, is_strict, negotiate
from rtunnel.wire.numbers import (
    MSG_DISCONNECT,
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_REQUEST,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)
from rtunnel.wire.packet_stream import PacketOpener, PacketSealer


class ScriptedClient:
    """A client that sends what a test tells it to, in whatever order.

    Made of the pure parts only: what it does right, it does by the RFCs and not by our
    transport. How bytes move is for the subclass.

    :param key: what it logs in with unless told otherwise.
    :param strict: whether to offer strict KEX.
    """

    def __init__(
        self,
        key: PrivateKey,
        *,
        strict: bool = True,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.key = key
        self.sealer = PacketSealer(random)
        self.opener = PacketOpener(2**20)
        self.session_id = b""
        self.version = b"SSH-2.0-test"
        #: What the server has to say; None for anything, which is kept here.
        self.server_version: bytes | None = b"SSH-2.0-rtunnel"
        self.received: list[tuple[int, bytes]] = []
        #: What we offer.
        self.algorithms = DEFAULT_ALGORITHMS
        #: The newest KEXINIT that we made.
        self.last_kexinit: KexInit | None = None
        self._strict = strict
        self._random = random
        self._reads_packets = False
        self._line = b""
        self._exchanges = 0

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are, and read what has come back."""
        raise NotImplementedError

    def take(self, number: int) -> bytes:
        """The payload of the first message with that number, taken out.

        :raises AssertionError: when there is none, and none will come.
        """
        raise NotImplementedError

    def packet(self, number: int, payload: bytes = b"") -> bytes:
        """The next packet, not sent."""
        out: list[bytes] = []
        self.sealer.seal(number, payload, b"", out)
        return b"".join(out)

    def send(self, number: int, payload: bytes = b"") -> None:
        """Send one packet, and read what comes back."""
        self.send_bytes(self.packet(number, payload))

    def bytes_received(self, data: bytes) -> None:
        """Read packets out of what the server wrote."""
        if not self._reads_packets:
            line, end, data = (self._line + data).partition(b"\r\n")
            if not end:
                self._line = line
                return
            if self.server_version is None:
                self.server_version = line
            assert line == self.server_version, line
            self._reads_packets = True
        self.opener.feed(data)
        while packet := self.opener.next_packet():
            self.received.append((packet[0], bytes(packet[1])))
            if packet[0] == MSG_NEWKEYS:
                # What follows needs the new keys.
                break

    def taken(self, number: int) -> bytes | None:
        """The payload of the first message with that number, taken out."""
        for index, (found, payload) in enumerate(self.received):
            if found == number:
                del self.received[index]
                return payload
        return None

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
        assert self.server_version is not None
        transcript = Transcript(
            self.version, self.server_version, ours.payload, theirs.payload
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
        self.bytes_received(b"")
        newkeys = self.packet(MSG_NEWKEYS)
        self.sealer.change_keys(cipher.make(key_out, iv_out, None, b""), self._strict)
        self.send_bytes(newkeys)

    def connect(self) -> Self:
        """Everything up to the first NEWKEYS."""
        self.send_version()
        self.exchange_keys()
        return self

    def start_userauth(self) -> Self:
        """Everything up to where logins are asked for."""
        self.connect()
        self.send(MSG_SERVICE_REQUEST, string(b"ssh-userauth"))
        return self

    def auth_request(
        self,
        key: PrivateKey | None = None,
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
        if key is None:
            key = self.key
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

    def log_in(self) -> Self:
        """Everything up to USERAUTH_SUCCESS."""
        self.start_userauth()
        self.send(MSG_USERAUTH_REQUEST, self.auth_request())
        self.take(MSG_USERAUTH_SUCCESS)
        return self
