"""Key revocation lists: those that ssh-keygen makes, and those that nobody should."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import RevocationListError
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import string, text, uint32, uint64
from rtunnel.wire.keys import ECDSA_P256, ED25519, RSA
from rtunnel.wire.krl import (
    MAX_BITMAP_LENGTH,
    MAX_KRL_LENGTH,
    KeyRevocationList,
    SerialBitmap,
    SerialRanges,
)
from tests.wire.examples import (
    KEY_TYPES,
    RawCertificate,
    private_key,
    ssh_keygen,
)

HEADER = (b"SSHKRL\n\0" + uint32(1) + uint64(7) + uint64(1_800_000_000) + uint64(0)) + (
    string(b"") + text("a comment")
)

CA = private_key(ED25519, "ca")
OTHER_CA = private_key(ED25519, "other ca")
USER = private_key(ED25519)


def section(kind: int, content: bytes) -> bytes:
    """One section, of a list or of a section about certificates."""
    return bytes([kind]) + string(content)


def about_certificates(*sections: bytes, ca: bytes = CA.public.blob) -> bytes:
    """A section about certificates."""
    return section(1, string(ca) + string(b"") + b"".join(sections))


def read(*sections: bytes) -> KeyRevocationList:
    """A list of these sections."""
    return KeyRevocationList.from_bytes(HEADER + b"".join(sections))


def certificate(
    serial: int = 42, key_id: bytes = b"alice", ca: bytes = CA.public.blob
) -> Certificate:
    """A certificate; its signature plays no part here."""
    return Certificate.from_blob(
        RawCertificate(serial=serial, key_id=key_id, ca_blob=ca).blob()
    )


class KeyRevocationListTests(SynchronousTestCase):
    """What a list says, section by section."""

    def assert_refused(self, reason: str, data: bytes) -> None:
        """The list is refused as a whole, for this reason."""
        error = self.assertRaises(
            RevocationListError, KeyRevocationList.from_bytes, data
        )
        self.assertIn(reason, str(error))

    def revoked_serials(self, *sections: bytes) -> set[int]:
        """Which of some serial numbers of our authority are revoked."""
        krl = read(about_certificates(*sections))
        return {
            serial
            for serial in (0, 1, 2, 7, 8, 9, 15, 16, 17, 255, 256, 2**63, 2**64 - 1)
            if krl.certificate_reason(certificate(serial))
        }

    def test_empty_list_revokes_nothing(self) -> None:
        """It is a list all the same, with number, time and comment."""
        krl = read()
        self.assertEqual((krl.version, krl.comment), (7, "a comment"))
        self.assertEqual(krl.generated, 1_800_000_000)
        self.assertIsNone(krl.certificate_reason(certificate()))
        self.assertFalse(krl.key_is_revoked(USER.public.blob))

    def test_serials_are_listed_one_by_one(self) -> None:
        """In any order, more than once."""
        listed = section(0x20, uint64(16) + uint64(7) + uint64(2**64 - 1) + uint64(7))
        self.assertEqual(self.revoked_serials(listed), {7, 16, 2**64 - 1})

    def test_both_ends_of_a_range_are_revoked(self) -> None:
        """And nothing beside it."""
        listed = section(0x21, uint64(8) + uint64(16))
        self.assertEqual(self.revoked_serials(listed), {8, 9, 15, 16})

    def test_bitmap_counts_from_its_offset(self) -> None:
        """Its lowest bit is in its last byte; its first bit may be set."""
        listed = section(0x22, uint64(8) + string(b"\0\x81\x83"))
        self.assertEqual(self.revoked_serials(listed), {8, 9, 15, 16})

    def test_empty_bitmap_revokes_nothing(self) -> None:
        """Whatever its offset."""
        listed = section(0x22, uint64(2**64 - 1) + string(b"\0\0"))
        self.assertEqual(self.revoked_serials(listed), set())

    def test_serials_are_those_of_one_authority(self) -> None:
        """The same number of another one is another certificate."""
        listed = section(0x20, uint64(42))
        other = certificate(ca=OTHER_CA.public.blob)
        self.assertIsNone(read(about_certificates(listed)).certificate_reason(other))
        everywhere = read(about_certificates(listed, ca=b""))
        self.assertEqual(everywhere.certificate_reason(other), "serial 42")

    def test_key_ids_are_compared_as_a_whole(self) -> None:
        """With upper and lower case."""
        krl = read(about_certificates(section(0x23, text("alice") + text("böb"))))
        self.assertEqual(krl.certificate_reason(certificate()), "key id 'alice'")
        self.assertIsNotNone(krl.certificate_reason(certificate(key_id="böb".encode())))
        for other in (b"alic", b"alicea", b"Alice", b""):
            self.assertIsNone(krl.certificate_reason(certificate(key_id=other)))

    def test_empty_key_id_revokes_nothing(self) -> None:
        """As for OpenSSH: it is no name of anything."""
        krl = read(about_certificates(section(0x23, text(""))))
        self.assertIsNone(krl.certificate_reason(certificate(key_id=b"")))

    def test_keys_are_listed_whole_or_by_hash(self) -> None:
        """A certificate for such a key is revoked as well."""
        blob = USER.public.blob
        for listed in (
            section(2, string(OTHER_CA.public.blob) + string(blob)),
            section(3, string(hashlib.sha1(blob).digest())),
            section(5, string(hashlib.sha256(blob).digest())),
        ):
            krl = read(listed)
            self.assertTrue(krl.key_is_revoked(blob))
            self.assertFalse(krl.key_is_revoked(CA.public.blob))
            reason = krl.certificate_reason(certificate())
            self.assertEqual(reason, f"key {USER.public.fingerprint}")

    def test_revoked_authority_revokes_all_that_it_signed(self) -> None:
        """Go's x/crypto/ssh did not look at it (CVE-2026-42508)."""
        krl = read(section(5, string(hashlib.sha256(CA.public.blob).digest())))
        reason = krl.certificate_reason(certificate())
        self.assertEqual(reason, f"the authority's key {CA.public.fingerprint}")
        other = certificate(ca=OTHER_CA.public.blob)
        self.assertIsNone(krl.certificate_reason(other))

    def test_signatures_are_passed_over(self) -> None:
        """OpenSSH ignores them too, wherever they are."""
        signature = section(4, CA.public.blob) + string(b"whatever")
        krl = read(signature, section(2, string(USER.public.blob)), signature)
        self.assertTrue(krl.key_is_revoked(USER.public.blob))

    def test_extension_that_is_not_critical_is_passed_over(self) -> None:
        """Both of the list and of a section about certificates."""
        harmless = text("a@example.com") + b"\0" + string(b"content")
        krl = read(
            section(255, harmless),
            about_certificates(section(0x39, harmless), section(0x20, uint64(42))),
        )
        self.assertEqual(krl.certificate_reason(certificate()), "serial 42")

    def test_critical_extension_is_refused(self) -> None:
        """It may be what revokes."""
        critical = text("a@example.com") + b"\1" + string(b"content")
        for each in (
            section(255, critical),
            about_certificates(section(0x39, critical)),
        ):
            self.assert_refused("critical extension 'a@example.com'", HEADER + each)

    def test_unknown_sections_are_refused(self) -> None:
        """For the same reason."""
        for kind in (0, 6, 254):
            self.assert_refused("section of type", HEADER + section(kind, b""))
        for kind in (0, 1, 0x24, 0x38, 255):
            self.assert_refused(
                "certificates of type", HEADER + about_certificates(section(kind, b""))
            )

    def test_malformed_lists_are_refused(self) -> None:
        """Each for what is wrong with it."""
        for reason, broken in (
            ("shorter than", section(5, string(b"x" * 32))[:-1]),
            ("hash of 31 bytes", section(5, string(b"x" * 31))),
            ("hash of 32 bytes", section(3, string(b"x" * 32))),
            ("half a serial", about_certificates(section(0x20, b"x" * 12))),
            (
                "from 9 down to 8",
                about_certificates(section(0x21, uint64(9) + uint64(8))),
            ),
            ("too many", about_certificates(section(0x21, uint64(8) * 3))),
            ("serial number 0", about_certificates(section(0x20, uint64(0)))),
            ("serial number 0", about_certificates(section(0x21, uint64(0) * 2))),
            (
                "serial number 0",
                about_certificates(section(0x22, uint64(0) + string(b"\1"))),
            ),
            (
                "more than 64 bits",
                about_certificates(section(0x22, uint64(2**64 - 1) + string(b"\2"))),
            ),
            (
                "the limit",
                about_certificates(
                    section(0x22, uint64(1) + string(b"\1" * (MAX_BITMAP_LENGTH + 1)))
                ),
            ),
            ("NUL", about_certificates(section(0x23, text("a\0b")))),
            ("too many", section(255, text("a") + b"\0" + string(b"") + b"x")),
            ("shorter than", section(4, b"key")),
        ):
            self.assert_refused(reason, HEADER + broken)

    def test_what_is_no_list_is_refused(self) -> None:
        """With a word on how to make one."""
        self.assert_refused("ssh-keygen -k", b"")
        self.assert_refused("ssh-keygen -k", USER.public.to_openssh().encode())
        self.assert_refused("version 2", HEADER.replace(uint32(1), uint32(2), 1))

    def test_list_is_bounded(self) -> None:
        """A longer one is not even looked at; the longest is read in no time."""
        self.assert_refused("is the limit", HEADER.ljust(MAX_KRL_LENGTH + 1, b"\0"))
        room = MAX_KRL_LENGTH - len(HEADER) - 200
        serials = b"".join(uint64(2 * n + 1) for n in range(room // 8))
        krl = read(about_certificates(section(0x20, serials)))
        self.assertIsNotNone(krl.certificate_reason(certificate(room // 8 | 1)))
        self.assertIsNone(krl.certificate_reason(certificate(2)))


class SerialTests(SynchronousTestCase):
    """Sets of serial numbers."""

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9))),
        st.integers(0, 80),
    )
    def test_ranges_hold_what_any_of_them_holds(
        self, ranges: list[tuple[int, int]], serial: int
    ) -> None:
        """Whatever their order, and however they overlap."""
        both_ends = [(low, low + more) for low, more in ranges]
        expected = any(low <= serial <= high for low, high in both_ends)
        self.assertEqual(serial in SerialRanges.of(both_ends), expected)

    @settings(deadline=None, max_examples=200)
    @given(st.integers(0, 99), st.sets(st.integers(0, 99)), st.integers(0, 250))
    def test_bitmap_holds_the_bits_that_are_set(
        self, offset: int, places: set[int], serial: int
    ) -> None:
        """And nothing before or behind them."""
        bits = sum(1 << place for place in places).to_bytes(13, "big")
        expected = serial - offset in places
        self.assertEqual(serial in SerialBitmap(offset, bits), expected)


class ArbitraryBytesTests(SynchronousTestCase):
    """Files that anything has happened to."""

    sound = HEADER + b"".join(
        (
            about_certificates(
                section(0x20, uint64(3) + uint64(5)),
                section(0x21, uint64(8) + uint64(16)),
                section(0x22, uint64(8) + string(b"\0\x81\x83")),
                section(0x23, text("alice")),
                section(0x39, text("a") + b"\0" + string(b"")),
            ),
            section(2, string(CA.public.blob)),
            section(3, string(b"s" * 20)),
            section(5, string(b"S" * 32)),
            section(255, text("a") + b"\0" + string(b"")),
            section(4, CA.public.blob) + string(b"signature"),
        )
    )

    def read(self, data: bytes) -> None:
        """Read it, or refuse it."""
        try:
            krl = KeyRevocationList.from_bytes(data)
        except RevocationListError:
            return
        krl.certificate_reason(certificate())
        krl.key_is_revoked(USER.public.blob)

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=200))
    def test_any_sections_are_read_or_refused(self, data: bytes) -> None:
        """No other error comes of them."""
        self.read(HEADER + data)

    @settings(deadline=None, max_examples=200)
    @given(
        st.integers(0, len(sound) - 1), st.integers(0, 255), st.integers(0, len(sound))
    )
    def test_any_damage_is_read_or_refused(
        self, place: int, byte: int, length: int
    ) -> None:
        """One byte is another, or the end is missing."""
        damaged = bytearray(self.sound)
        damaged[place] = byte
        self.read(bytes(damaged))
        self.read(self.sound[:length])


class OpenSSHVerdictTests(SynchronousTestCase):
    """Lists that ``ssh-keygen -k`` makes, and what ``ssh-keygen -Q`` says of them."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        for name, key in (
            ("ca", private_key(ED25519, "ca")),
            ("other-ca", private_key(ED25519, "other ca")),
            *((t.decode(), private_key(t)) for t in KEY_TYPES),
        ):
            path = self.directory / name
            path.write_bytes(key.to_openssh())
            path.chmod(0o600)
            self.public(name).write_text(key.public.to_openssh(name) + "\n")
        self.certificates = {
            f"{ca}-{serial}-{key_id}": self.signed(ca, serial, key_id)
            for ca in ("ca", "other-ca")
            for serial, key_id in ((0, "alice"), (1, "bob"), (42, "bob"), (43, "carol"))
        }

    def public(self, name: str) -> Path:
        """The file of a public key."""
        return self.directory / f"{name}.pub"

    def signed(self, ca: str, serial: int, key_id: str) -> Path:
        """A certificate that ssh-keygen makes, of an ECDSA key."""
        key = self.public(ECDSA_P256.decode())
        code, output = ssh_keygen(
            *("-q", "-s", self.directory / ca, "-I", key_id, "-n", key_id),
            *("-z", str(serial), key),
        )
        self.assertEqual((code, output), (0, ""))
        made = self.directory / f"{ECDSA_P256.decode()}-cert.pub"
        return made.rename(self.directory / f"{ca}-{serial}-{key_id}-cert.pub")

    def make(self, specification: str, *arguments: str | Path) -> Path:
        """A list that ssh-keygen makes of a specification."""
        path = self.directory / "krl"
        path.unlink(missing_ok=True)
        lines = self.directory / "specification"
        lines.write_text(specification)
        code, output = ssh_keygen("-q", "-k", "-f", path, *arguments, lines)
        self.assertEqual((code, output), (0, ""))
        return path

    def assert_agreed(self, path: Path, revoked: Iterable[str]) -> None:
        """We say of every key and certificate what ssh-keygen says, which is this."""
        krl = KeyRevocationList.from_bytes(path.read_bytes())
        verdicts = {}
        for key_type in KEY_TYPES:
            name = key_type.decode()
            blob = private_key(key_type).public.blob
            verdicts[name] = (self.public(name), krl.key_is_revoked(blob))
        for name, file in self.certificates.items():
            read, _ = Certificate.from_openssh(file.read_text().strip())
            verdicts[name] = (file, krl.certificate_reason(read) is not None)
        for name, (file, ours) in verdicts.items():
            code, output = ssh_keygen("-Q", "-f", path, file)
            self.assertIn("REVOKED" if code else "ok", output)
            self.assertEqual(ours, code != 0, (name, output))
        self.assertEqual(
            {name for name, (_, ours) in verdicts.items() if ours}, set(revoked)
        )

    def test_serials(self) -> None:
        """One, and a range, of one authority and of all."""
        ca = ("-s", self.public("ca"))
        path = self.make("serial: 42\n", *ca)
        self.assert_agreed(path, ["ca-42-bob"])
        self.assert_agreed(
            self.make("serial: 2-1000000\n", *ca), ["ca-42-bob", "ca-43-carol"]
        )
        self.assert_agreed(
            self.make("serial: 1\nserial: 43\n", "-s", "none"),
            ["ca-1-bob", "ca-43-carol", "other-ca-1-bob", "other-ca-43-carol"],
        )

    def test_serials_in_a_bitmap(self) -> None:
        """Which ssh-keygen makes of numbers that lie close together."""
        numbers = "".join(f"serial: {n}\n" for n in range(1, 200, 3))
        path = self.make(numbers, "-s", self.public("ca"))
        self.assertIn(b"\x22", path.read_bytes())
        self.assertTrue(
            any(
                isinstance(each, SerialBitmap)
                for about in KeyRevocationList.from_bytes(
                    path.read_bytes()
                ).certificates
                for each in about.serials
            )
        )
        self.assert_agreed(path, ["ca-1-bob", "ca-43-carol"])

    def test_key_ids(self) -> None:
        """Of one authority and of all."""
        self.assert_agreed(
            self.make("id: bob\n", "-s", self.public("other-ca")),
            ["other-ca-1-bob", "other-ca-42-bob"],
        )
        self.assert_agreed(
            self.make("id: alice\n", "-s", "none"), ["ca-0-alice", "other-ca-0-alice"]
        )

    def test_keys(self) -> None:
        """Whole, by SHA-1 and by SHA-256; certificates for them too."""
        line = private_key(ECDSA_P256).public.to_openssh()
        ours = [ECDSA_P256.decode(), *self.certificates]
        for form in ("key", "sha1", "sha256"):
            self.assert_agreed(self.make(f"{form}: {line}\n"), ours)
        digest = private_key(RSA).public.fingerprint
        self.assert_agreed(self.make(f"hash: {digest}\n"), [RSA.decode()])

    def test_authority(self) -> None:
        """All that it signed, and nothing else."""
        line = CA.public.to_openssh()
        signed = [name for name in self.certificates if name.startswith("ca-")]
        for form in ("key", "sha1", "sha256"):
            self.assert_agreed(self.make(f"{form}: {line}\n"), signed)

    def test_certificate_in_the_specification(self) -> None:
        """Revoked by its serial, or by its key id when it has none."""
        for name, revoked in (
            ("ca-43-carol", ["ca-43-carol"]),
            ("other-ca-0-alice", ["other-ca-0-alice"]),
        ):
            path = self.directory / "krl"
            path.unlink(missing_ok=True)
            code, output = ssh_keygen("-q", "-k", "-f", path, self.certificates[name])
            self.assertEqual((code, output), (0, ""))
            self.assert_agreed(path, revoked)

    def test_list_that_was_updated(self) -> None:
        """``ssh-keygen -k -u`` adds to what is there."""
        path = self.make("serial: 42\nserial: 43\n", "-s", self.public("ca"))
        lines = self.directory / "more"
        lines.write_text("id: alice\n")
        code, output = ssh_keygen(
            "-q", "-k", "-u", "-z", "9", "-s", "none", "-f", path, lines
        )
        self.assertEqual((code, output), (0, ""))
        self.assertEqual(KeyRevocationList.from_bytes(path.read_bytes()).version, 9)
        self.assert_agreed(
            path, ["ca-42-bob", "ca-43-carol", "ca-0-alice", "other-ca-0-alice"]
        )
