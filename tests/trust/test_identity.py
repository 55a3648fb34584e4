"""Identities: frozen, and named by well-formed UUIDs where they are machines."""

from __future__ import annotations

from uuid import UUID

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import InvalidName
from rtunnel.trust.identity import UserIdentity, check_uuid


class IdentityTests(SynchronousTestCase):
    """What travels with everything done in somebody's name."""

    def test_an_identity_cannot_be_changed(self) -> None:
        """First success is final: nobody becomes somebody else."""
        identity = UserIdentity(
            name="alice",
            principals=("alice",),
            key_id="alice",
            fingerprint="SHA256:x",
            source="192.0.2.1",
            certificate=None,
            valid_before=None,
        )
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            identity.name = "root"  # type: ignore[misc]
        self.assertEqual(identity, attrs.evolve(identity))
        self.assertEqual(hash(identity), hash(attrs.evolve(identity)))


class UuidTests(SynchronousTestCase):
    """One UUID has one text."""

    @given(st.uuids())
    @settings(deadline=None, max_examples=50)
    def test_the_usual_form_is_accepted_and_no_other(self, uuid: UUID) -> None:
        """Else one machine could hold two claims."""
        self.assertEqual(check_uuid(str(uuid)), str(uuid))
        for other in (uuid.hex, uuid.urn, f"{{{uuid}}}", f"{uuid}\n", f" {uuid}"):
            with self.assertRaises(InvalidName):
                check_uuid(other)
        if str(uuid).upper() != str(uuid):
            with self.assertRaises(InvalidName):
                check_uuid(str(uuid).upper())

    def test_other_text_is_refused_in_a_printable_sentence(self) -> None:
        """What a peer sent does not reach a log as it is."""
        for name in ("", "proxy-1", "\x1b[2J", "\u0660" * 32):
            error = self.assertRaises(InvalidName, check_uuid, name)
            self.assertTrue(str(error).isprintable())
