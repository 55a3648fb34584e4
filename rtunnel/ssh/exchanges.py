"""The key exchanges of one connection: the first, and those that renew the keys.

What either side may send is decided here message by message (RFC 4253 section 7.1);
under strict KEX (OpenSSH PROTOCOL 1.9) the first exchange takes nothing but itself.
Both sides starting at once is one exchange, not two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
from twisted.internet.interfaces import IReactorTime

from rtunnel.errors import (
    DISCONNECT_KEY_EXCHANGE_FAILED,
    HostRefused,
    ProtocolError,
    RtunnelError,
)
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.limits import TransportLimits
from rtunnel.wire.algorithms import MAX_SIGNATURE_LENGTH, Algorithms
from rtunnel.wire.certificate import (
    MAX_CERTIFICATE_LENGTH,
    Certificate,
    parse_public_key,
)
from rtunnel.wire.data_types import Reader, string
from rtunnel.wire.key_exchange import (
    MAX_PUBLIC_VALUE_LENGTH,
    ClientKeyExchange,
    Transcript,
    derive_key,
)
from rtunnel.wire.keys import PublicKey
from rtunnel.wire.negotiation import (
    COOKIE_LENGTH,
    KexInit,
    Negotiated,
    build_kexinit,
    check_strict,
    is_strict,
    negotiate,
)
from rtunnel.wire.numbers import (
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_NEWKEYS,
)
from rtunnel.wire.packet_cipher import CipherAlgorithm, MacAlgorithm, PacketCipher
from rtunnel.wire.packet_stream import PacketOpener, PacketSealer


class ExchangeLink(Protocol):
    """What the exchanges need of the connection that they are on."""

    @property
    def versions(self) -> tuple[bytes, bytes]:
        """Our version line and the peer's, without line ends."""

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send one packet."""

    def exchange_started(self) -> None:
        """Our KEXINIT has been sent: nothing else may be, until our NEWKEYS."""

    def our_keys_in_use(self) -> None:
        """Our NEWKEYS has been sent."""

    def their_keys_in_use(self) -> None:
        """The peer's NEWKEYS has come: the exchange is over."""


@attrs.frozen
class ExchangeContext:
    """What the exchanges of a connection work with.

    :param random: this many random bytes, for cookies.
    """

    link: ExchangeLink
    sealer: PacketSealer
    opener: PacketOpener
    algorithms: Algorithms
    limits: TransportLimits
    clock: IReactorTime
    random: Callable[[int], bytes]


@attrs.define
class _Exchange:
    """One exchange under way; ``incoming`` waits for the peer's NEWKEYS."""

    ours: KexInit
    theirs: KexInit | None = None
    negotiated: Negotiated | None = None
    skip_guess: bool = False
    incoming: PacketCipher | None = None


class KeyExchanges:
    """What both sides have in common; see the two subclasses.

    ``strict`` is set by the first pair of KEXINITs, ``session_id`` by the first
    exchange; ``peer_offers`` are the key exchange methods and markers in the peer's
    first KEXINIT; ``completed`` counts, ``completed_at`` is the clock at the last.
    """

    is_client: bool
    #: The one message of the method that this side waits for.
    awaits: int

    def __init__(self, context: ExchangeContext) -> None:
        self.link = context.link
        self.algorithms = context.algorithms
        self.strict = False
        self.session_id = b""
        self.peer_offers: tuple[bytes, ...] = ()
        self.completed = 0
        self.completed_at = context.clock.seconds()
        self._context = context
        self._exchange: _Exchange | None = None
        self._credit = float(context.limits.exchange_burst)
        self._credit_at = self.completed_at

    @property
    def in_progress(self) -> bool:
        """Whether an exchange has been started and is not over at both ends."""
        return self._exchange is not None

    @property
    def has_answered(self) -> bool:
        """Whether there was an exchange in which our part has been done."""
        return bool(self.session_id)

    @property
    def peer_is_bound(self) -> bool:
        """Whether the peer may send key exchange only, until its NEWKEYS."""
        exchange = self._exchange
        return exchange is not None and exchange.theirs is not None

    def start(self) -> None:
        """Send our KEXINIT; nothing happens when an exchange is under way."""
        if self._exchange is None:
            self._start()

    def _start(self) -> _Exchange:
        ours = build_kexinit(
            self.algorithms,
            self.host_key_algorithms(),
            self._context.random(COOKIE_LENGTH),
            is_client=self.is_client,
            first=not self.completed,
        )
        exchange = self._exchange = _Exchange(ours)
        self.link.sendPacket(MSG_KEXINIT, ours.payload[1:])
        self.link.exchange_started()
        return exchange

    def receive(self, number: int, payload: bytes) -> None:
        """Take a message of key exchange, numbers 20 to 49.

        :raises ProtocolError: malformed, out of turn, or too often.
        :raises HostRefused: on a client, when the host key is refused.
        """
        exchange = self._exchange
        if number == MSG_KEXINIT:
            if exchange is not None and exchange.theirs is not None:
                raise ProtocolError("a KEXINIT while a key exchange is under way")
            self._kexinit_received(exchange, payload)
        elif exchange is None or exchange.theirs is None:
            raise ProtocolError(f"message {number} outside of a key exchange")
        elif exchange.skip_guess and number > MSG_NEWKEYS:
            exchange.skip_guess = False
        elif number == MSG_NEWKEYS and exchange.incoming is not None:
            self._newkeys_received(exchange.incoming, payload)
        elif number == self.awaits and exchange.incoming is None:
            self.value_received(exchange, payload)
        else:
            raise ProtocolError(f"message {number} out of turn in a key exchange")

    def _kexinit_received(self, exchange: _Exchange | None, payload: bytes) -> None:
        theirs = KexInit.parse(bytes((MSG_KEXINIT,)) + payload)
        if exchange is None:
            self._charge_peer()
            exchange = self._start()
        exchange.theirs = theirs
        pair = (exchange.ours, theirs) if self.is_client else (theirs, exchange.ours)
        if not self.completed:
            self.peer_offers = theirs.key_exchanges
            self.strict = is_strict(*pair)
            if self.strict and self._context.opener.sequence != 1:
                raise ProtocolError("under strict KEX, KEXINIT has to come first")
        exchange.negotiated = negotiate(*pair)
        if not self.strict:
            check_strict(exchange.negotiated)
        exchange.skip_guess = theirs.guess_follows and exchange.negotiated.guess_wrong
        self.negotiated(exchange)

    def _charge_peer(self) -> None:
        """Make the peer pay for an exchange that it starts before it is due."""
        context = self._context
        limits, now = context.limits, context.clock.seconds()
        moved = context.sealer.sealed + context.opener.opened
        if moved >= limits.exchange_free_bytes:
            return
        earned = (now - self._credit_at) / limits.exchange_interval
        self._credit = min(self._credit + earned, limits.exchange_burst)
        self._credit_at = now
        if self._credit < 1:
            raise ProtocolError("key exchanges too often")
        self._credit -= 1

    def finish(self, exchange: _Exchange, secret: bytes, exchange_hash: bytes) -> None:
        """Derive the keys, send NEWKEYS and use them from then on."""
        negotiated = exchange.negotiated
        assert negotiated is not None
        if not self.session_id:
            self.session_id = exchange_hash

        def cipher(
            algorithm: CipherAlgorithm, mac: MacAlgorithm | None, letters: bytes
        ) -> PacketCipher:
            iv, key, mac_key = (
                derive_key(
                    letters[index : index + 1],
                    length,
                    secret,
                    exchange_hash,
                    self.session_id,
                )
                for index, length in enumerate(
                    (
                        algorithm.iv_length,
                        algorithm.key_length,
                        mac.key_length if mac else 0,
                    )
                )
            )
            return algorithm.make(key, iv, mac, mac_key)

        from_client = cipher(
            negotiated.cipher_client_to_server, negotiated.mac_client_to_server, b"ACE"
        )
        from_server = cipher(
            negotiated.cipher_server_to_client, negotiated.mac_server_to_client, b"BDF"
        )
        outgoing = from_client if self.is_client else from_server
        exchange.incoming = from_server if self.is_client else from_client
        self.link.sendPacket(MSG_NEWKEYS, b"")
        self._context.sealer.change_keys(outgoing, self.strict)
        self.link.our_keys_in_use()

    def _newkeys_received(self, incoming: PacketCipher, payload: bytes) -> None:
        Reader(payload).end()
        self._context.opener.change_keys(incoming, self.strict)
        self._exchange = None
        self.completed += 1
        self.completed_at = self._context.clock.seconds()
        self.link.their_keys_in_use()

    def transcript(self, exchange: _Exchange) -> Transcript:
        """What goes into the exchange hash, the right way round."""
        ours, theirs = self.link.versions
        assert exchange.theirs is not None
        if self.is_client:
            return Transcript(
                ours, theirs, exchange.ours.payload, exchange.theirs.payload
            )
        return Transcript(theirs, ours, exchange.theirs.payload, exchange.ours.payload)

    def host_key_algorithms(self) -> Sequence[bytes]:
        """The host key algorithms to offer, best first."""
        raise NotImplementedError

    def negotiated(self, exchange: _Exchange) -> None:
        """Both KEXINITs are there."""
        raise NotImplementedError

    def value_received(self, exchange: _Exchange, payload: bytes) -> None:
        """The peer's public value has come."""
        raise NotImplementedError


class ServerKeyExchanges(KeyExchanges):
    """The server's side.

    ``host_key_algorithm`` is that of the newest exchange.

    :param host_keys: kept for the life of the connection.
    """

    is_client = False
    awaits = MSG_KEX_ECDH_INIT

    def __init__(self, context: ExchangeContext, host_keys: Sequence[HostKey]) -> None:
        super().__init__(context)
        self._host_keys = tuple(host_keys)
        self.host_key_algorithm = b""

    def host_key_algorithms(self) -> Sequence[bytes]:
        """See :class:`KeyExchanges`."""
        able = {name for key in self._host_keys for name in key.algorithms}
        return [name for name in self.algorithms.host_keys if name in able]

    def negotiated(self, exchange: _Exchange) -> None:
        """See :class:`KeyExchanges`: the client speaks first."""

    def value_received(self, exchange: _Exchange, payload: bytes) -> None:
        """Answer the client's value with ours, signed.

        .. code-block:: text

            string    host key or certificate
            string    server's public value
            string    signature of the exchange hash
        """
        reader = Reader(payload)
        public = reader.string(MAX_PUBLIC_VALUE_LENGTH)
        reader.end()
        negotiated = exchange.negotiated
        assert negotiated is not None
        reply, secret = negotiated.key_exchange.answer(public)
        algorithm = self.host_key_algorithm = negotiated.host_key
        host_key = next(key for key in self._host_keys if algorithm in key.algorithms)
        blob = host_key.blob(algorithm)
        exchange_hash = self.transcript(exchange).exchange_hash(
            blob, public, reply, secret
        )
        signature = host_key.sign(exchange_hash, algorithm)
        self.link.sendPacket(
            MSG_KEX_ECDH_REPLY, string(blob) + string(reply) + string(signature)
        )
        self.finish(exchange, secret, exchange_hash)


#: Decides on a host: algorithm and blob in, what was believed out; raises to refuse.
HostCheck = Callable[[bytes, bytes], Certificate | PublicKey]


class ClientKeyExchanges(KeyExchanges):
    """The client's side.

    ``host`` is what the check believed, from the first exchange on.

    :param check_host: asked once, before anything is said about who we are.
    """

    is_client = True
    awaits = MSG_KEX_ECDH_REPLY

    def __init__(self, context: ExchangeContext, check_host: HostCheck) -> None:
        super().__init__(context)
        self.host: Certificate | PublicKey | None = None
        self._check_host = check_host
        self._host_blob: bytes | None = None
        self._half: ClientKeyExchange | None = None

    def host_key_algorithms(self) -> Sequence[bytes]:
        """See :class:`KeyExchanges`."""
        return self.algorithms.host_keys

    def negotiated(self, exchange: _Exchange) -> None:
        """Send our public value."""
        assert exchange.negotiated is not None
        self._half = exchange.negotiated.key_exchange.start()
        self.link.sendPacket(MSG_KEX_ECDH_INIT, string(self._half.public))

    def value_received(self, exchange: _Exchange, payload: bytes) -> None:
        """Check the server's signature, then the server, then use the keys."""
        reader = Reader(payload)
        blob = reader.string(MAX_CERTIFICATE_LENGTH)
        reply = reader.string(MAX_PUBLIC_VALUE_LENGTH)
        signature = reader.string(MAX_SIGNATURE_LENGTH)
        reader.end()
        negotiated, half = exchange.negotiated, self._half
        assert negotiated is not None and half is not None
        self._half = None
        secret = half.finish(reply)
        exchange_hash = self.transcript(exchange).exchange_hash(
            blob, half.public, reply, secret
        )
        algorithm = negotiated.host_key
        try:
            key = parse_public_key(algorithm, blob)
        except RtunnelError as error:
            raise HostRefused(str(error)) from error
        if not key.verify(signature, exchange_hash, algorithm):
            raise ProtocolError(
                "the host key's signature is wrong", DISCONNECT_KEY_EXCHANGE_FAILED
            )
        if self._host_blob is None:
            self.host = self._checked(algorithm, blob)
            self._host_blob = blob
        elif blob != self._host_blob:
            raise ProtocolError("another host key than in the first key exchange")
        self.finish(exchange, secret, exchange_hash)

    def _checked(self, algorithm: bytes, blob: bytes) -> Certificate | PublicKey:
        try:
            return self._check_host(algorithm, blob)
        except HostRefused:
            raise
        except RtunnelError as error:
            raise HostRefused(str(error)) from error
