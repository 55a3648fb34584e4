"""Certificates: read, written, signed, tampered with, and shown to ssh-keygen."""

from __future__ import annotations

import contextlib

from cryptography.hazmat.primitives.serialization import (
    SSHCertificate,
    load_ssh_public_identity,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import CertificateError, KeyFormatError
from rtunnel.wire.certificate import (
    CERTIFICATE_ALGORITHMS,
    FOREVER,
    MAX_CERTIFICATE_LENGTH,
    MAX_PRINCIPALS,
    Certificate,
    CertificateKind,
    parse_public_key,
    sign_certificate,
)
from rtunnel.wire.data_types import string, text
from rtunnel.wire.keys import (
    ED25519,
    RSA,
    RSA_SHA256,
    RSA_SHA512,
    SK_ECDSA_P256,
    SK_ED25519,
    PrivateKey,
    PublicKey,
)
from tests.wire.examples import (
    KEY_TYPES,
    NOW,
    RawCertificate,
    SecurityKey,
    option,
    private_key,
    rsa_key,
)

modest = settings(deadline=None, max_examples=100)


ED25519_CERT = b"ssh-ed25519-cert-v01@openssh.com"


names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20
)


options = st.dictionaries(
    st.from_regex(r"[a-z0-9@.-]{1,20}", fullmatch=True), st.binary(max_size=40)
)


def sign(
    ca: PrivateKey | None = None,
    key: PublicKey | None = None,
    *,
    kind: CertificateKind = CertificateKind.USER,
    principals: tuple[str, ...] = ("alice", "ops"),
    valid_before: int = NOW + 3600,
) -> Certificate:
    """A good certificate of Alice's, but for what a test changes."""
    return sign_certificate(
        ca or private_key(ED25519, "ca"),
        key or private_key(ED25519).public,
        kind=kind,
        key_id="alice",
        principals=principals,
        valid_after=NOW - 60,
        valid_before=valid_before,
        serial=7,
    )


class FormatTests(SynchronousTestCase):
    """What can be read, and how it is written."""

    def refusal(self, blob: bytes) -> str:
        """The reason for which a blob is refused."""
        return str(self.assertRaises(CertificateError, Certificate.from_blob, blob))

    @given(
        key_type=st.sampled_from(KEY_TYPES),
        ca_type=st.sampled_from(KEY_TYPES),
        kind=st.sampled_from(CertificateKind),
        key_id=names,
        principals=st.lists(names, min_size=1, max_size=5),
        serial=st.integers(0, 2**64 - 1),
        span=st.tuples(st.integers(0, FOREVER), st.integers(0, FOREVER)),
        critical_options=options,
        extensions=options,
    )
    @modest
    def test_what_is_signed_is_read_back(
        self,
        key_type: bytes,
        ca_type: bytes,
        kind: CertificateKind,
        key_id: str,
        principals: list[str],
        serial: int,
        span: tuple[int, int],
        critical_options: dict[str, bytes],
        extensions: dict[str, bytes],
    ) -> None:
        """Every field, from the blob and from the line of a file."""
        valid_after, valid_before = min(span), max(span) + (span[0] == span[1])
        if valid_before > FOREVER:
            valid_after, valid_before = 0, FOREVER
        signed = sign_certificate(
            private_key(ca_type, "ca"),
            private_key(key_type).public,
            kind=kind,
            key_id=key_id,
            principals=principals,
            valid_after=valid_after,
            valid_before=valid_before,
            serial=serial,
            critical_options=critical_options.items(),
            extensions=extensions.items(),
        )
        line, comment = Certificate.from_openssh(signed.to_openssh("a comment") + "\n")
        self.assertEqual(comment, "a comment")
        for certificate in (Certificate.from_blob(signed.blob), line):
            self.assertEqual(certificate, signed)
            self.assertEqual(hash(certificate), hash(signed))
            self.assertEqual(certificate.key, private_key(key_type).public)
            self.assertEqual(certificate.ca_key, private_key(ca_type, "ca").public)
            self.assertIs(certificate.kind, kind)
            self.assertEqual(certificate.key_id, key_id)
            self.assertEqual(certificate.principals, tuple(principals))
            self.assertEqual(certificate.serial, serial)
            self.assertEqual(certificate.valid_after, valid_after)
            self.assertEqual(certificate.valid_before, valid_before)
            self.assertEqual(
                certificate.critical_options, tuple(sorted(critical_options.items()))
            )
            self.assertEqual(certificate.extensions, tuple(sorted(extensions.items())))

    def test_another_implementation_verifies_what_we_sign(self) -> None:
        """That of ``cryptography``, for each kind of key and of CA."""
        for key_type in KEY_TYPES:
            for ca_type in KEY_TYPES:
                certificate = sign(
                    private_key(ca_type, "ca"), private_key(key_type).public
                )
                other = load_ssh_public_identity(certificate.to_openssh().encode())
                assert isinstance(other, SSHCertificate)
                other.verify_cert_signature()
                self.assertEqual(other.valid_principals, [b"alice", b"ops"])

    def test_certificates_of_security_keys_are_read(self) -> None:
        """Both kinds, and a touched signature verifies with them."""
        for key_type in (SK_ED25519, SK_ECDSA_P256):
            key = SecurityKey(key_type)
            certificate = sign(key=key.public)
            self.assertEqual(certificate.key, key.public)
            (algorithm,) = certificate.signature_algorithms
            self.assertTrue(certificate.verify(key.sign(b"x"), b"x", algorithm))
            self.assertFalse(
                certificate.verify(key.sign(b"x", flags=0), b"x", algorithm)
            )

    def test_each_certificate_has_its_own_nonce(self) -> None:
        """Two of the same content are two."""
        self.assertNotEqual(sign(), sign())

    def test_other_types_are_refused_by_name(self) -> None:
        """Plain keys, retired types and noise."""
        for name in (b"ssh-ed25519", b"ssh-dss-cert-v01@openssh.com", b"\x1b[2J", b""):
            reason = self.refusal(RawCertificate(algorithm=name).blob())
            self.assertIn("not accepted", reason)
            self.assertNotIn("\x1b", reason)

    def test_a_certificate_over_64_kib_is_refused(self) -> None:
        """The limit is in bytes and is itself allowed."""
        room = MAX_CERTIFICATE_LENGTH - len(RawCertificate(key_id=b"").blob())
        Certificate.from_blob(RawCertificate(key_id=b"x" * room).blob())
        reason = self.refusal(RawCertificate(key_id=b"x" * (room + 1)).blob())
        self.assertIn(str(MAX_CERTIFICATE_LENGTH), reason)

    def test_more_than_256_principals_are_refused(self) -> None:
        """The limit is a number of principals and is itself allowed."""
        Certificate.from_blob(RawCertificate(principals=(b"a",) * 256).blob())
        reason = self.refusal(RawCertificate(principals=(b"a",) * 257).blob())
        self.assertIn(str(MAX_PRINCIPALS), reason)

    def test_bytes_behind_the_signature_are_refused(self) -> None:
        """Else what is not signed would be part of a certificate."""
        self.assertIn("too many", self.refusal(RawCertificate(trailer=b"\0").blob()))

    def test_a_certificate_in_place_of_its_ca_key_is_refused(self) -> None:
        """Certificates do not chain."""
        inner = RawCertificate().blob()
        reason = self.refusal(RawCertificate(ca_blob=inner).blob())
        self.assertIn("certificate where its CA key has to be plain", reason)

    def test_a_weak_or_unknown_ca_key_is_refused(self) -> None:
        """A CA key has to be a key that we accept."""
        numbers = rsa_key(1024).public_key().public_numbers()
        modulus = b"\0" + numbers.n.to_bytes(128, "big")
        weak = string(RSA) + string(b"\x01\x00\x01") + string(modulus)
        self.assertIn("1024 bits", self.refusal(RawCertificate(ca_blob=weak).blob()))
        dss = string(b"ssh-dss") + string(b"x")
        self.assertIn("ssh-dss", self.refusal(RawCertificate(ca_blob=dss).blob()))
        self.refusal(RawCertificate(ca_blob=b"").blob())

    def test_a_weak_certified_key_is_refused(self) -> None:
        """Its size is that of any other key."""
        numbers = rsa_key(1024).public_key().public_numbers()
        modulus = b"\0" + numbers.n.to_bytes(128, "big")
        fields = string(b"\x01\x00\x01") + string(modulus)
        raw = RawCertificate(
            algorithm=b"ssh-rsa-cert-v01@openssh.com", key_fields=fields
        )
        self.assertIn("1024 bits", self.refusal(raw.blob()))

    def test_a_kind_that_is_neither_user_nor_host_is_refused(self) -> None:
        """The draft knows two."""
        for kind in (0, 3, 2**32 - 1):
            self.assertIn(str(kind), self.refusal(RawCertificate(kind=kind).blob()))

    def test_text_with_nul_or_not_utf_8_is_refused(self) -> None:
        """In key id and principals, and no principal is empty."""
        for bad in (b"alice\0root", b"\xff"):
            self.refusal(RawCertificate(key_id=bad).blob())
            self.refusal(RawCertificate(principals=(b"alice", bad)).blob())
        self.refusal(RawCertificate(principals=(b"alice", b"")).blob())

    def test_options_repeated_or_out_of_order_are_refused(self) -> None:
        """The draft asks for the order of their names, and for each name once."""
        for bad in (
            option("b") + option("a"),
            option("a") + option("a"),
            option(""),
            string(b"\xff") + string(b""),
            option("a") + b"\0",
        ):
            self.refusal(RawCertificate(critical_options=bad).blob())
            self.refusal(RawCertificate(extensions=bad).blob())
        good = option("a", "1") + option("b")
        certificate = Certificate.from_blob(RawCertificate(extensions=good).blob())
        self.assertEqual(certificate.extensions, (("a", text("1")), ("b", b"")))

    def test_a_line_has_to_name_the_type_of_its_certificate(self) -> None:
        """The first word and the first field are the same."""
        _, word = sign().to_openssh().split()
        for line in (f"ssh-ed25519 {word}", f"{ED25519_CERT.decode()} !", "", "x"):
            with self.assertRaises(CertificateError):
                Certificate.from_openssh(line)

    def test_a_certificate_that_nobody_would_accept_is_not_signed(self) -> None:
        """No principals, no time, a serial or text out of bounds."""
        with self.assertRaises(CertificateError):
            sign(principals=())
        with self.assertRaises(CertificateError):
            sign(valid_before=NOW - 60)
        with self.assertRaises(CertificateError):
            sign(valid_before=FOREVER + 1)
        with self.assertRaises(CertificateError):
            sign(principals=("a\0b",))
        for serial in (-1, 2**64):
            with self.assertRaises(CertificateError):
                sign_certificate(
                    private_key(ED25519, "ca"),
                    private_key(ED25519).public,
                    kind=CertificateKind.USER,
                    key_id="alice",
                    principals=["alice"],
                    valid_after=NOW,
                    valid_before=FOREVER,
                    serial=serial,
                )

    def test_its_repr_is_one_line_without_the_blob(self) -> None:
        """Key ids are escaped, and the certificate is told by fingerprints."""
        raw = RawCertificate(key_id=b"al\nice\x1b[2J").blob()
        shown = repr(Certificate.from_blob(raw))
        self.assertTrue(shown.isprintable(), shown)
        self.assertIn(private_key(ED25519).public.fingerprint, shown)


class TamperingTests(SynchronousTestCase):
    """Bytes that the CA did not sign."""

    def believed(self, blob: bytes) -> bool:
        """Whether a blob is read and accepted in its role."""
        try:
            certificate = Certificate.from_blob(blob)
            certificate.check(
                kind=CertificateKind.USER,
                trusted={private_key(t, "ca").public for t in KEY_TYPES},
                now=NOW,
            )
        except CertificateError:
            return False
        return True

    def test_every_changed_byte_is_noticed(self) -> None:
        """Each offset, for each kind of CA."""
        for ca_type in KEY_TYPES:
            blob = sign(private_key(ca_type, "ca")).blob
            self.assertTrue(self.believed(blob))
            for offset in range(len(blob)):
                bad = bytearray(blob)
                bad[offset] ^= 1 << (offset % 8)
                self.assertFalse(self.believed(bytes(bad)), offset)

    @given(st.sampled_from(KEY_TYPES), st.data())
    @modest
    def test_bytes_cut_added_or_replaced_are_noticed(
        self, key_type: bytes, data: st.DataObject
    ) -> None:
        """Any slice replaced by any other bytes."""
        blob = _CERTIFICATES.setdefault(
            key_type, sign(key=private_key(key_type).public)
        ).blob
        start = data.draw(st.integers(0, len(blob)))
        end = data.draw(st.integers(start, min(len(blob), start + 40)))
        bad = blob[:start] + data.draw(st.binary(max_size=40)) + blob[end:]
        self.assertIs(self.believed(bad), bad == blob)

    @given(st.binary(max_size=400))
    @modest
    def test_random_bytes_raise_nothing_but_certificate_errors(
        self, data: bytes
    ) -> None:
        """Bare, and behind the name of each type."""
        for blob in (data, *(string(a) + data for a in CERTIFICATE_ALGORITHMS)):
            self.assertFalse(self.believed(blob))
        with contextlib.suppress(CertificateError):
            Certificate.from_openssh(data.decode("latin-1"))


_CERTIFICATES: dict[bytes, Certificate] = {}


class UseTests(SynchronousTestCase):
    """Signatures made with the certified key, as key exchange and login need them."""

    def test_rsa_certificates_are_used_with_sha_2(self) -> None:
        """By two algorithm names; the one for SHA-1 is not known."""
        key = private_key(RSA)
        certificate = sign(key=key.public)
        self.assertEqual(certificate.algorithm, b"ssh-rsa-cert-v01@openssh.com")
        self.assertEqual(
            certificate.signature_algorithms,
            (
                b"rsa-sha2-512-cert-v01@openssh.com",
                b"rsa-sha2-256-cert-v01@openssh.com",
            ),
        )
        for plain in (RSA_SHA512, RSA_SHA256):
            signature = key.sign(b"x", plain)
            for name, wanted in CERTIFICATE_ALGORITHMS.items():
                self.assertIs(
                    certificate.verify(signature, b"x", name), wanted == plain
                )
            for name in (certificate.algorithm, plain, b""):
                self.assertFalse(certificate.verify(signature, b"x", name))

    def test_a_named_algorithm_has_to_be_known_and_to_fit_the_blob(self) -> None:
        """As a peer sends both, the one for the other is refused."""
        plain, certified = private_key(RSA).public, sign(key=private_key(RSA).public)
        for algorithm in (RSA_SHA256, RSA_SHA512):
            self.assertEqual(parse_public_key(algorithm, plain.blob), plain)
        for algorithm in certified.signature_algorithms:
            self.assertEqual(parse_public_key(algorithm, certified.blob), certified)
        for algorithm, blob in (
            (RSA, plain.blob),
            (b"none", plain.blob),
            (ED25519, plain.blob),
            (RSA_SHA256, certified.blob),
            (certified.algorithm, certified.blob),
            (ED25519_CERT, certified.blob),
            (b"rsa-sha2-256-cert-v01@openssh.com", plain.blob),
            (b"rsa-sha2-256-cert-v01@openssh.com", sign().blob),
        ):
            with self.assertRaises((KeyFormatError, CertificateError)):
                parse_public_key(algorithm, blob)
