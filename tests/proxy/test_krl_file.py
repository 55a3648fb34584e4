"""A key revocation list in a file that changes."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ConfigError
from rtunnel.proxy.krl_file import SAY_AGAIN, KrlFile
from rtunnel.wire.data_types import string, text, uint32, uint64
from rtunnel.wire.keys import ED25519
from tests.wire.examples import private_key

ALICE = private_key(ED25519).public
BOB = private_key(ED25519, "bob").public


def krl(*blobs: bytes, version: int = 1) -> bytes:
    """A list of keys."""
    return b"".join(
        (
            b"SSHKRL\n\0",
            uint32(1),
            uint64(version),
            uint64(0) * 2,
            string(b"") + text(""),
            *(b"\2" + string(string(blob)) for blob in blobs),
        )
    )


class KrlFileTests(SynchronousTestCase):
    """What a look at the file does."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_bytes(krl(ALICE.blob))
        self.told: list[str] = []
        self.file = KrlFile(self.path, self.told.append)
        self.seconds = 1_000_000_000

    def write(self, data: bytes) -> None:
        """Other content, at another time."""
        self.path.write_bytes(data)
        self.seconds += 1
        os.utime(self.path, (self.seconds, self.seconds))

    def revoked(self) -> tuple[bool, bool]:
        """Whether Alice's key is, and Bob's."""
        now = self.file.list
        return now.key_is_revoked(ALICE.blob), now.key_is_revoked(BOB.blob)

    def test_changed_file_is_read(self) -> None:
        """And says so once."""
        self.assertFalse(self.file.check())
        self.write(krl(BOB.blob))
        self.assertTrue(self.file.check())
        self.assertEqual(self.revoked(), (False, True))
        self.assertFalse(self.file.check())

    def test_file_put_in_place_of_it_is_read(self) -> None:
        """Of the same size and time, as ``mv`` may leave it."""
        other = self.path.with_name("other")
        other.write_bytes(krl(BOB.blob))
        times = self.path.stat()
        os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
        other.rename(self.path)
        self.assertTrue(self.file.check())
        self.assertEqual(self.revoked(), (False, True))

    def test_touched_file_changes_nothing(self) -> None:
        """Nobody is bothered."""
        self.write(krl(ALICE.blob))
        self.assertFalse(self.file.check())

    def test_bad_file_keeps_the_last_good_list(self) -> None:
        """A list that is half written lets nobody in; it is said once and counted."""
        for number, spoil in enumerate(
            (
                lambda: self.write(krl(BOB.blob)[:-1]),
                lambda: self.write(b""),
                self.path.unlink,
            ),
            1,
        ):
            spoil()
            self.assertFalse(self.file.check())
            self.assertFalse(self.file.check())
            self.assertEqual(self.revoked(), (True, False))
            self.assertIn(str(self.path), str(self.file.problem))
            self.assertEqual(self.file.failures, 2 * number)
            self.assertEqual(len(set(self.told)), number)
            self.assertEqual(self.told[-1], self.file.problem)
        self.write(krl(BOB.blob))
        self.assertTrue(self.file.check())
        self.assertIsNone(self.file.problem)

    def test_the_log_says_so_again_and_again(self) -> None:
        """Nobody reads what it said a week ago; who keeps count is told once."""
        self.write(b"nonsense")
        with capturedLogs() as logs:
            for _ in range(2 * SAY_AGAIN + 1):
                self.file.check()
        self.assertEqual(len(logs), 3)
        self.assertEqual(len(self.told), 1)

    def test_file_mended_without_a_trace_is_read(self) -> None:
        """While something is wrong, size and time are not believed."""
        self.write(krl(BOB.blob)[:-1])
        self.file.check()
        times = self.path.stat()
        self.path.write_bytes(krl(BOB.blob))
        os.utime(self.path, ns=(times.st_atime_ns, times.st_mtime_ns))
        self.assertTrue(self.file.check())

    def test_first_list_has_to_be_good(self) -> None:
        """A proxy that does not know what is revoked must not start."""
        for content in (None, b"", b"ssh-ed25519 AAAA"):
            path = Path(self.mktemp())
            if content is not None:
                path.write_bytes(content)
            error = self.assertRaises(ConfigError, KrlFile, path)
            self.assertIn(f"revocation.krl: {path}", str(error))
