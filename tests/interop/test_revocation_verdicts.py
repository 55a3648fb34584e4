"""Key revocation lists given to sshd (``RevokedKeys``) and to us: the verdicts agree.

Each key and certificate is used for a real login at sshd, under each list.
"""

from __future__ import annotations

import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import AuthenticationRefused
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.authentication import Authentication
from rtunnel.trust.authorized_keys import AuthorizedKeys
from rtunnel.trust.revocation import NO_REVOCATIONS, Revocations
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import ED25519, PublicKey
from rtunnel.wire.krl import KeyRevocationList
from tests.interop.peers import require_peer
from tests.interop.processes import LOOPBACK, run
from tests.interop.sshd import Sshd
from tests.wire.examples import private_key


class RevocationVerdictTests(SynchronousTestCase):
    """Two certificates of two authorities, and two plain keys."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        names = ("ca", "other-ca", "alice", "bob", "carol", "dora")
        self.keys = {name: private_key(ED25519, name) for name in names}
        for name, key in self.keys.items():
            path = self.directory / name
            path.write_bytes(key.to_openssh())
            path.chmod(0o600)
            self.public(name).write_text(key.public.to_openssh(name) + "\n")
        self.offered: dict[str, Certificate | PublicKey] = {
            "alice": self.signed("ca", "alice", 42),
            "bob": self.signed("other-ca", "bob", 43),
            "carol": self.keys["carol"].public,
            "dora": self.keys["dora"].public,
        }
        self.krl = self.directory / "krl"
        self.krl.touch()
        people = "\n".join(self.public(name).read_text() for name in ("carol", "dora"))
        authorities = "\n".join(
            f'cert-authority,principals="alice,bob" {self.keys[ca].public.to_openssh()}'
            for ca in ("ca", "other-ca")
        )
        self.make("")
        # sshd reads the list anew for every connection.
        self.sshd = Sshd(
            self.directory / "sshd",
            f"{authorities}\n{people}",
            settings=[f"RevokedKeys {self.krl}"],
        )
        self.addCleanup(self.sshd.process.kill)
        self.revocations = NO_REVOCATIONS
        self.authentication = Authentication(
            anchors=lambda: TrustAnchors(
                host=[],
                agent=[],
                user=[self.keys[ca].public for ca in ("ca", "other-ca")],
            ),
            cluster="a",
            authorized_keys=lambda: AuthorizedKeys.parse(people),
            now=time.time,
            revocations=lambda: self.revocations,
        )

    def public(self, name: str) -> Path:
        """The file of a public key."""
        return self.directory / f"{name}.pub"

    def signed(self, ca: str, name: str, serial: int) -> Certificate:
        """What ``ssh-keygen -s`` makes of somebody's key."""
        command: list[str | Path] = [require_peer("ssh-keygen"), "-q", "-s"]
        command += [self.directory / ca, "-I", name, "-n", name, "-z", str(serial)]
        run([*command, self.public(name)])
        line = (self.directory / f"{name}-cert.pub").read_text()
        return Certificate.from_openssh(line.strip())[0]

    def make(self, specification: str, *arguments: str | Path) -> None:
        """Write the list anew."""
        lines = self.directory / "specification"
        lines.write_text(specification)
        self.krl.unlink()
        run([require_peer("ssh-keygen"), "-q", "-k", "-f", self.krl, *arguments, lines])

    def sshd_accepts(self, name: str) -> bool:
        """Whether sshd lets somebody in."""
        certificate = self.directory / f"{name}-cert.pub"
        with_it = ["-o", f"CertificateFile={certificate}"]
        done = run(
            [
                *(require_peer("ssh"), "-F", "none", "-i", self.directory / name),
                *("-p", str(self.sshd.port), "-l", self.sshd.user),
                *(with_it if certificate.exists() else []),
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

    def we_accept(self, name: str) -> bool:
        """Whether we would."""
        offered = self.offered[name]
        algorithm = offered.signature_algorithms[0]
        try:
            self.authentication.identify(algorithm, offered.blob, LOOPBACK)
        except AuthenticationRefused as error:
            self.assertIn("is on the list", str(error))
            return False
        return True

    def test_lists_keep_the_same_people_out(self) -> None:
        """By serial, key id, key, hash and authority."""
        line = {name: key.public.to_openssh() for name, key in self.keys.items()}
        for specification, arguments, out in (
            ("serial: 42\nserial: 43\n", ("-s", self.public("ca")), ("alice",)),
            ("serial: 1-100\n", ("-s", "none"), ("alice", "bob")),
            ("id: bob\n", ("-s", self.public("other-ca")), ("bob",)),
            (f"key: {line['alice']}\nsha1: {line['carol']}\n", (), ("alice", "carol")),
            (f"key: {line['other-ca']}\n", (), ("bob",)),
            (f"sha256: {line['ca']}\nsha256: {line['dora']}\n", (), ("alice", "dora")),
        ):
            self.make(specification, *arguments)
            krl = KeyRevocationList.from_bytes(self.krl.read_bytes())
            self.revocations = Revocations(lists={"krl": krl})
            for name in self.offered:
                expected = name not in out
                self.assertEqual(self.we_accept(name), expected, specification)
                self.assertEqual(self.sshd_accepts(name), expected, specification)
