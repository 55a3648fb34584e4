"""The same certificates shown to sshd and to us: nobody gets in who is kept out there.

sshd knows the same authorities (``cert-authority`` lines) and asks for the same
principal, and each certificate is used for a real login.
"""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import attrs
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import AuthenticationRefused, ProtocolError
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.authentication import Authentication
from rtunnel.trust.authorized_keys import AuthorizedKeys
from rtunnel.trust.identity import UserIdentity
from rtunnel.trust.revocation import Revocations
from rtunnel.wire.certificate import FOREVER, Certificate
from rtunnel.wire.data_types import Reader, mpint, string
from rtunnel.wire.keys import ECDSA_P256, ED25519, RSA
from rtunnel.wire.krl import KeyRevocationList
from tests.interop.peers import require_peer
from tests.interop.processes import LOOPBACK, run
from tests.interop.sshd import Sshd
from tests.wire.examples import (
    RawCertificate,
    openssh_file,
    option,
    private_key,
    rsa_key,
)

CA_TYPES = (ED25519, ECDSA_P256, RSA)

GOOD = ("-n", "alice", "-V", "-5m:+1h")

IPV6 = "::1"


def ever(critical_options: bytes = b"", *, valid_after: int = 0) -> RawCertificate:
    """A certificate without end, of content that ssh-keygen would refuse to sign."""
    return RawCertificate(
        critical_options=critical_options,
        extensions=option("permit-port-forwarding") + option("permit-pty"),
        valid_after=valid_after,
        valid_before=FOREVER,
    )


def short_rsa(name: str) -> rsa.RSAPrivateKey:
    """A key of 1024 bits, which we cannot even read."""
    return rsa_key(1024, name)


def short_rsa_blob(key: rsa.RSAPrivateKey) -> bytes:
    """Its public half."""
    numbers = key.public_key().public_numbers()
    return string(RSA) + mpint(numbers.e) + mpint(numbers.n)


def signed_with_rsa(key: rsa.RSAPrivateKey) -> Callable[[bytes], bytes]:
    """Sign as an authority of OpenSSH does."""

    def sign(data: bytes) -> bytes:
        proof = key.sign(data, padding.PKCS1v15(), hashes.SHA512())
        return string(b"rsa-sha2-512") + string(proof)

    return sign


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
            settings=(f"ListenAddress {IPV6}", f"RevokedKeys {self.directory}/revoked"),
        )
        self.revoke()
        self.addCleanup(self.sshd.process.kill)

    def signed(self, ca: str, *arguments: str) -> Certificate:
        """What ``ssh-keygen -s`` makes of the user's key."""
        program, public = require_peer("ssh-keygen"), self.directory / "user.pub"
        ca_path = self.directory / ca
        run([program, "-q", "-s", ca_path, "-I", "alice", *arguments, public])
        line = (self.directory / "user-cert.pub").read_text()
        return Certificate.from_openssh(line)[0]

    def revoke(self, *arguments: str | Path, given: str = "") -> None:
        """Make a key revocation list with ``ssh-keygen -k``, for both.

        :param given: what it is to read as its standard input, if it is told to.
        """
        path = self.directory / "revoked"
        program = require_peer("ssh-keygen")
        subprocess.run(
            [program, "-q", "-k", "-f", path, *arguments],
            input=given,
            text=True,
            check=True,
            capture_output=True,
        )
        krl = KeyRevocationList.from_bytes(path.read_bytes())
        self.revocations = Revocations(lists={"revoked": krl})

    def sshd_accepts(
        self, line: str, *, host: str = LOOPBACK, key: str = "user"
    ) -> bool:
        """Whether sshd lets in who comes with that certificate."""
        certificate = self.directory / "offered-cert.pub"
        certificate.write_text(line + "\n")
        done = run(
            [
                *(require_peer("ssh"), "-F", "none", "-i", self.directory / key),
                *("-p", str(self.sshd.port), "-l", self.sshd.user),
                *("-o", f"CertificateFile={certificate}"),
                *("-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"),
                *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"),
                *("-o", f"UserKnownHostsFile={self.directory / 'known_hosts'}"),
                *(host, "true"),
            ],
            check=False,
        )
        if done.returncode:
            self.assertIn("Permission denied", done.stderr)
        return done.returncode == 0

    def refusal(
        self, certificate: Certificate | bytes, *, source: str = LOOPBACK
    ) -> str | None:
        """Why our proxy keeps out who comes with that certificate; None if it does not.

        :param certificate: or a blob that may be none.
        """
        blob = certificate if isinstance(certificate, bytes) else certificate.blob
        authentication = Authentication(
            anchors=lambda: TrustAnchors(user=tuple(self.trusted), agent=(), host=()),
            cluster="a",
            authorized_keys=AuthorizedKeys,
            now=time.time,
            revocations=lambda: self.revocations,
        )
        try:
            algorithm = Reader(blob).string().replace(b"ssh-rsa", b"rsa-sha2-512")
            identity = authentication.identify(algorithm, blob, source)
        except (AuthenticationRefused, ProtocolError) as error:
            return str(error)
        assert isinstance(identity, UserIdentity) and identity.name == "alice"
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
            ("ca-ssh-ed25519", ("-h", *GOOD), "no trusted CA"),
            ("ca-ssh-ed25519", ("-V", "-5m:+1h"), "names no principal"),
            ("ca-ssh-ed25519", ("-n", "bob"), "not one of its principals"),
            ("ca-ssh-ed25519", ("-n", "Alice,alic,*"), "not one of its principals"),
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

    def test_addresses_of_ipv6(self) -> None:
        """For both, a network of one kind says nothing of the other."""
        for host in (LOOPBACK, IPV6):
            for networks, good in (
                ("::1", host == IPV6),
                ("::/0", host == IPV6),
                ("fd00::/8,::/127", host == IPV6),
                ("fd00::/8,2001:db8::1", False),
                ("0.0.0.0/0", host == LOOPBACK),
                ("127.0.0.0/8,::1", True),
            ):
                option = ("-O", f"source-address={networks}")
                certificate = self.signed("ca-ssh-ed25519", *GOOD, *option)
                refusal = self.refusal(certificate, source=host)
                self.assertEqual(refusal is None, good, (host, networks, refusal))
                accepted = self.sshd_accepts(certificate.to_openssh(), host=host)
                self.assertEqual(accepted, good, (host, networks))

    def test_revoked_certificates_are_bad_for_both(self) -> None:
        """By serial, key id, key, hash of a key, and authority; and only they."""
        certificate = self.signed("ca-ssh-ed25519", *GOOD, "-z", "7")
        ca = self.directory / "ca-ssh-ed25519.pub"
        other_ca = self.directory / "ca-ssh-rsa.pub"
        user, stranger = self.directory / "user.pub", self.directory / "stranger.pub"
        for arguments, given, revoked in (
            ((), "", False),
            (("-s", ca, "-"), "serial: 7\n", True),
            (("-s", ca, "-"), "serial: 1-100\n", True),
            (("-s", ca, "-"), "serial: 8-100\n", False),
            (("-s", other_ca, "-"), "serial: 7\n", False),
            (("-s", ca, "-"), "id: alice\n", True),
            (("-s", ca, "-"), "id: bob\n", False),
            ((user,), "", True),
            ((stranger,), "", False),
            (("-",), f"sha256: {user.read_text()}", True),
            (("-",), f"sha1: {user.read_text()}", True),
            ((ca,), "", True),
            ((other_ca,), "", False),
        ):
            self.revoke(*arguments, given=given)
            refusal = self.refusal(certificate)
            self.assertEqual(refusal is not None, revoked, (arguments, given, refusal))
            if revoked:
                self.assertIn("revoke", refusal or "")
            accepted = self.sshd_accepts(certificate.to_openssh())
            self.assertEqual(accepted, not revoked, (arguments, given))

    def test_a_certificate_is_no_authority_for_either(self) -> None:
        """One that names a certificate of a trusted authority as who signed it."""
        ca = private_key(ED25519, "ca")
        intermediate = ever().blob()
        raw = attrs.evolve(ever(), ca_blob=intermediate, sign=private_key(ED25519).sign)
        self.assertIsNotNone(self.refusal(raw.blob()))
        self.assertFalse(self.sshd_accepts(self.line(raw)))
        # And what a trusted key signs is good for both.
        good = attrs.evolve(ever(), ca_blob=ca.public.blob, sign=ca.sign)
        self.assertIsNone(self.refusal(good.blob()))
        self.assertTrue(self.sshd_accepts(self.line(good)))

    def line(self, raw: RawCertificate, name: bytes | None = None) -> str:
        """The content of a ``-cert.pub`` file."""
        algorithm = (name or raw.algorithm).decode()
        return f"{algorithm} {base64.b64encode(raw.blob()).decode()}"

    # What we refuse and sshd does not; docs/security.md lists it.

    def assert_stricter(self, raw: RawCertificate, reason: str, **where: str) -> None:
        """We refuse, with this reason, what sshd takes."""
        self.assertIn(reason, self.refusal(raw.blob()) or "")
        self.assertTrue(self.sshd_accepts(self.line(raw), **where))

    def test_we_refuse_what_sshd_honours_and_we_cannot(self) -> None:
        """A forced command: sshd runs it, we run none."""
        certificate = self.signed("ca-ssh-ed25519", *GOOD, "-O", "force-command=true")
        self.assertTrue(self.sshd_accepts(certificate.to_openssh()))
        self.assertIn("cannot honour", self.refusal(certificate) or "")

    def test_we_refuse_who_may_not_forward(self) -> None:
        """We have nothing but forwarding to offer; sshd has a shell."""
        self.assert_stricter(attrs.evolve(ever(), extensions=b""), "permit-port-forw")

    def test_we_want_the_key_id_to_be_a_principal(self) -> None:
        """It is the name in the audit file; for sshd it is a comment."""
        raw = attrs.evolve(ever(), key_id=b"bob")
        self.assert_stricter(raw, "not one of its principals")

    def test_we_refuse_rsa_under_2048_bits(self) -> None:
        """As the key that is certified, and as the authority."""
        user, ca = short_rsa("user"), short_rsa("ca")
        path = self.directory / "short"
        path.write_bytes(openssh_file(user))
        path.chmod(0o600)
        certified = attrs.evolve(
            ever(),
            algorithm=b"ssh-rsa-cert-v01@openssh.com",
            key_fields=short_rsa_blob(user)[4 + len(RSA) :],
        )
        self.assert_stricter(certified, "2048", key="short")
        authority = attrs.evolve(
            ever(), ca_blob=short_rsa_blob(ca), sign=signed_with_rsa(ca)
        )
        line = f"ssh-rsa {base64.b64encode(short_rsa_blob(ca)).decode()}"
        self.sshd.authorize(f'cert-authority,principals="alice" {line}')
        self.assert_stricter(authority, "2048")
