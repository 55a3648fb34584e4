"""Trust bundles in a state directory."""

from __future__ import annotations

import shutil
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import BundleRefused, KeyFileError
from rtunnel.state_directory import load_trust_anchors, write_public
from rtunnel.trust.bundle import Phase, TrustBundle
from rtunnel.trust.rotation import AuthorityState, step
from rtunnel.trust_files import adopt_bundle, bundle_path, load_bundle
from rtunnel.wire.keys import PrivateKey
from tests.crashes import every_crash

OLD, NEW = PrivateKey.generate(), PrivateKey.generate()


def rotation() -> list[TrustBundle]:
    """Its three phases, each signed by both keys."""
    bundles: list[TrustBundle] = []
    for phase in (Phase.TRUSTED, Phase.SIGNS, Phase.RETIRED):
        last = bundles[-1] if bundles else None
        state = AuthorityState.of("host", last, [OLD.public])
        bundles.append(step(state, OLD.public, phase, NEW.public).signed([OLD, NEW]))
    return bundles


class AdoptTests(SynchronousTestCase):
    """What a directory trusts decides what it comes to trust."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / "host_ca.pub"
        write_public(self.path, OLD.public.to_openssh("host CA") + "\n")

    def test_a_rotation_is_followed(self) -> None:
        """Phase by phase."""
        for bundle in rotation():
            self.assertTrue(adopt_bundle(self.directory, bundle))
            self.assertEqual(load_trust_anchors(self.path), bundle.trusted)
            self.assertEqual(load_bundle(self.directory, "host"), bundle)

    def test_who_missed_phases_catches_up(self) -> None:
        """As long as a key that it trusts has signed."""
        self.assertTrue(adopt_bundle(self.directory, rotation()[2]))
        self.assertEqual(load_trust_anchors(self.path), (NEW.public,))

    def test_a_bundle_of_strangers_is_refused(self) -> None:
        """With what to do, and nothing is changed."""
        alone = rotation()[2].signed([NEW])
        with self.assertRaisesRegex(BundleRefused, "copy host_ca.pub"):
            adopt_bundle(self.directory, alone)
        self.assertEqual(load_trust_anchors(self.path), (OLD.public,))
        self.assertIsNone(load_bundle(self.directory, "host"))

    def test_an_older_generation_is_no_news(self) -> None:
        """Nobody can bring a retired key back by saying again what was once true."""
        trusted, _, retired = rotation()
        adopt_bundle(self.directory, retired)
        self.assertFalse(adopt_bundle(self.directory, trusted))
        self.assertFalse(adopt_bundle(self.directory, retired))
        self.assertEqual(load_trust_anchors(self.path), (NEW.public,))

    def test_a_retired_key_has_no_say(self) -> None:
        """Whoever stole it comes too late."""
        adopt_bundle(self.directory, rotation()[2])
        state = AuthorityState.of("host", load_bundle(self.directory, "host"), [])
        stolen = step(state, NEW.public, Phase.SIGNS).signed([OLD])
        self.assertRaises(BundleRefused, adopt_bundle, self.directory, stolen)

    def test_a_crash_leaves_something_to_go_on_from(self) -> None:
        """The same bundle is adopted when it comes again."""
        for bundle in rotation():
            before = self.directory.with_name("before")
            shutil.copytree(self.directory, before)
            for _ in every_crash(lambda: adopt_bundle(self.directory, bundle)):  # noqa: B023
                adopt_bundle(self.directory, bundle)
                self.assertEqual(load_trust_anchors(self.path), bundle.trusted)
                self.assertEqual(load_bundle(self.directory, "host"), bundle)
                shutil.rmtree(self.directory)
                shutil.copytree(before, self.directory)
            shutil.rmtree(before)

    def test_a_file_of_something_else_is_refused(self) -> None:
        """It says which, and that it can be removed."""
        path = bundle_path(self.directory, "host")
        for content in (b"nonsense", b"\xff", rotation()[0].to_json().encode()):
            path.write_bytes(content)
            role = "agent" if content.startswith(b"{") else "host"
            if role == "agent":
                path = path.rename(bundle_path(self.directory, "agent"))
            with self.assertRaisesRegex(KeyFileError, "remove it"):
                load_bundle(self.directory, "agent" if role == "agent" else "host")
