"""Tests for :mod:`rtunnel.wire.keys`, with the real ssh-keygen."""

from __future__ import annotations

import base64
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import KeyFileError
from rtunnel.wire.data_types import Reader, string
from rtunnel.wire.keys import PrivateKey, PublicKey
from tests.wire.examples import KEY_TYPES, private_key, require_program, ssh_keygen


class SshKeygenTests(SynchronousTestCase):
    """The same keys in the hands of the real ssh-keygen."""

    def setUp(self) -> None:
        require_program("ssh-keygen")
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def test_keys_of_ssh_keygen_are_read_and_sign(self) -> None:
        """Private file, public file and fingerprint agree with its own."""
        for arguments in (("ed25519",), ("ecdsa",), ("rsa", "-b", "2048")):
            path = self.directory / arguments[0]
            code, output = ssh_keygen(
                "-q", "-t", *arguments, "-N", "", "-C", "a comment", "-f", path
            )
            self.assertEqual((code, output), (0, ""))
            key = PrivateKey.from_openssh(path.read_bytes())
            public, comment = PublicKey.from_openssh(
                path.with_suffix(".pub").read_text("ascii")
            )
            self.assertEqual(key.public, public)
            self.assertEqual(comment, "a comment")
            self.assertIn(f" {public.fingerprint} ", ssh_keygen("-l", "-f", path)[1])

    def test_ssh_keygen_reads_our_keys(self) -> None:
        """It derives the same public key from the private file that we write."""
        for key_type in KEY_TYPES:
            key = private_key(key_type)
            path = self.directory / key_type.decode()
            path.write_bytes(key.to_openssh())
            path.chmod(0o600)
            code, output = ssh_keygen("-y", "-f", path)
            self.assertEqual(code, 0, output)
            self.assertEqual(PublicKey.from_openssh(output)[0], key.public)

    def test_a_file_with_a_passphrase_is_refused(self) -> None:
        """As ssh-keygen makes it, with its own key derivation."""
        path = self.directory / "locked"
        ssh_keygen("-q", "-t", "ed25519", "-N", "secret words", "-f", path)
        with self.assertRaisesRegex(KeyFileError, "passphrase"):
            PrivateKey.from_openssh(path.read_bytes())

    def test_signatures_of_ssh_keygen_verify(self) -> None:
        """Those of ``ssh-keygen -Y sign``, for each kind of key (PROTOCOL.sshsig)."""
        message = self.directory / "message"
        message.write_bytes(b"hello")
        for key_type in KEY_TYPES:
            key = private_key(key_type)
            path = self.directory / f"{key_type.decode()}-signer"
            path.write_bytes(key.to_openssh())
            path.chmod(0o600)
            message.with_suffix(".sig").unlink(missing_ok=True)
            code, output = ssh_keygen("-Y", "sign", "-f", path, "-n", "test", message)
            self.assertEqual(code, 0, output)
            lines = message.with_suffix(".sig").read_bytes().splitlines()
            reader = Reader(base64.b64decode(b"".join(lines[1:-1])), offset=6)
            self.assertEqual(reader.uint32(), 1)
            public = PublicKey.from_blob(reader.string())
            namespace, reserved, hash_name = (reader.string() for _ in range(3))
            signature = reader.string()
            self.assertEqual(public, key.public)
            signed = (
                b"SSHSIG"
                + string(namespace)
                + string(reserved)
                + string(hash_name)
                + string(_SHA512_OF_HELLO)
            )
            self.assertEqual(hash_name, b"sha512")
            algorithm = public.signature_algorithms[0]
            self.assertTrue(public.verify(signature, signed, algorithm))
            self.assertFalse(public.verify(signature, signed + b"x", algorithm))


_SHA512_OF_HELLO = bytes.fromhex(
    "9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca7"
    "2323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043"
)
