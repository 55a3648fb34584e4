"""What a login leaves for another proxy to verify."""

from __future__ import annotations

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import AuthenticationRefused
from rtunnel.trust.login_proof import LoginProof, signed_data
from rtunnel.wire.certificate import CertificateKind, sign_certificate
from rtunnel.wire.data_types import string
from rtunnel.wire.keys import PrivateKey

KEY = PrivateKey.generate()
OTHER = PrivateKey.generate()
CERTIFICATE = sign_certificate(
    OTHER,
    KEY.public,
    kind=CertificateKind.USER,
    key_id="alice",
    principals=["alice"],
    valid_after=0,
    valid_before=2**40,
    serial=1,
)


def login(algorithm: bytes, blob: bytes) -> LoginProof:
    """What KEY's holder sends to log in."""
    data = signed_data(b"s" * 32, b"root", b"ssh-connection", algorithm, blob)
    return LoginProof(b"root", b"s" * 32, algorithm, blob, KEY.sign(data))


GOOD = login(b"ssh-ed25519", KEY.public.blob)
CERTIFIED = login(CERTIFICATE.algorithm, CERTIFICATE.blob)


class LoginProofTests(SynchronousTestCase):
    """Whether the holder of the key signed this login and no other."""

    def test_data_is_that_of_the_rfc(self) -> None:
        """RFC 4252 section 7, field by field."""
        self.assertEqual(
            signed_data(b"id", b"root", b"ssh-connection", b"alg", b"key"),
            string(b"id")
            + b"\x32"
            + string(b"root")
            + string(b"ssh-connection")
            + string(b"publickey")
            + b"\x01"
            + string(b"alg")
            + string(b"key"),
        )

    def test_logins_by_key_and_by_certificate_are_verified(self) -> None:
        """As they were made."""
        GOOD.check()
        CERTIFIED.check()

    def test_nothing_of_a_login_can_be_changed(self) -> None:
        """The signature is over all of it."""
        for good in (GOOD, CERTIFIED):
            for change in (
                {"username": b"toor"},
                {"session_id": b"t" * 32},
                {"blob": OTHER.public.blob},
                {"blob": b""},
                {"algorithm": b"ssh-rsa"},
                {"algorithm": b"rsa-sha2-256"},
                {"algorithm": b""},
                {"signature": b""},
                {"signature": OTHER.sign(b"x")},
            ):
                with self.assertRaises(AuthenticationRefused):
                    attrs.evolve(good, **change).check()
        # The key alone is no certificate, nor the other way round.
        with self.assertRaises(AuthenticationRefused):
            attrs.evolve(GOOD, blob=CERTIFICATE.blob).check()
        with self.assertRaises(AuthenticationRefused):
            attrs.evolve(
                CERTIFIED, algorithm=GOOD.algorithm, blob=KEY.public.blob
            ).check()

    @settings(deadline=None, max_examples=100)
    @given(st.data())
    def test_any_changed_byte_spoils_it(self, data: st.DataObject) -> None:
        """Wherever it is."""
        field = data.draw(
            st.sampled_from(["username", "session_id", "algorithm", "blob"])
        )
        value = bytearray(getattr(CERTIFIED, field))
        value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(
            st.integers(1, 255)
        )
        with self.assertRaises(AuthenticationRefused):
            attrs.evolve(CERTIFIED, **{field: bytes(value)}).check()

    def test_a_login_says_nothing_secret_in_logs(self) -> None:
        """Neither signature nor session id nor key."""
        shown = repr(GOOD)
        for secret in (GOOD.signature, GOOD.session_id, GOOD.blob):
            self.assertNotIn(repr(secret), shown)
