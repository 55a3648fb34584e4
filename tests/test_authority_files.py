"""The private keys of an authority."""

from __future__ import annotations

import shutil
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.authority_files import (
    arrange,
    available_keys,
    load_authority,
    make_next,
    next_path,
    previous_path,
    signs_here,
)
from rtunnel.errors import KeyFileError
from rtunnel.state_directory import (
    HOST_CA,
    USER_CA,
    load_private_key,
    write_key_pair,
    write_private,
)
from rtunnel.trust.bundle import Phase, TrustBundle
from rtunnel.trust.rotation import BACK, FORTH, AuthorityState, step
from rtunnel.trust_files import adopt_bundle, load_bundle
from rtunnel.wire.keys import ECDSA_P256, ED25519, RSA, PrivateKey
from tests.crashes import every_crash
from tests.keys_at_once import make_key_at_once


class AuthorityTestCase(SynchronousTestCase):
    """A state directory with an authority."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / HOST_CA
        self.old = PrivateKey.generate()
        write_key_pair(self.path, self.old, "ca")

    def make_next(self) -> PrivateKey:
        """The key of the next rotation, made at once."""
        return self.successResultOf(
            Deferred.fromCoroutine(make_next(self.path, make_key_at_once))
        )

    def next_bundle(self, phase: Phase) -> TrustBundle:
        """One step from where the directory stands, signed by all keys that it has."""
        now = load_bundle(self.directory, "host")
        state = AuthorityState.of("host", now, [self.old.public])
        new = self.make_next() if phase is Phase.TRUSTED else None
        bundle = step(state, self.old.public, phase, new.public if new else None)
        return bundle.signed(available_keys(self.path))

    def go(self, phase: Phase) -> TrustBundle:
        """Take that step."""
        bundle = self.next_bundle(phase)
        adopt_bundle(self.directory, bundle)
        arrange(self.directory, bundle)
        return bundle


class LoadAuthorityTests(AuthorityTestCase):
    """Reading an authority's key, to sign with."""

    def test_reads_an_authority_that_its_own_file_lists(self) -> None:
        """As init writes it."""
        key = PrivateKey.generate()
        write_key_pair(self.directory / USER_CA, key, "ca")
        self.assertEqual(load_authority(self.directory, USER_CA).public, key.public)

    def test_refuses_an_authority_that_nobody_would_trust(self) -> None:
        """Its key is missing from the file that is handed to others."""
        path = self.directory / USER_CA
        write_key_pair(path, PrivateKey.generate(), "ca")
        write_private(path, PrivateKey.generate().to_openssh(), force=True)
        error = self.assertRaises(KeyFileError, load_authority, self.directory, USER_CA)
        self.assertIn(f"ssh-keygen -y -f {path}", str(error))

    def test_refuses_a_key_that_no_longer_signs(self) -> None:
        """A copy of the old key lies where the rotation was not run."""
        self.go(Phase.TRUSTED)
        self.go(Phase.SIGNS)
        write_private(self.path, self.old.to_openssh(), force=True)
        error = self.assertRaises(KeyFileError, load_authority, self.directory, HOST_CA)
        self.assertIn("another key signs", str(error))
        self.assertFalse(signs_here(self.directory, HOST_CA))

    def test_a_key_that_is_here_signs_here(self) -> None:
        """In every phase of a rotation; and a broken one is for the signer to say."""
        self.assertTrue(signs_here(self.directory, HOST_CA))
        for phase in (Phase.TRUSTED, Phase.SIGNS, Phase.RETIRED):
            self.go(phase)
            self.assertTrue(signs_here(self.directory, HOST_CA))
        self.assertFalse(signs_here(self.directory, USER_CA))
        self.path.write_text("nonsense")
        self.assertTrue(signs_here(self.directory, HOST_CA))


class MakeNextTests(AuthorityTestCase):
    """The key that a rotation leads to."""

    def test_it_is_of_the_type_of_the_one_that_signs(self) -> None:
        """The file of the authority decides."""
        for key_type in (ED25519, ECDSA_P256, RSA):
            write_private(
                self.path, PrivateKey.generate(key_type).to_openssh(), force=True
            )
            new = self.make_next()
            self.assertEqual(new.public.algorithm, key_type)
            next_path(self.path).unlink()

    def test_one_that_is_there_already_is_taken(self) -> None:
        """Whoever wants another type puts such a key there."""
        key = PrivateKey.generate(RSA)
        write_private(next_path(self.path), key.to_openssh())
        self.assertEqual(self.make_next().public, key.public)


class ArrangeTests(AuthorityTestCase):
    """Which key lies where in which phase."""

    def test_the_key_that_signs_is_always_in_the_same_place(self) -> None:
        """The other one beside it, until the next rotation."""
        trusted = self.go(Phase.TRUSTED)
        new = trusted.other
        self.assertEqual(load_private_key(self.path).public, self.old.public)
        self.assertEqual(load_private_key(next_path(self.path)).public, new)
        for phase in (Phase.SIGNS, Phase.RETIRED):
            self.go(phase)
            self.assertEqual(load_authority(self.directory, HOST_CA).public, new)
            before = load_private_key(previous_path(self.path))
            self.assertEqual(before.public, self.old.public)
            self.assertFalse(next_path(self.path).exists())
        self.go(Phase.TRUSTED)
        self.assertFalse(previous_path(self.path).exists())
        self.assertTrue(next_path(self.path).exists())

    def test_private_keys_stay_private(self) -> None:
        """Wherever they are moved."""
        for phase in (Phase.TRUSTED, Phase.SIGNS, Phase.RETIRED):
            self.go(phase)
            for path in self.directory.glob("host_ca*"):
                if path.suffix not in (".pub", ".bundle"):
                    self.assertEqual(path.stat().st_mode & 0o777, 0o600)

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.booleans(), max_size=8))
    def test_forth_and_back_in_any_order(self, moves: list[bool]) -> None:
        """The key that signs can sign after each step, and no key is lost that a step
        back needs."""
        shutil.rmtree(self.directory)
        self.setUp()
        for forth in moves:
            bundle = load_bundle(self.directory, "host")
            phase = Phase.STEADY if bundle is None else bundle.phase
            if forth or phase in BACK:
                bundle = self.go((FORTH if forth else BACK)[phase])
                signing = load_authority(self.directory, HOST_CA)
                self.assertEqual(signing.public, bundle.signs)
                here = {key.public for key in available_keys(self.path)}
                self.assertEqual(here, {bundle.signs, bundle.other} - {None})

    def test_no_key_is_lost_in_a_crash(self) -> None:
        """And doing it again finishes what was begun."""
        steps = (
            *(Phase.TRUSTED, Phase.SIGNS, Phase.TRUSTED, Phase.SIGNS),
            *(Phase.RETIRED, Phase.SIGNS, Phase.TRUSTED, Phase.STEADY),
        )
        for phase in steps:
            bundle = self.next_bundle(phase)
            adopt_bundle(self.directory, bundle)
            before = self.directory.with_name("before")
            shutil.copytree(self.directory, before)
            for _ in every_crash(lambda: arrange(self.directory, bundle)):  # noqa: B023
                arrange(self.directory, bundle)
                signing = load_authority(self.directory, HOST_CA)
                self.assertEqual(signing.public, bundle.signs)
                here = {key.public for key in available_keys(self.path)}
                self.assertEqual(here, {bundle.signs, bundle.other} - {None})
                shutil.rmtree(self.directory)
                shutil.copytree(before, self.directory)
            shutil.rmtree(before)

    def test_a_directory_without_the_private_key_has_nothing_to_do(self) -> None:
        """A proxy that cannot sign."""
        bundle = self.next_bundle(Phase.TRUSTED)
        self.path.unlink()
        next_path(self.path).unlink()
        arrange(self.directory, bundle)
        self.assertEqual(available_keys(self.path), ())

    def test_a_directory_with_the_wrong_key_says_so(self) -> None:
        """It had a copy of the old one."""
        self.go(Phase.TRUSTED)
        bundle = self.next_bundle(Phase.SIGNS)
        next_path(self.path).unlink()
        with self.assertRaisesRegex(KeyFileError, "nothing is signed here"):
            arrange(self.directory, bundle)
