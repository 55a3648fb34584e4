"""The mathematics of key exchange, both sides, and the keys that come out of it.

mlkem768x25519-sha256 (draft-ietf-sshm-mlkem-hybrid-kex) and curve25519-sha256
(RFC 8731), the latter also under its older name. All send one string each way, hash
with SHA-256, and differ only in what the strings hold and how the secret is encoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from rtunnel.errors import DISCONNECT_KEY_EXCHANGE_FAILED, ProtocolError
from rtunnel.wire.data_types import mpint, string

MLKEM768_X25519 = b"mlkem768x25519-sha256"
CURVE25519 = b"curve25519-sha256"
CURVE25519_LIBSSH = b"curve25519-sha256@libssh.org"

_X25519_LENGTH = 32
_MLKEM_KEY_LENGTH = 1184
_MLKEM_CIPHERTEXT_LENGTH = 1088

#: Bytes in the longest string that a client or server sends.
MAX_PUBLIC_VALUE_LENGTH = _MLKEM_KEY_LENGTH + _X25519_LENGTH


class ClientKeyExchange(Protocol):
    """The client's half of one key exchange; used once.

    ``public`` is the string that the client sends (Q_C or C_INIT).
    """

    @property
    def public(self) -> bytes: ...

    def finish(self, reply: bytes) -> bytes:
        """Take the server's string and return the secret K, encoded for hashing.

        :raises ProtocolError: when the server's string is not what it has to be.
        """


@attrs.frozen
class KeyExchangeAlgorithm:
    """A key exchange method by its name in KEXINIT.

    :param start: begin the client's half.
    :param answer: the server's half, from the client's string to the server's string
        and the secret K, encoded for hashing; raises :class:`ProtocolError`.
    """

    name: bytes
    start: Callable[[], ClientKeyExchange]
    answer: Callable[[bytes], tuple[bytes, bytes]]


@attrs.frozen
class Transcript:
    """What both sides hash (RFC 5656 section 4): each what it saw of the exchange.

    :param client_version: the client's version line without its line end.
    :param server_version: the server's.
    :param client_kexinit: payload of the client's KEXINIT, message number included.
    :param server_kexinit: the server's.
    """

    client_version: bytes
    server_version: bytes
    client_kexinit: bytes
    server_kexinit: bytes

    def exchange_hash(
        self, host_key: bytes, client_public: bytes, server_public: bytes, secret: bytes
    ) -> bytes:
        """The exchange hash H, which the server signs.

        :param host_key: the host key or certificate blob, K_S.
        :param client_public: the client's string.
        :param server_public: the server's string.
        :param secret: K as :meth:`ClientKeyExchange.finish` returns it.
        """
        return hashlib.sha256(
            b"".join(
                [
                    string(self.client_version),
                    string(self.server_version),
                    string(self.client_kexinit),
                    string(self.server_kexinit),
                    string(host_key),
                    string(client_public),
                    string(server_public),
                    secret,
                ]
            )
        ).digest()


def derive_key(
    letter: bytes, length: int, secret: bytes, exchange_hash: bytes, session_id: bytes
) -> bytes:
    """One of the six keys of a connection (RFC 4253 section 7.2).

    :param letter: ``A`` to ``F``: IVs, encryption keys, MAC keys; client's first.
    :param length: bytes wanted.
    :param secret: K, encoded for hashing.
    """
    base = secret + exchange_hash
    key = hashlib.sha256(base + letter + session_id).digest()
    while len(key) < length:
        key += hashlib.sha256(base + key).digest()
    return key[:length]


class _X25519Client:
    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def finish(self, reply: bytes) -> bytes:
        return _as_mpint(_x25519(self._private, reply))


def _x25519_answer(public: bytes) -> tuple[bytes, bytes]:
    private = X25519PrivateKey.generate()
    secret = _as_mpint(_x25519(private, public))
    return private.public_key().public_bytes_raw(), secret


class _HybridClient:
    def __init__(self) -> None:
        self._classical = X25519PrivateKey.generate()
        self._mlkem = MLKEM768PrivateKey.generate()
        # C_INIT = C_PK2 || C_PK1: the ML-KEM key goes first.
        self.public = (
            self._mlkem.public_key().public_bytes_raw()
            + self._classical.public_key().public_bytes_raw()
        )

    def finish(self, reply: bytes) -> bytes:
        if len(reply) != _MLKEM_CIPHERTEXT_LENGTH + _X25519_LENGTH:
            raise _failed("the server's key exchange value is of the wrong length")
        ciphertext = reply[:_MLKEM_CIPHERTEXT_LENGTH]
        quantum_safe = self._mlkem.decapsulate(ciphertext)
        classical = _x25519(self._classical, reply[_MLKEM_CIPHERTEXT_LENGTH:])
        return _combine(quantum_safe, classical)


def _hybrid_answer(public: bytes) -> tuple[bytes, bytes]:
    if len(public) != _MLKEM_KEY_LENGTH + _X25519_LENGTH:
        raise _failed("the client's key exchange value is of the wrong length")
    private = X25519PrivateKey.generate()
    classical = _x25519(private, public[_MLKEM_KEY_LENGTH:])
    try:
        peer = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_KEY_LENGTH])
    except ValueError:
        raise _failed("the client's ML-KEM key is not valid") from None
    quantum_safe, ciphertext = peer.encapsulate()
    # S_REPLY = S_CT2 || S_PK1.
    reply = ciphertext + private.public_key().public_bytes_raw()
    return reply, _combine(quantum_safe, classical)


def _x25519(private: X25519PrivateKey, public: bytes) -> bytes:
    if len(public) != _X25519_LENGTH:
        raise _failed("an X25519 public value is not 32 bytes long")
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        # An all-zero secret has to be refused (RFC 8731 section 3).
        raise _failed("an X25519 public value that gives no secret") from None


def _as_mpint(secret: bytes) -> bytes:
    return mpint(int.from_bytes(secret, "big"))


def _combine(quantum_safe: bytes, classical: bytes) -> bytes:
    # K = SHA-256(K_PQ || K_CL), as a string and not as an mpint.
    return string(hashlib.sha256(quantum_safe + classical).digest())


def _failed(text: str) -> ProtocolError:
    return ProtocolError(text, DISCONNECT_KEY_EXCHANGE_FAILED)


#: The key exchange methods by name, best first.
KEY_EXCHANGES: Mapping[bytes, KeyExchangeAlgorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        KeyExchangeAlgorithm(MLKEM768_X25519, _HybridClient, _hybrid_answer),
        KeyExchangeAlgorithm(CURVE25519, _X25519Client, _x25519_answer),
        KeyExchangeAlgorithm(CURVE25519_LIBSSH, _X25519Client, _x25519_answer),
    )
}
