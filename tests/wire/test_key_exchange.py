"""Tests for :mod:`rtunnel.wire.key_exchange`."""

from __future__ import annotations

import hashlib
import os

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
