"""Tests for :mod:`rtunnel.trust.revoked_hosts`."""

from __future__ import annotations

import json
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.discovery.messages import MAX_PAYLOAD
from rtunnel.errors import MessageError
from rtunnel.trust.bundle import MAX_GENERATION, MAX_SIGNATURES
from rtunnel.trust.revocation import Revocation, RevocationKind
from rtunnel.trust.revoked_hosts import (
    MAX_ENTRIES,
    MAX_LIST,
    RevokedHosts,
    following,
    may_be_host,
)
from rtunnel.wire.keys import PrivateKey

NOW = 1_800_000_000.0
CA, OTHER = PrivateKey.generate(), PrivateKey.generate()
FINGERPRINT = OTHER.public.fingerprint
PROXY = "7596c018-0000-4000-8000-000000000001"


def revocation(
    kind: RevocationKind = RevocationKind.KEY_ID,
    value: str = PROXY,
    until: float | None = None,
    ca: str | None = None,
) -> Revocation:
    """Of something."""
    return Revocation.make(
        kind, value, reason="stolen", created=NOW, until=until, ca=ca
    )


EVERY = (
    revocation(),
    revocation(RevocationKind.KEY, FINGERPRINT, until=NOW + 60),
    revocation(RevocationKind.SERIAL, "42"),
    revocation(RevocationKind.SERIAL, "42", ca=FINGERPRINT),
)


def listed(*entries: Revocation) -> RevokedHosts:
    """A list of these, signed."""
    revoked = None
    for entry in entries:
        revoked = following(revoked, NOW, add=entry)
    assert revoked is not None
    return revoked.signed([CA])


SIGNED = listed(*EVERY)


class RevokedHostsTests(SynchronousTestCase):
    """Signed, written and read."""

    def test_it_is_read_as_it_was_written(self) -> None:
        """And still signed."""
        read = RevokedHosts.from_json(SIGNED.to_json())
        self.assertEqual(read, SIGNED)
        self.assertEqual(read.signer([OTHER.public, CA.public]), CA.public)
        self.assertIsNone(read.signer([OTHER.public]))

    @given(st.data())
    def test_whatever_is_changed_it_is_signed_no_longer(self, data: Any) -> None:
        """An entry more, less, or another; and the version."""
        changes: dict[str, Any] = data.draw(
            st.sampled_from(
                [
                    {"version": SIGNED.version + 1},
                    {"entries": SIGNED.entries[1:]},
                    {"entries": SIGNED.entries[::-1]},
                    {"entries": (*SIGNED.entries, revocation(value=PROXY[:-1] + "2"))},
                    *(
                        {"entries": (attrs.evolve(SIGNED.entries[1], **each),)}
                        for each in (
                            {"until": None},
                            {"until": NOW + 99},
                            {"created": 0.0},
                            {"value": CA.public.fingerprint},
                        )
                    ),
                ]
            )
        )
        self.assertIsNone(attrs.evolve(SIGNED, **changes).signer([CA.public]))

    def test_the_reason_stays_at_the_proxies(self) -> None:
        """It is the operator's."""
        self.assertNotIn("stolen", SIGNED.to_json())

    def test_what_has_ended_is_left_out(self) -> None:
        """Of what holds, and of the next list."""
        [ends] = [entry for entry in SIGNED.entries if entry.until is not None]
        self.assertIn(ends, SIGNED.at(NOW + 59))
        self.assertNotIn(ends, SIGNED.at(NOW + 61))
        later = following(SIGNED, NOW + 61)
        self.assertEqual(later.version, SIGNED.version + 1)
        self.assertEqual(len(later.entries), 3)

    def test_an_entry_takes_the_place_of_the_same_one(self) -> None:
        """And can be taken off again."""
        again = following(SIGNED, NOW, add=EVERY[0])
        self.assertEqual(len(again.entries), 4)
        less = following(again, NOW, remove=EVERY[0].id)
        self.assertNotIn(EVERY[0].id, [entry.id for entry in less.entries])
        self.assertEqual(less.version, SIGNED.version + 2)

    def test_only_what_a_host_certificate_has_can_be_on_it(self) -> None:
        """A person's name is not told to agents."""
        for kind, value in (
            (RevocationKind.USER, "alice"),
            (RevocationKind.KEY_ID, "alice"),
            (RevocationKind.AGENT, PROXY),
            (RevocationKind.CLUSTER, "b"),
        ):
            entry = revocation(kind, value)
            self.assertFalse(may_be_host(entry))
            self.assertRaises(MessageError, following, None, NOW, add=entry)

    def test_a_full_list_fits_a_message(self) -> None:
        """One entry more is refused."""
        entries = tuple(
            attrs.evolve(
                revocation(
                    RevocationKind.SERIAL,
                    str(2**64 - 1 - number),
                    until=NOW + 10**9,
                    ca=FINGERPRINT,
                ),
                reason=SIGNED.entries[0].reason,
            )
            for number in range(MAX_ENTRIES)
        )
        # As large as the largest RSA key makes them.
        full = RevokedHosts(MAX_GENERATION, entries, (b"x" * 1050,) * MAX_SIGNATURES)
        self.assertLess(len(full.to_json()), MAX_LIST)
        self.assertLess(MAX_LIST, MAX_PAYLOAD)
        self.assertEqual(RevokedHosts.from_json(full.to_json()), full)
        more = attrs.evolve(full, version=1)
        self.assertRaises(MessageError, following, more, NOW, add=revocation())

    def test_nonsense_is_refused(self) -> None:
        """With a MessageError, whatever it is."""
        good = SIGNED.to_fields()
        entry = good["entries"][0]
        for changes in (
            {"version": 0},
            {"version": True},
            {"version": MAX_GENERATION + 1},
            {"version": "1"},
            {"entries": None},
            {"entries": [1]},
            {"entries": [entry] * (MAX_ENTRIES + 1)},
            {"entries": [entry | {"kind": "user", "value": "alice"}]},
            {"entries": [entry | {"kind": "x"}]},
            {"entries": [entry | {"kind": ["x"]}]},
            {"entries": [entry | {"value": 1}]},
            {"entries": [entry | {"value": "x"}]},
            {"entries": [entry | {"ca": 1}]},
            {"entries": [entry | {"ca": FINGERPRINT}]},
            {"entries": [entry | {"created": None}]},
            {"entries": [entry | {"created": -1}]},
            {"entries": [entry | {"until": True}]},
            {"entries": [entry | {"until": 1.5}]},
            {"entries": [entry | {"until": 10**400}]},
            {"signatures": None},
            {"signatures": ["?"]},
            {"signatures": [""] * (MAX_SIGNATURES + 1)},
        ):
            with self.assertRaises(MessageError, msg=str(changes)):
                RevokedHosts.from_fields(good | changes)
        for text in ("", "[]", "{", "[" * 100_000, "x" * (MAX_LIST + 1)):
            self.assertRaises(MessageError, RevokedHosts.from_json, text)
        RevokedHosts.from_json(json.dumps(good | {"more": 1}))
