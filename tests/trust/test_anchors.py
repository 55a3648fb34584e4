"""The authorities of the three roles."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ConfigError
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.wire.keys import ED25519
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
