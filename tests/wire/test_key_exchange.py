"""Tests for :mod:`rtunnel.wire.key_exchange`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import DISCONNECT_KEY_EXCHANGE_FAILED, ProtocolError
from rtunnel.wire import key_exchange
from rtunnel.wire.data_types import mpint, string
from rtunnel.wire.key_exchange import (
    CURVE25519,
    CURVE25519_LIBSSH,
    KEY_EXCHANGES,
    MAX_PUBLIC_VALUE_LENGTH,
    MLKEM768_X25519,
    Transcript,
    derive_key,
)

#: Private key, the other's public value and the secret, of RFC 7748 section 5.2.
X25519_VECTORS = [
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
    (
        "09" + "00" * 31,
        "09" + "00" * 31,
        "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
    ),
]


def ml_kem_vector() -> dict[str, bytes]:
    """The fields of the published vector beside this module."""
    lines = Path(__file__).with_name("kat_MLKEM_768.rsp").read_text().splitlines()
    fields = (line.split(" = ") for line in lines if not line.startswith("#"))
    return {name: bytes.fromhex(value) for name, value in fields}


class KeyExchangeTests(SynchronousTestCase):
    """Every method, both sides of it."""

    def test_both_sides_get_the_same_secret(self) -> None:
        """A fresh one each time."""
        for algorithm in KEY_EXCHANGES.values():
            secrets = set()
            for _ in range(2):
                client = algorithm.start()
                reply, secret = algorithm.answer(client.public)
                self.assertEqual(client.finish(reply), secret)
                self.assertTrue(len(client.public) <= MAX_PUBLIC_VALUE_LENGTH)
                self.assertTrue(len(reply) <= MAX_PUBLIC_VALUE_LENGTH)
                secrets.add(secret)
            self.assertEqual(len(secrets), 2)

    def test_the_hybrid_is_offered_first(self) -> None:
        """It is the one that withstands a quantum computer."""
        self.assertEqual(
            list(KEY_EXCHANGES), [MLKEM768_X25519, CURVE25519, CURVE25519_LIBSSH]
        )

    def test_curve25519_is_rfc_8731(self) -> None:
        """The secret is the X25519 result read big-endian, as an mpint."""
        for name in (CURVE25519, CURVE25519_LIBSSH):
            private = X25519PrivateKey.generate()
            reply, secret = KEY_EXCHANGES[name].answer(
                private.public_key().public_bytes_raw()
            )
            shared = private.exchange(X25519PublicKey.from_public_bytes(reply))
            self.assertEqual(secret, mpint(int.from_bytes(shared, "big")))

    def test_the_hybrid_server_is_as_drafted(self) -> None:
        """draft-ietf-sshm-mlkem-hybrid-kex: ML-KEM first; K is a string, hashed."""
        mlkem, classical = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        reply, secret = KEY_EXCHANGES[MLKEM768_X25519].answer(
            mlkem.public_key().public_bytes_raw()
            + classical.public_key().public_bytes_raw()
        )
        quantum_safe = mlkem.decapsulate(reply[:1088])
        shared = classical.exchange(X25519PublicKey.from_public_bytes(reply[1088:]))
        self.assertEqual(secret, string(hashlib.sha256(quantum_safe + shared).digest()))

    def test_the_hybrid_client_is_as_drafted(self) -> None:
        """The same from the other side."""
        client = KEY_EXCHANGES[MLKEM768_X25519].start()
        self.assertEqual(len(client.public), 1184 + 32)
        mlkem = MLKEM768PublicKey.from_public_bytes(client.public[:1184])
        quantum_safe, ciphertext = mlkem.encapsulate()
        classical = X25519PrivateKey.generate()
        shared = classical.exchange(
            X25519PublicKey.from_public_bytes(client.public[1184:])
        )
        self.assertEqual(
            client.finish(ciphertext + classical.public_key().public_bytes_raw()),
            string(hashlib.sha256(quantum_safe + shared).digest()),
        )

    def test_values_of_the_wrong_length_are_refused(self) -> None:
        """Longer, shorter, or none."""
        for algorithm in KEY_EXCHANGES.values():
            client = algorithm.start()
            reply, _ = algorithm.answer(client.public)
            for value in (b"", client.public[:-1], client.public + b"\0"):
                self.refused(algorithm.answer, value)
            for value in (b"", reply[:-1], reply + b"\0"):
                self.refused(algorithm.start().finish, value)

    def test_values_that_give_no_secret_are_refused(self) -> None:
        """X25519 points of low order (RFC 8731 section 3)."""
        for algorithm in KEY_EXCHANGES.values():
            client = algorithm.start()
            reply, _ = algorithm.answer(client.public)
            for point in (bytes(32), b"\1" + bytes(31)):
                self.refused(algorithm.answer, client.public[:-32] + point)
                self.refused(algorithm.start().finish, reply[:-32] + point)

    def test_an_ml_kem_key_that_is_none_is_refused(self) -> None:
        """Coefficients have to be below the modulus (FIPS 203 section 7.2)."""
        algorithm = KEY_EXCHANGES[MLKEM768_X25519]
        public = algorithm.start().public
        self.refused(algorithm.answer, b"\xff" * 1184 + public[1184:])

    @settings(deadline=None, max_examples=50)
    @given(st.sampled_from(list(KEY_EXCHANGES)), st.binary(max_size=1300))
    def test_garbage_raises_nothing_but_protocol_errors(
        self, name: bytes, value: bytes
    ) -> None:
        """Of any length, also the right one."""
        algorithm = KEY_EXCHANGES[name]
        for call, length in (
            (algorithm.answer, len(algorithm.start().public)),
            (algorithm.start().finish, 32 if name != MLKEM768_X25519 else 1120),
        ):
            for data in (value, (value * length)[:length]):
                try:
                    call(data)
                except ProtocolError as error:
                    self.assertEqual(error.reason_code, DISCONNECT_KEY_EXCHANGE_FAILED)

    def refused(self, call: object, value: bytes) -> None:
        """Assert that a peer's value is refused."""
        assert callable(call)
        with self.assertRaises(ProtocolError) as caught:
            call(value)
        self.assertEqual(caught.exception.reason_code, DISCONNECT_KEY_EXCHANGE_FAILED)


class PublishedVectorTests(SynchronousTestCase):
    """The same with keys and values that others have published."""

    def use(self, **keys: object) -> None:
        """Let the module find these keys where it makes new ones."""
        for name, key in keys.items():
            self.patch(key_exchange, name, SimpleNamespace(generate=lambda k=key: k))

    def test_curve25519_on_both_sides(self) -> None:
        """RFC 7748 section 5.2; the first two secrets need a zero in front."""
        for scalar, value, result in X25519_VECTORS:
            public, shared = bytes.fromhex(value), bytes.fromhex(result)
            self.use(
                X25519PrivateKey=X25519PrivateKey.from_private_bytes(
                    bytes.fromhex(scalar)
                )
            )
            zero = b"\0" if shared[0] & 0x80 else b""
            for name in (CURVE25519, CURVE25519_LIBSSH):
                algorithm = KEY_EXCHANGES[name]
                secret = string(zero + shared)
                self.assertEqual(algorithm.start().finish(public), secret)
                self.assertEqual(algorithm.answer(public)[1], secret)

    def test_the_hybrid_client(self) -> None:
        """A vector of ML-KEM-768 beside the first one of X25519.

        A ciphertext that is none gives a secret that nobody else has, and no error
        (FIPS 203 section 6.3).
        """
        scalar, value, result = X25519_VECTORS[0]
        vector = ml_kem_vector()
        classical = X25519PrivateKey.from_private_bytes(bytes.fromhex(scalar))
        self.use(
            X25519PrivateKey=classical,
            MLKEM768PrivateKey=MLKEM768PrivateKey.from_seed_bytes(
                vector["d"] + vector["z"]
            ),
        )
        client = KEY_EXCHANGES[MLKEM768_X25519].start()
        self.assertEqual(
            client.public, vector["pk"] + classical.public_key().public_bytes_raw()
        )
        for ciphertext, secret in (("ct", "ss"), ("ct_n", "ss_n")):
            both = vector[secret] + bytes.fromhex(result)
            self.assertEqual(
                client.finish(vector[ciphertext] + bytes.fromhex(value)),
                string(hashlib.sha256(both).digest()),
            )


class TranscriptTests(SynchronousTestCase):
    """:class:`Transcript`."""

    def test_hashes_what_rfc_5656_says(self) -> None:
        """Everything as strings in its order, and the secret as it is encoded."""
        transcript = Transcript(b"VC", b"VS", b"IC", b"IS")
        expected = hashlib.sha256(
            b"".join(map(string, [b"VC", b"VS", b"IC", b"IS", b"KS", b"QC", b"QS"]))
            + b"secret"
        ).digest()
        self.assertEqual(
            transcript.exchange_hash(b"KS", b"QC", b"QS", b"secret"), expected
        )


class DeriveKeyTests(SynchronousTestCase):
    """:func:`derive_key`."""

    def test_is_rfc_4253_section_7_2(self) -> None:
        """K1 = HASH(K || H || X || session_id), K2 = HASH(K || H || K1), and so on."""
        secret, h, session = os.urandom(36), os.urandom(32), os.urandom(32)

        def sha256(*parts: bytes) -> bytes:
            return hashlib.sha256(b"".join(parts)).digest()

        first = sha256(secret, h, b"C", session)
        second = sha256(secret, h, first)
        third = sha256(secret, h, first, second)
        for length in (0, 12, 16, 32, 33, 64, 96):
            self.assertEqual(
                derive_key(b"C", length, secret, h, session),
                (first + second + third)[:length],
            )
