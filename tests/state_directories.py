"""State directories of tests."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import KeyFileError
from rtunnel.state_directory import (
    certificate_path,
    load_private_key,
    make_directory,
    write_public,
)
from rtunnel.wire.certificate import CertificateKind, sign_certificate
from rtunnel.wire.keys import PrivateKey, PublicKey

NOW = 1_800_000_000.0


class DirectoryTestCase(SynchronousTestCase):
    """A test with an empty state directory."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        make_directory(self.directory)

    def refusal(self, path: Path) -> str:
        """The sentence with which a private key file is refused."""
        error = self.assertRaises(KeyFileError, load_private_key, path)
        text = str(error)
        self.assertIn(str(path), text)
        self.assertNotIn("\n", text)
        return text

    def certify(
        self,
        path: Path,
        key: PublicKey,
        ca: PrivateKey,
        kind: CertificateKind,
        principals: tuple[str, ...],
        seconds: int = 3600,
        key_id: str = "id",
    ) -> None:
        """Put a certificate for ``key``, valid from an hour ago, beside ``path``."""
        certificate = sign_certificate(
            ca,
            key,
            kind=kind,
            key_id=key_id,
            principals=principals,
            valid_after=int(NOW) - 3600,
            valid_before=int(NOW) + seconds,
            serial=1,
        )
        write_public(
            certificate_path(path), certificate.to_openssh() + "\n", force=True
        )
