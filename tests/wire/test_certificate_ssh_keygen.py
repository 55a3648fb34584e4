"""Tests for :mod:`rtunnel.wire.certificate`, with the real ssh-keygen."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import CertificateError
from rtunnel.wire.certificate import (
    FOREVER,
    Certificate,
    CertificateKind,
    sign_certificate,
)
from rtunnel.wire.data_types import text
from rtunnel.wire.keys import ECDSA_P256, ED25519
from tests.wire.examples import KEY_TYPES, NOW, private_key, require_program, ssh_keygen


class SshKeygenTests(SynchronousTestCase):
    """Certificates that the real ssh-keygen makes, and ours in its hands."""

    def setUp(self) -> None:
        require_program("ssh-keygen")
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        for key_type in KEY_TYPES:
            for name in ("ca", ""):
                path = self.key_path(key_type, name)
                key = private_key(key_type, name)
                path.write_bytes(key.to_openssh())
                path.chmod(0o600)
                path.with_suffix(".pub").write_text(key.public.to_openssh("c") + "\n")

    def key_path(self, key_type: bytes, name: str = "") -> Path:
        """Where the private key of an example is."""
        return self.directory / f"{name or 'user'}-{key_type.decode()}"

    def signed(
        self, *arguments: str, key_type: bytes = ED25519, ca_type: bytes = ED25519
    ) -> Certificate:
        """What ``ssh-keygen -s`` makes of an example key."""
        path = self.key_path(key_type)
        ca_path = self.key_path(ca_type, "ca")
        code, output = ssh_keygen(
            "-q", "-s", ca_path, "-I", "alice", *arguments, path.with_suffix(".pub")
        )
        self.assertEqual(code, 0, output)
        line = path.with_name(path.name + "-cert.pub").read_text("ascii")
        certificate, comment = Certificate.from_openssh(line)
        self.assertEqual(comment, "c")
        return certificate

    def test_its_certificates_are_read_field_by_field(self) -> None:
        """User and host certificates for every kind of key and CA."""
        for key_type in KEY_TYPES:
            for ca_type in KEY_TYPES:
                for host in ((), ("-h",)):
                    certificate = self.signed(
                        *host,
                        *("-n", "alice,ops", "-z", "4711"),
                        *("-V", "20260101000000Z:20300101000000Z"),
                        key_type=key_type,
                        ca_type=ca_type,
                    )
                    kind = CertificateKind.HOST if host else CertificateKind.USER
                    self.assertEqual(certificate.key, private_key(key_type).public)
                    self.assertEqual(certificate.key_id, "alice")
                    self.assertEqual(certificate.principals, ("alice", "ops"))
                    self.assertEqual(certificate.serial, 4711)
                    self.assertEqual(certificate.valid_after, 1_767_225_600)
                    self.assertEqual(certificate.valid_before, 1_893_456_000)
                    certificate.check(
                        kind=kind,
                        trusted=[private_key(ca_type, "ca").public],
                        now=1_800_000_000,
                        principal="ops",
                    )

    def test_its_options_are_read(self) -> None:
        """Those with a name of their own and those that it passes through."""
        certificate = self.signed(
            *("-n", "alice", "-O", "source-address=10.0.0.0/8,::1"),
            *("-O", "force-command=ls", "-O", "verify-required", "-O", "no-pty"),
            *("-O", "critical:a@b=c", "-O", "extension:z@b"),
        )
        self.assertEqual(
            certificate.critical_options,
            (
                ("a@b", text("c")),
                ("force-command", text("ls")),
                ("source-address", text("10.0.0.0/8,::1")),
                ("verify-required", b""),
            ),
        )
        self.assertEqual(
            [name for name, _ in certificate.extensions],
            [
                "permit-X11-forwarding",
                "permit-agent-forwarding",
                "permit-port-forwarding",
                "permit-user-rc",
                "z@b",
            ],
        )

    def test_an_endless_certificate_ends_never(self) -> None:
        """Without ``-V`` it is valid from 0 to 2**64-1."""
        certificate = self.signed("-n", "alice")
        self.assertEqual(certificate.valid_after, 0)
        self.assertEqual(certificate.valid_before, FOREVER)

    def test_it_shows_our_certificates_as_they_are(self) -> None:
        """``ssh-keygen -L``, for every kind of key and CA."""
        for key_type in KEY_TYPES:
            for ca_type in KEY_TYPES:
                ca, key = private_key(ca_type, "ca"), private_key(key_type).public
                certificate = sign_certificate(
                    ca,
                    key,
                    kind=CertificateKind.USER,
                    key_id="alice",
                    principals=["alice", "ops"],
                    valid_after=NOW,
                    valid_before=NOW + 3600,
                    serial=2**63,
                    critical_options=[("source-address", text("10.0.0.0/8"))],
                    extensions=[("permit-pty", b""), ("a@b.example", text("x"))],
                )
                path = self.directory / "ours-cert.pub"
                path.write_text(certificate.to_openssh() + "\n")
                code, output = ssh_keygen("-L", "-f", path)
                self.assertEqual(code, 0, output)
                for shown in (
                    f"Type: {certificate.algorithm.decode()} user certificate",
                    f"{key.fingerprint}\n",
                    f"{ca.public.fingerprint} "
                    f"(using {ca.public.signature_algorithms[0].decode()})",
                    'Key ID: "alice"',
                    f"Serial: {2**63}",
                    "Valid: from 2027-01-15T08:00:00 to 2027-01-15T09:00:00",
                    "alice\n                ops\n",
                    "source-address 10.0.0.0/8",
                    "a@b.example UNKNOWN OPTION",
                    "permit-pty",
                ):
                    self.assertIn(shown, output)

    def test_our_verdict_is_that_of_ssh_keygen(self) -> None:
        """On kind, CA, principals and time (``ssh-keygen -Y verify``)."""
        known = self.directory / "allowed_signers"
        ca = private_key(ED25519, "ca").public
        known.write_text(f"alice cert-authority {ca.to_openssh()}\n")
        message = self.directory / "message"
        message.write_bytes(b"hello")
        path = self.key_path(ED25519)
        span = ("-V", "20260101000000Z:20300101000000Z")
        wanted = {True: 0, False: 0}
        for arguments, ca_type, now in (
            (("-n", "alice", *span), ED25519, "20270115080000"),
            (("-n", "ops,alice", *span), ED25519, "20260101000000"),
            (("-n", "alice"), ED25519, "20270115080000"),
            (("-n", "alice", *span), ED25519, "20251231235000"),
            (("-n", "alice", *span), ED25519, "20300101000000"),
            (("-n", "alice", *span), ED25519, "20291231235959"),
            (("-n", "bob", *span), ED25519, "20270115080000"),
            (("-n", "alice", *span), ECDSA_P256, "20270115080000"),
            (("-h", "-n", "alice", *span), ED25519, "20270115080000"),
        ):
            certificate = self.signed(*arguments, ca_type=ca_type)
            message.with_suffix(".sig").unlink(missing_ok=True)
            code, output = ssh_keygen(
                "-Y", "sign", "-f", f"{path}-cert.pub", "-n", "test", message
            )
            self.assertEqual(code, 0, output)
            code, output = ssh_keygen(
                *("-Y", "verify", "-f", known, "-I", "alice", "-n", "test"),
                *("-O", f"verify-time={now}", "-s", message.with_suffix(".sig")),
                stdin=b"hello",
            )
            try:
                certificate.check(
                    kind=CertificateKind.USER,
                    trusted=[ca],
                    now=_POSIX_TIMES[now],
                    principal="alice",
                )
                accepted = True
            except CertificateError:
                accepted = False
            self.assertEqual(accepted, code == 0, (arguments, now, output))
            wanted[accepted] += 1
        self.assertEqual(wanted, {True: 4, False: 5})


_POSIX_TIMES = {
    "20251231235000": 1_767_225_000,
    "20260101000000": 1_767_225_600,
    "20270115080000": 1_800_000_000,
    "20291231235959": 1_893_455_999,
    "20300101000000": 1_893_456_000,
}
