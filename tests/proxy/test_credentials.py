"""A proxy's credentials while it runs."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ConfigError, KeyFileError
from rtunnel.proxy.credentials import LiveCredentials
from rtunnel.state_directory import ProxyCredentials
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey

ID = "0b0e0ad2-5a4c-4d4e-9d5c-0f6a3c1c7d11"
OTHER_ID = "0b0e0ad2-5a4c-4d4e-9d5c-0f6a3c1c7d12"


class LiveCredentialsTests(SynchronousTestCase):
    """What is read again counts, for whoever asks after it."""

    def setUp(self) -> None:
        self.ca = PrivateKey.generate()
        self.key = PrivateKey.generate()
        self.stored = ProxyCredentials(
            self.key,
            self.certify(ID),
            (self.ca.public,),
            (PrivateKey.generate().public,),
            (PrivateKey.generate().public,),
        )
        self.live = LiveCredentials(self.load)
        self.told: list[None] = []
        self.stop = self.live.subscribe(lambda: self.told.append(None))

    def certify(self, proxy_id: str) -> Certificate:
        """A host certificate."""
        return CertificateAuthority(self.ca, now=lambda: 1e9).sign_host(
            self.key.public,
            proxy_id=proxy_id,
            cluster="a",
            public_names=[],
            validity=60,
        )

    def load(self) -> ProxyCredentials:
        """Read the state directory."""
        return self.stored

    def test_a_new_certificate_is_shown_to_the_next_connection(self) -> None:
        """Whoever subscribed is told once."""
        renewed = self.certify(ID)
        self.stored = attrs.evolve(self.stored, certificate=renewed)
        self.assertNotEqual(self.live.host_keys()[0].certificate, renewed)
        self.assertTrue(self.live.reload())
        self.assertEqual(self.live.host_keys()[0].certificate, renewed)
        self.assertEqual(len(self.told), 1)

    def test_a_new_authority_is_trusted(self) -> None:
        """Beside the one that was there."""
        new = PrivateKey.generate().public
        self.stored = attrs.evolve(self.stored, user_cas=(*self.stored.user_cas, new))
        self.assertTrue(self.live.reload())
        self.assertIn(new, self.live.anchors.user)

    def test_nothing_is_told_when_nothing_changed(self) -> None:
        """Nor after the subscription has ended."""
        self.assertFalse(self.live.reload())
        self.stop()
        self.stored = attrs.evolve(self.stored, certificate=self.certify(ID))
        self.assertTrue(self.live.reload())
        self.assertEqual(self.told, [])

    def test_an_authority_in_two_roles_is_not_taken(self) -> None:
        """What was trusted before stays."""
        before = self.live.anchors
        self.stored = attrs.evolve(self.stored, user_cas=self.stored.agent_cas)
        with self.assertRaisesRegex(ConfigError, "two roles"):
            self.live.reload()
        self.assertEqual(self.live.anchors, before)

    def test_the_certificate_of_another_proxy_is_not_taken(self) -> None:
        """The id of a running proxy stays."""
        self.stored = attrs.evolve(self.stored, certificate=self.certify(OTHER_ID))
        with self.assertRaisesRegex(KeyFileError, "restart"):
            self.live.reload()
        self.assertEqual(self.live.proxy_id, ID)
