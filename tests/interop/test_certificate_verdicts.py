"""The same certificates shown to sshd and to us: nobody gets in who is kept out there.

sshd knows the same authorities (``cert-authority`` lines) and asks for the same
principal, and each certificate is used for a real login.
"""

from __future__ import annotations

import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import CertificateError
from rtunnel.wire.certificate import FOREVER, Certificate, CertificateKind
from rtunnel.wire.keys import ECDSA_P256, ED25519, RSA
from tests.interop.peers import require_peer
from tests.interop.processes import LOOPBACK, run
from tests.interop.sshd import Sshd
from tests.wire.examples import RawCertificate, option, private_key

CA_TYPES = (ED25519, ECDSA_P256, RSA)

GOOD = ("-n", "alice", "-V", "-5m:+1h")


def ever(critical_options: bytes = b"", *, valid_after: int = 0) -> RawCertificate:
    """A certificate without end, of content that ssh-keygen would refuse to sign."""
    return RawCertificate(
        critical_options=critical_options,
        valid_after=valid_after,
        valid_before=FOREVER,
    )


class CertificateVerdictTests(SynchronousTestCase):
    """Logins with good certificates and with all kinds of bad ones."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        for name, key in (
            *((f"ca-{t.decode()}", private_key(t, "ca")) for t in CA_TYPES),
            ("stranger", private_key(ED25519, "stranger")),
            ("user", private_key(ED25519)),
        ):
            path = self.directory / name
            path.write_bytes(key.to_openssh())
            path.chmod(0o600)
            path.with_name(f"{name}.pub").write_text(key.public.to_openssh() + "\n")
        self.trusted = [private_key(t, "ca").public for t in CA_TYPES]
        self.sshd = Sshd(
            self.directory / "sshd",
            "\n".join(
                f'cert-authority,principals="alice" {ca.to_openssh()}'
                for ca in self.trusted
            ),
        )
        self.addCleanup(self.sshd.process.kill)

    def signed(self, ca: str, *arguments: str) -> Certificate:
        """What ``ssh-keygen -s`` makes of the user's key."""
        program, public = require_peer("ssh-keygen"), self.directory / "user.pub"
        ca_path = self.directory / ca
        run([program, "-q", "-s", ca_path, "-I", "alice", *arguments, public])
        line = (self.directory / "user-cert.pub").read_text()
        return Certificate.from_openssh(line)[0]

    def sshd_accepts(self, line: str) -> bool:
        """Whether sshd lets in who comes with that certificate."""
        certificate = self.directory / "offered-cert.pub"
        certificate.write_text(line + "\n")
        done = run(
            [
                *(require_peer("ssh"), "-F", "none", "-i", self.directory / "user"),
                *("-p", str(self.sshd.port), "-l", self.sshd.user),
                *("-o", f"CertificateFile={certificate}"),
                *("-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"),
                *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"),
                *("-o", f"UserKnownHostsFile={self.directory / 'known_hosts'}"),
                *(LOOPBACK, "true"),
            ],
            check=False,
        )
        if done.returncode:
            self.assertIn("Permission denied", done.stderr)
        return done.returncode == 0

    def refusal(self, certificate: Certificate) -> str | None:
        """Why we keep out who comes with that certificate; None when we do not."""
        try:
            certificate.check(
                kind=CertificateKind.USER,
                trusted=self.trusted,
                now=time.time(),
                source=LOOPBACK,
                principal="alice",
            )
        except CertificateError as error:
            return str(error)
        return None

    def test_good_certificates_are_good_for_both(self) -> None:
        """Every kind of CA, other principals beside, options that hold."""
        for ca, arguments in (
            *((f"ca-{t.decode()}", GOOD) for t in CA_TYPES),
            ("ca-ssh-rsa", ("-t", "rsa-sha2-256", *GOOD)),
            ("ca-ssh-ed25519", ("-n", "ops,alice")),
            ("ca-ssh-ed25519", (*GOOD, "-O", "source-address=127.0.0.1,::1")),
            ("ca-ssh-ed25519", (*GOOD, "-O", "source-address=10.0.0.0/8,127.0.0.0/8")),
            ("ca-ssh-ed25519", (*GOOD, "-O", "extension:a@example.com=b")),
        ):
            certificate = self.signed(ca, *arguments)
            self.assertIsNone(self.refusal(certificate), arguments)
            self.assertTrue(self.sshd_accepts(certificate.to_openssh()), arguments)

    def test_bad_certificates_are_bad_for_both(self) -> None:
        """Each for one reason, which we give as we should."""
        for ca, arguments, reason in (
            ("ca-ssh-ed25519", ("-n", "alice", "-V", "-2h:-1h"), "expired"),
            ("ca-ssh-ed25519", ("-n", "alice", "-V", "-1h:-1s"), "expired"),
            ("ca-ssh-ed25519", ("-n", "alice", "-V", "+1h:+2h"), "not valid before"),
            ("stranger", GOOD, "no trusted CA"),
            ("ca-ssh-ed25519", ("-h", *GOOD), "a host certificate"),
            ("ca-ssh-ed25519", ("-V", "-5m:+1h"), "names no principal"),
            ("ca-ssh-ed25519", ("-n", "bob"), "does not name"),
            ("ca-ssh-ed25519", ("-n", "Alice,alic,*"), "does not name"),
            (
                "ca-ssh-ed25519",
                (*GOOD, "-O", "critical:a@example.com=b"),
                "critical option",
            ),
            (
                "ca-ssh-ed25519",
                (*GOOD, "-O", "source-address=10.0.0.0/8"),
                "not be used from",
            ),
            (
                "ca-ssh-ed25519",
                (*GOOD, "-O", "source-address=::/0"),
                "not be used from",
            ),
            ("ca-ssh-rsa", ("-t", "ssh-rsa", *GOOD), "signed with 'ssh-rsa'"),
        ):
            certificate = self.signed(ca, *arguments)
            self.assertIn(reason, self.refusal(certificate) or "", arguments)
            self.assertFalse(self.sshd_accepts(certificate.to_openssh()), arguments)

    def test_what_ssh_keygen_would_not_sign_is_bad_for_both(self) -> None:
        """Source addresses empty or half understood, options that are malformed."""
        self.assertTrue(
            self.sshd_accepts(Certificate.from_blob(ever().blob()).to_openssh())
        )
        for raw in (
            ever(option("source-address", "")),
            ever(option("source-address")),
            ever(option("source-address", "127.0.0.1,localhost")),
            ever(option("source-address", "127.0.0.1/8")),
            ever(option("no-such-option")),
            ever(valid_after=FOREVER),
        ):
            certificate = Certificate.from_blob(raw.blob())
            self.assertIsNotNone(self.refusal(certificate), raw)
            self.assertFalse(self.sshd_accepts(certificate.to_openssh()), raw)

    def test_we_refuse_what_sshd_honours_and_we_cannot(self) -> None:
        """A forced command: sshd runs it, we run none."""
        certificate = self.signed("ca-ssh-ed25519", *GOOD, "-O", "force-command=true")
        self.assertTrue(self.sshd_accepts(certificate.to_openssh()))
        self.assertIn("cannot honour", self.refusal(certificate) or "")
