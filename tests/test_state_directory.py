"""The files of a state directory, and what is said about those that cannot be used."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import KeyFileError
from rtunnel.state_directory import (
    AGENT_KEY,
    HOST_KEY,
    MAX_KEY_FILE,
    USER_CA,
    certificate_path,
    discard_unfinished,
    load_private_key,
    load_public_key,
    load_trust_anchors,
    make_directory,
    public_path,
    refuse_existing,
    write_private,
    write_public,
)
from rtunnel.wire.keys import PrivateKey
from tests.interop.processes import environment
from tests.state_directories import DirectoryTestCase


class NameTests(SynchronousTestCase):
    """Where the public half and the certificate of a key are."""

    def test_public_half_and_certificate_are_named_as_ssh_keygen_names_them(
        self,
    ) -> None:
        """Both stand beside the private key."""
        key = Path("d/host_key")
        self.assertEqual(public_path(key), Path("d/host_key.pub"))
        self.assertEqual(certificate_path(key), Path("d/host_key-cert.pub"))

    def test_certificate_of_a_public_half_is_that_of_the_key(self) -> None:
        """``id_ed25519.pub`` has ``id_ed25519-cert.pub``."""
        self.assertEqual(
            certificate_path(Path("id_ed25519.pub")), Path("id_ed25519-cert.pub")
        )


class LoadPrivateKeyTests(DirectoryTestCase):
    """Reading private keys."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / HOST_KEY
        self.key = PrivateKey.generate()
        write_private(self.path, self.key.to_openssh())

    def test_reads_what_was_written(self) -> None:
        """The same key comes back."""
        self.assertEqual(load_private_key(self.path).public, self.key.public)

    def test_refuses_a_file_that_group_or_others_can_read(self) -> None:
        """Any bit for group or others is one too many, and chmod is named."""
        for mode in (0o640, 0o604, 0o660, 0o601):
            self.path.chmod(mode)
            text = self.refusal(self.path)
            self.assertIn(f"chmod 600 {self.path}", text)
            self.assertIn(f"{mode:04o}", text)

    def test_takes_a_file_that_its_owner_can_only_read(self) -> None:
        """Mode 0400 is as private as 0600."""
        self.path.chmod(0o400)
        load_private_key(self.path)

    def test_says_how_to_make_a_missing_key(self) -> None:
        """The remedy depends on which key it is."""
        self.path.unlink()
        self.assertIn("rtunnel proxy sign", self.refusal(self.path))
        self.assertIn("rtunnel agent sign", self.refusal(self.directory / AGENT_KEY))
        self.assertIn("can sign", self.refusal(self.directory / USER_CA))

    def test_says_that_a_file_is_empty(self) -> None:
        """As a full disk leaves it."""
        write_private(self.path, b"\n", force=True)
        self.assertIn("is empty", self.refusal(self.path))

    def test_says_that_a_file_is_no_key(self) -> None:
        """Also when it begins like one."""
        for data in (b"hello", self.key.to_openssh()[:80]):
            write_private(self.path, data, force=True)
            self.assertIn("not an OpenSSH private key", self.refusal(self.path))

    def test_says_how_to_remove_a_passphrase(self) -> None:
        """Nobody is there to type one."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (
            Ed25519PrivateKey,
        )

        write_private(
            self.path,
            Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.BestAvailableEncryption(b"secret"),
            ),
            force=True,
        )
        text = self.refusal(self.path)
        self.assertIn("passphrase", text)
        self.assertIn("ssh-keygen -p", text)

    def test_refuses_what_is_no_regular_file(self) -> None:
        """A FIFO would hang the start, a directory makes no sense."""
        fifo = self.directory / "fifo"
        os.mkfifo(fifo, 0o600)
        self.assertIn("not a regular file", self.refusal(fifo))
        self.assertIn("not a regular file", self.refusal(self.directory))

    def test_reads_no_more_than_the_limit(self) -> None:
        """MAX_KEY_FILE bytes are read, one more is refused."""
        write_private(self.path, b"x" * MAX_KEY_FILE, force=True)
        self.assertIn("not an OpenSSH private key", self.refusal(self.path))
        write_private(self.path, b"x" * (MAX_KEY_FILE + 1), force=True)
        self.assertIn(str(MAX_KEY_FILE), self.refusal(self.path))


class LoadPublicKeyTests(DirectoryTestCase):
    """Reading one public key, as a person hands it in."""

    def test_reads_key_and_comment(self) -> None:
        """Both are in the one line of a .pub file."""
        key = PrivateKey.generate()
        path = self.directory / "id.pub"
        write_public(path, key.public.to_openssh("alice@laptop") + "\n")
        self.assertEqual(load_public_key(path), (key.public, "alice@laptop"))

    def test_a_private_key_is_sent_back(self) -> None:
        """The answer names the file that was meant."""
        path = self.directory / "id"
        write_private(path, PrivateKey.generate().to_openssh())
        error = self.assertRaises(KeyFileError, load_public_key, path)
        self.assertIn(f"give its public half, {path}.pub", str(error))

    def test_refuses_what_is_no_key(self) -> None:
        """Text, bytes that are no text, nothing at all."""
        path = self.directory / "id.pub"
        for data, reason in (
            (b"hello there", "base64"),
            (b"\xff\xfe", "not text"),
            (b"", "empty"),
        ):
            path.write_bytes(data)
            error = self.assertRaises(KeyFileError, load_public_key, path)
            self.assertIn(reason, str(error))
            self.assertIn(str(path), str(error))


class LoadTrustAnchorsTests(DirectoryTestCase):
    """Reading the public keys of an authority."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "host_ca.pub"
        self.keys = tuple(PrivateKey.generate().public for _ in range(2))

    def test_reads_one_key_per_line(self) -> None:
        """During a rotation there are two; comments and repetitions do not count."""
        first, second = (key.to_openssh("ca") for key in self.keys)
        write_public(self.path, f"# ours\n{first}\n\n{second}\n{first}\n")
        self.assertEqual(load_trust_anchors(self.path), self.keys)

    def test_names_the_line_that_is_wrong(self) -> None:
        """One bad line makes the file unusable: an anchor must not go unnoticed."""
        write_public(self.path, f"{self.keys[0].to_openssh()}\nssh-ed25519 AAAA\n")
        error = self.assertRaises(KeyFileError, load_trust_anchors, self.path)
        self.assertIn(f"{self.path}: line 2: ", str(error))

    def test_refuses_a_file_without_a_key(self) -> None:
        """Trusting nobody is no sensible setting."""
        write_public(self.path, "# nothing\n")
        error = self.assertRaises(KeyFileError, load_trust_anchors, self.path)
        self.assertIn("holds no key", str(error))


class WriteTests(DirectoryTestCase):
    """Writing files."""

    def mode(self, path: Path) -> int:
        """Permission bits of a file."""
        return stat.S_IMODE(path.stat().st_mode)

    def test_private_files_are_for_their_owner_alone(self) -> None:
        """Whatever the umask lets through."""
        self.addCleanup(os.umask, os.umask(0))
        path = self.directory / "key"
        write_private(path, b"secret")
        self.assertEqual(self.mode(path), 0o600)
        write_public(self.directory / "key.pub", "known")
        self.assertEqual(self.mode(self.directory / "key.pub"), 0o644)

    def test_force_replaces_an_open_file_by_a_private_one(self) -> None:
        """The old file's permissions are not taken over."""
        path = self.directory / "key"
        path.write_bytes(b"old")
        path.chmod(0o644)
        write_private(path, b"new", force=True)
        self.assertEqual((path.read_bytes(), self.mode(path)), (b"new", 0o600))

    def test_nothing_is_overwritten_without_force(self) -> None:
        """The old content stays, and no other file is left behind."""
        path = self.directory / "key"
        path.write_bytes(b"old")
        error = self.assertRaises(KeyFileError, write_private, path, b"new")
        self.assertIn(str(path), str(error))
        self.assertIn("--force", str(error))
        self.assertEqual(path.read_bytes(), b"old")
        self.assertEqual(os.listdir(self.directory), ["key"])

    def test_what_a_killed_process_left_is_removed(self) -> None:
        """By the next that writes the file, and by whoever starts there."""
        script = (
            "import os, signal, sys; from pathlib import Path\n"
            "from rtunnel.state_directory import write_private\n"
            "os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
            "write_private(Path(sys.argv[1]), b'secret', force=True)\n"
        )

        def leave(name: str) -> None:
            subprocess.run(
                [sys.executable, "-c", script, self.directory / name],
                env=environment(),
            )

        def there() -> set[str]:
            return {path.name for path in self.directory.iterdir()}

        for name in ("agent_key", "agent_key", "host_ca.next", "[alice]"):
            leave(name)
        self.assertEqual(len(there()), 3)
        write_private(self.directory / "agent_key", b"new")
        self.assertEqual(len(there()), 3)
        write_private(self.directory / "[alice]", b"new")
        self.assertEqual(len(there()), 3)
        # Nobody's but whose files these are.
        foreign = {".host_ca.next.old", ".else.0123456789abcdef"}
        for name in foreign:
            (self.directory / name).touch()
        discard_unfinished(self.directory)
        self.assertEqual(there(), {"agent_key", "[alice]", *foreign})

    def test_what_is_being_written_is_not_taken_for_left(self) -> None:
        """However early another process comes to tidy up."""
        path = self.directory / "agent_key"
        real_flock, real_fsync = fcntl.flock, os.fsync
        early: list[bool] = []

        def flock(descriptor: int, how: int) -> None:
            if how == fcntl.LOCK_EX and not early:
                early.append(True)
                discard_unfinished(self.directory)
            real_flock(descriptor, how)

        def fsync(descriptor: int) -> None:
            discard_unfinished(self.directory)
            real_fsync(descriptor)

        self.patch(fcntl, "flock", flock)
        self.patch(os, "fsync", fsync)
        write_private(path, b"secret")
        self.assertEqual(early, [True])
        self.assertEqual(path.read_bytes(), b"secret")
        self.assertEqual(list(self.directory.iterdir()), [path])

    def test_failure_to_write_is_one_sentence(self) -> None:
        """It names the file that was to be written."""
        path = self.directory / "missing" / "key"
        error = self.assertRaises(KeyFileError, write_private, path, b"new")
        self.assertEqual(
            str(error), f"{path}: cannot be written: No such file or directory"
        )

    def test_every_file_in_the_way_is_named(self) -> None:
        """A dangling link is in the way too."""
        there, link = self.directory / "there", self.directory / "link"
        there.touch()
        link.symlink_to("nowhere")
        error = self.assertRaises(
            KeyFileError, refuse_existing, [there, self.directory / "absent", link]
        )
        self.assertIn(f"{there}, {link}:", str(error))

    def test_new_directories_are_private_and_old_ones_stay_as_they_are(self) -> None:
        """Parents are made as well."""
        new = self.directory / "a" / "b"
        make_directory(new)
        self.assertEqual(self.mode(new), 0o700)
        new.chmod(0o750)
        make_directory(new)
        self.assertEqual(self.mode(new), 0o750)

    def test_a_file_is_no_directory(self) -> None:
        """The refusal names it."""
        path = self.directory / "file"
        path.touch()
        error = self.assertRaises(KeyFileError, make_directory, path)
        self.assertEqual(str(error), f"{path}: is not a directory")
