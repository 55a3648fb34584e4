"""Keys and signatures: which are taken, in which form, and what they verify."""

from __future__ import annotations

import base64
import contextlib
import time
import warnings

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import KeyFileError, KeyFormatError
from rtunnel.wire.data_types import Reader, mpint, string
from rtunnel.wire.keys import (
    ECDSA_P256,
    ED25519,
    MAX_PUBLIC_KEY_LENGTH,
    NEW_RSA_BITS,
    RSA,
    RSA_SHA256,
    RSA_SHA512,
    SK_ECDSA_P256,
    SK_ED25519,
    PrivateKey,
    PublicKey,
)
from rtunnel.wire.keys import KEY_TYPES as NAMED_KEY_TYPES
from tests.wire.examples import (
    KEY_TYPES,
    SecurityKey,
    openssh_file,
    private_key,
    rsa_key,
    rsa_sha1_signature,
)

modest = settings(deadline=None, max_examples=100)


def rsa_blob(exponent: int, modulus: int) -> bytes:
    """An RSA public key blob of any numbers."""
    return string(RSA) + mpint(exponent) + mpint(modulus)


class PublicKeyFormatTests(SynchronousTestCase):
    """A key has one accepted form."""

    def refusal(self, blob: bytes) -> str:
        """The reason for which a blob is refused."""
        return str(self.assertRaises(KeyFormatError, PublicKey.from_blob, blob))

    def test_every_kind_is_read_back_as_written(self) -> None:
        """Blob and line give the same key, equal and with the same hash."""
        keys = [private_key(key_type).public for key_type in KEY_TYPES]
        keys += [SecurityKey(SK_ED25519).public, SecurityKey(SK_ECDSA_P256).public]
        for key in keys:
            again = PublicKey.from_blob(key.blob)
            line, comment = PublicKey.from_openssh(key.to_openssh("me @ home") + "\n")
            self.assertEqual(again, key)
            self.assertEqual(line, key)
            self.assertEqual(len({key, again, line}), 1)
            self.assertEqual(comment, "me @ home")
        self.assertEqual(len(set(keys)), 5)

    def test_a_line_without_comment_has_an_empty_one(self) -> None:
        """The comment is never None."""
        key = private_key(ED25519).public
        self.assertEqual(PublicKey.from_openssh(key.to_openssh()), (key, ""))

    def test_other_key_types_are_refused_by_name(self) -> None:
        """The list of types is closed, and the refusal escapes what it quotes."""
        for name in (b"ssh-dss", b"ecdsa-sha2-nistp384", b"", b"\x1b[2J", b"a" * 64):
            self.assertIn("not accepted", self.refusal(string(name) + string(b"x")))
        self.assertNotIn("\x1b", self.refusal(string(b"\x1b[2J")))

    def test_a_certificate_is_not_a_key(self) -> None:
        """Certificate types are read elsewhere, never as plain keys."""
        blob = string(b"ssh-ed25519-cert-v01@openssh.com") + string(bytes(32))
        self.assertIn("not accepted", self.refusal(blob))

    def test_rsa_is_from_2048_to_8192_bits(self) -> None:
        """Both limits are allowed themselves; one bit beyond is not."""
        for bits, accepted in (
            (2047, False),
            (2048, True),
            (8192, True),
            (8193, False),
        ):
            blob = rsa_blob(65537, (1 << (bits - 1)) | 1)
            if accepted:
                self.assertEqual(PublicKey.from_blob(blob).algorithm, RSA)
            else:
                self.assertIn(f"{bits} bits", self.refusal(blob))

    def test_rsa_numbers_that_cannot_be_are_refused(self) -> None:
        """An even modulus, and exponents that are even, tiny or costly."""
        modulus = (1 << 2047) | 1
        self.refusal(rsa_blob(65537, modulus + 1))
        for exponent in (0, 1, 2, 65536, 2**31 + 1, modulus - 2):
            self.refusal(rsa_blob(exponent, modulus))
        PublicKey.from_blob(rsa_blob(2**31 - 1, modulus))

    def test_an_ecdsa_point_has_to_be_on_the_curve_and_uncompressed(self) -> None:
        """Other points and other curve names are refused."""
        good = private_key(ECDSA_P256).public.blob
        point = good[-65:]
        head = string(ECDSA_P256)
        compressed = bytes([2 + (point[-1] & 1)]) + point[1:33]
        for curve, bad, reason in (
            (b"nistp256", b"\x04" + bytes(64), "not on its curve"),
            (b"nistp256", compressed, "uncompressed"),
            (b"nistp256", b"\x00", "uncompressed"),
            (b"nistp256", b"", "uncompressed"),
            (b"nistp384", point, "another curve"),
        ):
            self.assertIn(reason, self.refusal(head + string(curve) + string(bad)))

    def test_a_key_longer_than_the_limit_is_refused_unread(self) -> None:
        """The limit is in bytes of blob."""
        blob = string(ED25519) + bytes(MAX_PUBLIC_KEY_LENGTH)
        self.assertIn(str(MAX_PUBLIC_KEY_LENGTH), self.refusal(blob))

    def test_bytes_behind_a_key_are_refused(self) -> None:
        """Else one key had many fingerprints."""
        for key_type in KEY_TYPES:
            reason = self.refusal(private_key(key_type).public.blob + b"\x00")
            self.assertIn("1 byte too many", reason)

    def test_a_number_with_needless_zeros_is_refused(self) -> None:
        """The same numbers in another form would give another fingerprint."""
        modulus = (1 << 2047) | 1
        padded = string(b"\x00\x00" + modulus.to_bytes(256, "big"))
        reason = self.refusal(string(RSA) + mpint(65537) + padded)
        self.assertIn("canonical", reason)

    def test_a_line_has_to_name_the_type_of_its_key(self) -> None:
        """The first word and the first field are the same."""
        word = base64.b64encode(private_key(ED25519).public.blob).decode()
        for line in (
            f"ssh-rsa {word}",
            f"ssh-dss {word}",
            "ssh-ed25519",
            "",
            f"ssh-ed25519 {word[:-2]}!!",
            f"ssh-ed25519 {word[:-1]}",
            "ssh-ed25519 \u2603",
            f"ssh-ed25519 {word} a\nssh-ed25519 {word} b",
        ):
            with self.assertRaises(KeyFormatError):
                PublicKey.from_openssh(line)

    def test_a_comment_of_two_lines_is_never_written(self) -> None:
        """It would be a second line of authorized_keys."""
        with self.assertRaises(ValueError):
            private_key(ED25519).public.to_openssh("a\nssh-ed25519 AAAA b")

    @given(st.binary(max_size=200))
    @modest
    def test_random_bytes_raise_nothing_but_format_errors(self, data: bytes) -> None:
        """Bare, and behind the name of each accepted type."""
        for blob in (data, *(string(t) + data for t in (*KEY_TYPES, SK_ECDSA_P256))):
            with contextlib.suppress(KeyFormatError):
                PublicKey.from_blob(blob)

    @given(st.data())
    @modest
    def test_a_changed_key_is_another_key_or_none(self, data: st.DataObject) -> None:
        """One byte changed: refused, or unequal, or longer or shorter: refused."""
        key = private_key(data.draw(st.sampled_from(KEY_TYPES))).public
        blob = bytearray(key.blob)
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
        with contextlib.suppress(KeyFormatError):
            self.assertNotEqual(PublicKey.from_blob(bytes(blob)), key)

    @given(st.text(max_size=80))
    @example("ssh-ed25519 A")
    @modest
    def test_random_lines_raise_nothing_but_format_errors(self, line: str) -> None:
        """A line may be any text."""
        with self.assertRaises(KeyFormatError):
            PublicKey.from_openssh(line)


class SignatureTests(SynchronousTestCase):
    """What verifies, and what does not."""

    def test_every_key_verifies_what_it_signed_with_each_algorithm(self) -> None:
        """And nothing else: other data, other key, other algorithm."""
        for key_type in KEY_TYPES:
            key = private_key(key_type)
            for algorithm in key.public.signature_algorithms:
                signature = key.sign(b"data", algorithm)
                self.assertEqual(Reader(signature).string(), algorithm)
                self.assertTrue(key.public.verify(signature, b"data", algorithm))
                self.assertFalse(key.public.verify(signature, b"Data", algorithm))
                for other in KEY_TYPES:
                    if other != key_type:
                        stranger = private_key(other).public
                        self.assertFalse(stranger.verify(signature, b"data", algorithm))

    def test_rsa_signs_with_sha_2_only(self) -> None:
        """A good signature by SHA-1 does not verify, whatever is asked for."""
        key = private_key(RSA).public
        self.assertEqual(key.signature_algorithms, (RSA_SHA512, RSA_SHA256))
        signature = rsa_sha1_signature(rsa_key(), b"data")
        for algorithm in (RSA, RSA_SHA256, RSA_SHA512):
            self.assertFalse(key.verify(signature, b"data", algorithm))
        with self.assertRaises(ValueError):
            private_key(RSA).sign(b"data", RSA)

    def test_the_signature_has_to_name_what_was_agreed_on(self) -> None:
        """A good signature by the other algorithm of the same key is refused."""
        key = private_key(RSA)
        signature = key.sign(b"data", RSA_SHA256)
        self.assertTrue(key.public.verify(signature, b"data", RSA_SHA256))
        self.assertFalse(key.public.verify(signature, b"data", RSA_SHA512))

    def test_an_rsa_signature_may_come_without_leading_zeros(self) -> None:
        """RFC 4253 section 6.6: the number is "without lengths or padding"."""
        key = private_key(RSA)
        for attempt in range(10_000):
            data = b"%d" % attempt
            reader = Reader(key.sign(data, RSA_SHA256))
            reader.string()
            proof = reader.string()
            if proof[0] == 0:
                break
        short = string(RSA_SHA256) + string(proof.lstrip(b"\0"))
        self.assertTrue(key.public.verify(short, data, RSA_SHA256))

    def test_a_longer_rsa_signature_is_refused(self) -> None:
        """Zeros in front of a full one are not the signature that was made."""
        key = private_key(RSA)
        reader = Reader(key.sign(b"data"))
        reader.string()
        longer = string(RSA_SHA512) + string(b"\0" + reader.string())
        self.assertFalse(key.public.verify(longer, b"data", RSA_SHA512))

    def test_ecdsa_numbers_with_needless_zeros_are_refused(self) -> None:
        """One signature, one form."""
        key = private_key(ECDSA_P256)
        reader = Reader(key.sign(b"data"))
        reader.string()
        numbers = Reader(reader.string())
        r, s = numbers.mpint(), numbers.mpint()
        padded = string(b"\0\0" + r.to_bytes(31 + (r >> 248 > 0), "big"))
        for proof in (padded + mpint(s), mpint(r) + mpint(s) + b"\0", mpint(r)):
            signature = string(ECDSA_P256) + string(proof)
            self.assertFalse(key.public.verify(signature, b"data", ECDSA_P256))
        good = string(ECDSA_P256) + string(mpint(r) + mpint(s))
        self.assertTrue(key.public.verify(good, b"data", ECDSA_P256))

    def test_ecdsa_numbers_of_zero_or_beyond_the_order_are_refused(self) -> None:
        """The verdict is no, not an exception."""
        key = private_key(ECDSA_P256).public
        for number in (0, 1, 2**256 - 1, 2**256, 2**263 - 1, 2**512):
            signature = string(ECDSA_P256) + string(mpint(number) * 2)
            self.assertFalse(key.verify(signature, b"data", ECDSA_P256))

    def test_a_security_key_has_to_be_touched(self) -> None:
        """A signature without the user-presence flag is refused, other flags or not."""
        for key_type in (SK_ED25519, SK_ECDSA_P256):
            key = SecurityKey(key_type)
            for flags, accepted in ((1, True), (5, True), (0, False), (4, False)):
                signature = key.sign(b"data", flags)
                self.assertIs(
                    key.public.verify(signature, b"data", key_type), accepted, flags
                )

    def test_flags_and_counter_of_a_security_key_are_signed(self) -> None:
        """A flag set afterwards does not help, and nothing may follow the counter."""
        for key_type in (SK_ED25519, SK_ECDSA_P256):
            key = SecurityKey(key_type)
            untouched = key.sign(b"data", flags=0)
            forged = untouched[:-5] + b"\x01" + untouched[-4:]
            self.assertFalse(key.public.verify(forged, b"data", key_type))
            touched = key.sign(b"data")
            for bad in (touched + b"\0", touched[:-1], touched[:-5]):
                self.assertFalse(key.public.verify(bad, b"data", key_type))

    def test_a_security_key_signs_for_its_application(self) -> None:
        """The application string is part of the key."""
        key = SecurityKey(SK_ED25519, b"ssh:work")
        other = PublicKey.from_blob(key.public.blob[:-12] + string(b"ssh:home"))
        signature = key.sign(b"data")
        self.assertTrue(key.public.verify(signature, b"data", SK_ED25519))
        self.assertFalse(other.verify(signature, b"data", SK_ED25519))

    def test_every_changed_byte_of_a_signature_spoils_it(self) -> None:
        """Each offset of each kind of signature."""
        for key_type in KEY_TYPES:
            key = private_key(key_type)
            signature = key.sign(b"data")
            algorithm = key.public.signature_algorithms[0]
            for offset in range(len(signature)):
                bad = bytearray(signature)
                bad[offset] ^= 1 << (offset % 8)
                self.assertFalse(key.public.verify(bytes(bad), b"data", algorithm))

    @given(st.sampled_from(KEY_TYPES), st.binary(max_size=300), st.binary(max_size=40))
    @modest
    def test_random_signatures_never_verify_and_never_raise(
        self, key_type: bytes, data: bytes, tail: bytes
    ) -> None:
        """Bare, and in the frame that a signature has."""
        key = private_key(key_type).public
        for algorithm in (*key.signature_algorithms, b"", b"none"):
            for signature in (
                data,
                string(algorithm) + data,
                string(algorithm) + string(data),
                string(algorithm) + string(string(data) + string(tail)),
            ):
                self.assertFalse(key.verify(signature, tail, algorithm))


class PrivateKeyTests(SynchronousTestCase):
    """Private key files, and what is never shown."""

    def refusal(self, data: bytes) -> str:
        """The reason for which a file is refused."""
        return str(self.assertRaises(KeyFileError, PrivateKey.from_openssh, data))

    def test_a_written_key_is_read_back(self) -> None:
        """And signs for the same public key."""
        for key_type in KEY_TYPES:
            key = private_key(key_type)
            again = PrivateKey.from_openssh(key.to_openssh())
            self.assertEqual(again.public, key.public)
            algorithm = key.public.signature_algorithms[0]
            self.assertTrue(key.public.verify(again.sign(b"x"), b"x", algorithm))

    def test_two_generated_keys_differ(self) -> None:
        """A new key is Ed25519 and new."""
        one, two = PrivateKey.generate(), PrivateKey.generate()
        self.assertNotEqual(one.public, two.public)
        self.assertEqual(one.public.algorithm, ED25519)

    def test_every_type_can_be_made(self) -> None:
        """By the names of ``ssh-keygen``, RSA of as many bits as there; no other."""
        for key_type in NAMED_KEY_TYPES.values():
            key = PrivateKey.generate(key_type)
            self.assertEqual(key.public.algorithm, key_type)
            self.assertEqual(
                PrivateKey.from_openssh(key.to_openssh()).public, key.public
            )
        self.assertEqual(set(NAMED_KEY_TYPES), {"ed25519", "ecdsa", "rsa"})
        reader = Reader(PrivateKey.generate(RSA).public.blob)
        self.assertEqual(reader.string(), RSA)
        self.assertEqual(reader.mpint(8), 65537)
        self.assertEqual(reader.mpint(1024).bit_length(), NEW_RSA_BITS)
        for other in (b"ssh-dss", SK_ED25519, RSA_SHA512):
            with self.assertRaisesRegex(ValueError, "are not made here"):
                PrivateKey.generate(other)

    def test_an_encrypted_file_is_refused_with_what_to_do(self) -> None:
        """We cannot ask for a passphrase."""
        encrypted = rsa_key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.BestAvailableEncryption(b"secret"),
        )
        self.assertIn("passphrase", self.refusal(encrypted))

    def test_keys_that_we_do_not_take_are_refused_as_private_keys_too(self) -> None:
        """Weak RSA and other curves, with the reason."""
        self.assertIn("1024 bits", self.refusal(openssh_file(rsa_key(1024))))
        p384 = ec.generate_private_key(ec.SECP384R1())
        self.assertIn("nistp256", self.refusal(openssh_file(p384)))

    def test_other_files_are_refused(self) -> None:
        """A public key, an empty file, a cut one."""
        key = private_key(ED25519)
        for data in (b"", key.public.to_openssh().encode(), key.to_openssh()[:100]):
            self.refusal(data)

    def test_a_file_with_a_compressed_point_is_refused(self) -> None:
        """OpenSSH never wrote one, and no reader of ours takes it."""
        lines = private_key(ECDSA_P256).to_openssh().splitlines()
        body = base64.b64decode(b"".join(lines[1:-1]))
        body = body.replace(b"\0\0\0\x41\x04", b"\0\0\0\x41\x02")
        self.refusal(b"\n".join((lines[0], base64.b64encode(body), lines[-1], b"")))

    def test_the_private_half_is_not_printed(self) -> None:
        """What a traceback or a log shows is the public fingerprint."""
        key = private_key(ED25519)
        self.assertEqual(repr(key), f"<PrivateKey of {key.public!r}>")

    def test_an_rsa_key_whose_numbers_do_not_agree_is_refused(self) -> None:
        """Each of them is held against the others, and the whole signs once."""
        key = rsa_key()
        numbers = key.private_numbers()
        lines = openssh_file(key).splitlines()
        body = base64.b64decode(b"".join(lines[1:-1]))
        for number in (numbers.d, numbers.iqmp, numbers.p, numbers.q):
            for change in (1, 2, 2**64):
                wrong = body.replace(mpint(number), mpint(number ^ change))
                self.assertNotEqual(wrong, body)
                file = (lines[0], base64.b64encode(wrong), lines[-1], b"")
                self.refusal(b"\n".join(file))

    def test_reading_an_rsa_key_holds_nothing_up(self) -> None:
        """A proxy or an agent does so while it runs: 50 ms of computing at the most."""
        file = openssh_file(rsa_key())
        took = []
        for _ in range(5):
            before = time.thread_time()
            PrivateKey.from_openssh(file)
            took.append(time.thread_time() - before)
        self.assertLess(min(took), 0.05)

    @given(st.data())
    @modest
    def test_damaged_files_raise_nothing_but_key_file_errors(
        self, data: st.DataObject
    ) -> None:
        """One byte of the decoded file changed: read, or refused in a sentence."""
        key = private_key(data.draw(st.sampled_from(KEY_TYPES)))
        lines = key.to_openssh().splitlines()
        body = bytearray(base64.b64decode(b"".join(lines[1:-1])))
        body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
        damaged = b"\n".join((lines[0], base64.b64encode(body), lines[-1], b""))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(KeyFileError):
                PrivateKey.from_openssh(damaged)
