"""``rtunnel user``."""

from __future__ import annotations

import time
from pathlib import Path

from rtunnel.state_directory import (
    load_certificate,
    load_trust_anchors,
    write_key_pair,
)
from rtunnel.wire.certificate import CertificateKind
from rtunnel.wire.keys import PrivateKey
from tests.cli.running import CommandTestCase
from tests.interop.peers import require_peer
from tests.interop.processes import run


class UserSignTests(CommandTestCase):
    """A person's certificate."""

    def setUp(self) -> None:
        super().setUp()
        self.init()
        self.private = self.directory / "id_ed25519"
        self.key = self.directory / "id_ed25519.pub"
        self.certificate = self.directory / "id_ed25519-cert.pub"
        write_key_pair(self.private, PrivateKey.generate(), "alice@laptop")

    def sign(self, *more: str | Path) -> str:
        """Sign alice's key."""
        return self.assert_done(
            "user", "sign", "alice", "--state", self.state, "--key", self.key, *more
        )

    def test_stands_where_ssh_finds_it(self) -> None:
        """Beside the key, with the key's comment."""
        self.sign()
        certificate = load_certificate(self.certificate)
        self.assertEqual(
            certificate.key.to_openssh("alice@laptop") + "\n", self.key.read_text()
        )
        self.assertTrue(self.certificate.read_text().endswith(" alice@laptop\n"))

    def test_is_signed_by_the_user_authority(self) -> None:
        """And valid as a login at once."""
        self.sign()
        load_certificate(self.certificate).check(
            kind=CertificateKind.USER,
            trusted=load_trust_anchors(self.state / "user_ca.pub"),
            now=time.time(),
        )

    def test_names_the_person_first_and_then_the_principals(self) -> None:
        """The key id is the person's name, which always is a principal."""
        self.sign("--principal", "ops", "--principal", "alice", "--principal", "dev")
        certificate = load_certificate(self.certificate)
        self.assertEqual(certificate.key_id, "alice")
        self.assertEqual(certificate.principals, ("alice", "ops", "dev"))

    def test_is_valid_for_8_hours_or_what_ttl_says(self) -> None:
        """Counted from now."""
        for ttl, seconds in ((), 8 * 3600), (("--ttl", "30m"), 1800):
            self.sign("--force", *ttl)
            self.assertApproximates(
                load_certificate(self.certificate).valid_before,
                time.time() + seconds,
                60,
            )

    def test_goes_where_out_says(self) -> None:
        """And nowhere else."""
        out = self.directory / "elsewhere"
        self.assertIn(str(out), self.sign("--out", out))
        self.assertEqual(load_certificate(out).key_id, "alice")
        self.assertFalse(self.certificate.exists())

    def test_overwrites_nothing(self) -> None:
        """Unless forced to."""
        self.sign()
        before = self.certificate.read_bytes()
        err = self.assert_refused(
            "user", "sign", "alice", "--state", self.state, "--key", self.key
        )
        self.assertIn("--force", err)
        self.assertEqual(self.certificate.read_bytes(), before)
        self.sign("--force")
        self.assertNotEqual(self.certificate.read_bytes(), before)

    def test_names_are_checked(self) -> None:
        """What ssh would expand, or a rule could not name."""
        for name, principal in (("al%ice", "ops"), ("alice", "o,ps"), ("", "ops")):
            self.assert_wrong_usage(
                *("user", "sign", name, "--principal", principal),
                *("--state", self.state, "--key", self.key),
            )
        self.assertFalse(self.certificate.exists())

    def test_a_private_key_is_not_needed(self) -> None:
        """Nor taken: the file beside it is named."""
        err = self.assert_refused(
            "user", "sign", "alice", "--state", self.state, "--key", self.private
        )
        self.assertIn(f"{self.key}", err)

    def test_a_certificate_is_not_taken_for_the_key(self) -> None:
        """It lies beside the key, and completion offers both."""
        sign = ("user", "sign", "alice", "--state", self.state, "--key")
        self.assert_done(*sign, self.key)
        certificate = self.key.with_name(f"{self.key.stem}-cert.pub")
        self.assertIn(
            f"{certificate}: this is the certificate; give the public key",
            self.assert_refused(*sign, certificate),
        )

    def test_only_the_directory_with_the_authority_can_sign(self) -> None:
        """The file that is missing is named."""
        (self.state / "user_ca").unlink()
        err = self.assert_refused(
            "user", "sign", "alice", "--state", self.state, "--key", self.key
        )
        self.assertIn(f"{self.state / 'user_ca'}: no such file", err)

    def test_an_authority_that_others_can_read_is_not_used(self) -> None:
        """Anybody may have signed with it."""
        (self.state / "user_ca").chmod(0o640)
        err = self.assert_refused(
            "user", "sign", "alice", "--state", self.state, "--key", self.key
        )
        self.assertIn(f"chmod 600 {self.state / 'user_ca'}", err)

    def test_signs_the_keys_that_ssh_keygen_makes(self) -> None:
        """Ed25519, ECDSA and RSA; ssh-keygen reads the result."""
        ssh_keygen = require_peer("ssh-keygen")
        for kind, bits in (("ed25519", "256"), ("ecdsa", "256"), ("rsa", "2048")):
            path = self.directory / kind
            run([ssh_keygen, *("-q", "-t", kind, "-b", bits, "-N", "", "-f"), path])
            self.assert_done(
                *("user", "sign", "bob", "--state", self.state),
                *("--key", f"{path}.pub", "--principal", "ops"),
            )
            out = run([ssh_keygen, "-L", "-f", f"{path}-cert.pub"]).stdout
            self.assertIn("user certificate", out)
            self.assertIn('Key ID: "bob"', out)
            self.assertRegex(out, r"Principals: *\n +bob\n +ops\n")
            ca = run([ssh_keygen, "-l", "-f", self.state / "user_ca.pub"]).stdout
            self.assertIn(ca.split()[1], out)
