"""The authorities of the three roles."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ConfigError
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.identity import Identity
from rtunnel.wire.keys import ED25519
from tests.trust.test_revocation import agent, listed_user, peer, user
from tests.wire.examples import private_key


class TrustAnchorsTests(SynchronousTestCase):
    """Three roles."""

    def test_a_key_cannot_be_ca_in_two_roles(self) -> None:
        """Then nothing would tell the roles apart."""
        one, two, three = (private_key(ED25519, name).public for name in "123")
        for users, agents, hosts in (
            ([one], [one], [two]),
            ([one], [two], [one]),
            ([one], [two], [two]),
            ([one, two], [three], [two]),
        ):
            with self.assertRaisesRegex(ConfigError, "two roles"):
                TrustAnchors(user=users, agent=agents, host=hosts)

    def test_a_role_may_have_several_keys_or_none(self) -> None:
        """While one takes over from another; and where a role has no business."""
        one, two = (private_key(ED25519, name).public for name in "12")
        self.assertEqual(TrustAnchors(user=[one, two]).user, {one, two})
        self.assertEqual(TrustAnchors(user=[one, two]).host, frozenset())

    def test_who_was_certified_by_another_is_believed_no_longer(self) -> None:
        """Each kind by the authority of its own role alone."""
        old, new = (private_key(ED25519, name).public for name in ("ca", "new"))
        identities: dict[str, Identity] = {
            "user": user(),
            "agent": agent(),
            "host": peer(),
        }
        for role, identity in identities.items():
            for other in identities:
                trusted: Any = {other: [new, old]}
                reason = TrustAnchors(**trusted).reason_against(identity)
                said = f"the {role} authority {old.fingerprint} is trusted no longer"
                self.assertEqual(reason, None if other == role else said)
            trusted = {role: [new]}
            self.assertEqual(TrustAnchors(**trusted).reason_against(identity), said)

    def test_who_has_no_certificate_stands_on_no_authority(self) -> None:
        """A plain key is authorized_keys' business."""
        self.assertIsNone(TrustAnchors().reason_against(listed_user()))
