"""A key and its certificate are replaced together, whatever happens meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.certified_key import finish_replacing, replace_certificate, replace_pair
from rtunnel.errors import KeyFileError
from rtunnel.state_directory import (
    certificate_path,
    load_certificate,
    load_private_key,
    load_public_key,
    public_path,
)
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey
from tests.crashes import every_crash

CA = CertificateAuthority(PrivateKey.generate(), now=lambda: 1e9)


def certify(key: PrivateKey) -> Certificate:
    """A certificate of an agent."""
    return CA.sign_agent(
        key.public,
        cluster="b",
        instance="0b0e0ad2-5a4c-4d4e-9d5c-0f6a3c1c7d11",
        validity=60,
    )


class CertifiedKeyTestCase(SynchronousTestCase):
    """A pair that is there already."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / "agent_key"
        self.old = PrivateKey.generate()
        replace_pair(self.path, self.old, certify(self.old), "old")

    def pair(self) -> PrivateKey:
        """The key; its certificate and public half speak of it."""
        key = load_private_key(self.path)
        self.assertEqual(load_certificate(certificate_path(self.path)).key, key.public)
        self.assertEqual(load_public_key(public_path(self.path))[0], key.public)
        return key


class ReplaceTests(CertifiedKeyTestCase):
    """Nothing in the way."""

    def test_a_certificate_is_replaced(self) -> None:
        """The key stays."""
        renewed = certify(self.old)
        replace_certificate(self.path, renewed, "agent")
        self.assertEqual(load_certificate(certificate_path(self.path)), renewed)
        self.assertEqual(self.pair().public, self.old.public)

    def test_a_pair_is_replaced(self) -> None:
        """And nothing is left beside it; the key is private."""
        fresh = PrivateKey.generate()
        replace_pair(self.path, fresh, certify(fresh), "agent")
        self.assertEqual(self.pair().public, fresh.public)
        self.assertEqual(len(list(self.directory.iterdir())), 3)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_a_directory_that_cannot_be_written_keeps_the_pair(self) -> None:
        """With an error that says so."""
        fresh = PrivateKey.generate()
        gone = self.directory / "gone" / "agent_key"
        self.assertRaises(KeyFileError, replace_pair, gone, fresh, certify(fresh), "")
        self.assertEqual(self.pair().public, self.old.public)


class CrashTests(CertifiedKeyTestCase):
    """The machine stops between two changes of the directory."""

    def test_the_pair_belongs_together_after_a_crash(self) -> None:
        """Once what was interrupted is finished, it is the old one or the new one."""
        before = self.directory.with_name("before")
        shutil.copytree(self.directory, before)
        fresh = PrivateKey.generate()
        certificate = certify(fresh)
        seen = []
        for _ in every_crash(
            lambda: replace_pair(self.path, fresh, certificate, "agent")
        ):
            finish_replacing(self.path)
            seen.append(self.pair().public)
            there = [each.name for each in self.directory.glob("agent_key.new*")]
            self.assertEqual(there, [])
            # What comes next finds nothing in its way.
            third = PrivateKey.generate()
            replace_pair(self.path, third, certify(third), "agent")
            self.assertEqual(self.pair().public, third.public)
            shutil.rmtree(self.directory)
            shutil.copytree(before, self.directory)
        self.assertEqual(set(seen), {self.old.public, fresh.public})
        self.assertEqual(self.pair().public, fresh.public)
