"""What is revoked, and by what."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import InvalidName, RegistryError
from rtunnel.trust.identity import (
    AgentIdentity,
    Identity,
    PeerIdentity,
    UserIdentity,
)
from rtunnel.trust.revocation import (
    MAX_TEXT,
    NO_REVOCATIONS,
    Revocation,
    RevocationKind,
    Revocations,
)
from rtunnel.wire.certificate import Certificate, CertificateKind, sign_certificate
from rtunnel.wire.data_types import string, text, uint32, uint64
from rtunnel.wire.keys import ED25519, PublicKey
from rtunnel.wire.krl import KeyRevocationList
from tests.wire.examples import NOW, private_key

UUID = "7596c018-0000-4000-8000-000000000001"
OTHER_UUID = "7596c018-0000-4000-8000-000000000002"
CA = private_key(ED25519, "ca")
KEY = private_key(ED25519).public
OTHER_KEY = private_key(ED25519, "other").public


def certificate(
    key_id: str = "alice",
    *principals: str,
    serial: int = 42,
    ca: str = "ca",
    key: PublicKey = KEY,
) -> Certificate:
    """A certificate of one of our authorities."""
    return sign_certificate(
        private_key(ED25519, ca),
        key,
        kind=CertificateKind.USER,
        key_id=key_id,
        principals=principals or (key_id,),
        valid_after=NOW - 60,
        valid_before=NOW + 3600,
        serial=serial,
    )


def user(name: str = "alice", **fields: Any) -> UserIdentity:
    """A person with a certificate."""
    signed = certificate(name, name, "ops", **fields)
    return UserIdentity(
        name,
        (name, "ops"),
        name,
        signed.key.fingerprint,
        "192.0.2.1",
        signed,
        float(NOW + 3600),
    )


def listed_user(name: str = "alice", key: PublicKey = KEY) -> UserIdentity:
    """A person of authorized_keys."""
    fingerprint = key.fingerprint
    return UserIdentity(
        name, (name,), fingerprint, fingerprint, "192.0.2.1", None, None, key
    )


def agent(instance: str = UUID, cluster: str = "b") -> AgentIdentity:
    """An agent."""
    signed = certificate(instance, cluster, serial=7)
    return AgentIdentity(
        cluster, instance, KEY.fingerprint, "192.0.2.1", signed, float(NOW + 3600)
    )


def peer(proxy_id: str = UUID) -> PeerIdentity:
    """Another proxy."""
    signed = certificate(proxy_id, proxy_id, "a", serial=8, key=OTHER_KEY)
    return PeerIdentity(
        proxy_id,
        signed.principals,
        OTHER_KEY.fingerprint,
        "192.0.2.1",
        signed,
        float(NOW + 3600),
    )


def revocation(kind: str, value: str, ca: str | None = None) -> Revocation:
    """A record."""
    return Revocation.make(
        RevocationKind(kind), value, reason="laptop lost", created=NOW, ca=ca
    )


def krl(*sections: bytes) -> KeyRevocationList:
    """A key revocation list."""
    header = b"SSHKRL\n\0" + uint32(1) + uint64(1) * 3 + string(b"") + text("")
    return KeyRevocationList.from_bytes(header + b"".join(sections))


class RevocationsTests(SynchronousTestCase):
    """Which identities a record stands for."""

    everybody: tuple[Identity, ...] = (
        user(),
        user("bob", serial=43, key=OTHER_KEY),
        user("carol", serial=42, ca="other ca", key=OTHER_KEY),
        listed_user(),
        listed_user("dora", OTHER_KEY),
        agent(),
        agent(OTHER_UUID, "c"),
        peer(),
    )

    def revoked(self, *records: Revocation) -> list[int]:
        """Who of everybody is revoked, by number."""
        revocations = Revocations(records)
        return [
            number
            for number, identity in enumerate(self.everybody)
            if revocations.reason(identity) is not None
        ]

    def test_nothing_is_revoked_at_first(self) -> None:
        """Nobody, for that matter."""
        self.assertEqual(self.revoked(), [])
        self.assertFalse(NO_REVOCATIONS)

    def test_serial_stands_for_certificates_of_any_authority(self) -> None:
        """Unless it says of which."""
        self.assertEqual(self.revoked(revocation("serial", "42")), [0, 2])
        ours = revocation("serial", "42", CA.public.fingerprint)
        self.assertEqual(self.revoked(ours), [0])

    def test_key_stands_for_whoever_has_it(self) -> None:
        """By certificate or by authorized_keys, person, agent or proxy."""
        self.assertEqual(self.revoked(revocation("key", KEY.fingerprint)), [0, 3, 5, 6])
        self.assertEqual(
            self.revoked(revocation("key", OTHER_KEY.fingerprint)), [1, 2, 4, 7]
        )

    def test_key_of_an_authority_stands_for_all_that_it_signed(self) -> None:
        """Go's x/crypto/ssh did not look at it (CVE-2026-42508)."""
        record = revocation("key", CA.public.fingerprint)
        self.assertEqual(self.revoked(record), [0, 1, 5, 6, 7])

    def test_key_id_stands_for_certificates(self) -> None:
        """Of people, agents and proxies; a plain key has none."""
        self.assertEqual(self.revoked(revocation("key_id", "alice")), [0])
        self.assertEqual(self.revoked(revocation("key_id", UUID)), [5, 7])

    def test_user_stands_for_a_person(self) -> None:
        """However they log in, but not for who merely shares a principal."""
        self.assertEqual(self.revoked(revocation("user", "alice")), [0, 3])
        self.assertEqual(self.revoked(revocation("user", "ops")), [])

    def test_agent_and_cluster_stand_for_agents(self) -> None:
        """A proxy of the same id is another thing."""
        self.assertEqual(self.revoked(revocation("agent", UUID)), [5])
        self.assertEqual(self.revoked(revocation("cluster", "c")), [6])

    def test_reason_is_a_sentence_for_the_log(self) -> None:
        """With the operator's own."""
        for record, reason in (
            (revocation("serial", "42"), "serial 42 is revoked: laptop lost"),
            (revocation("user", "alice"), "user alice is revoked: laptop lost"),
            (revocation("key_id", "alice"), "key id alice is revoked: laptop lost"),
        ):
            self.assertEqual(Revocations([record]).reason(user()), reason)

    def test_lists_are_asked_as_well(self) -> None:
        """For certificates and for plain keys, by any hash."""
        blob = KEY.blob
        digest = hashlib.sha1(blob, usedforsecurity=False).digest()
        for listed in (b"\2" + string(string(blob)), b"\3" + string(string(digest))):
            revocations = Revocations(lists={"krl": krl(listed)})
            self.assertTrue(revocations)
            for identity in (user(), listed_user(), agent()):
                self.assertEqual(
                    revocations.reason(identity),
                    f"key {KEY.fingerprint} is on the list krl",
                )
            self.assertIsNone(revocations.reason(listed_user("dora", OTHER_KEY)))
            self.assertIsNone(revocations.reason(peer()))

    def test_certificate_alone_can_be_asked_for(self) -> None:
        """That of a proxy which was dialled, say."""
        revocations = Revocations([revocation("key_id", UUID)])
        self.assertIsNotNone(revocations.certificate_reason(peer().certificate))
        self.assertIsNone(revocations.certificate_reason(certificate()))

    def test_revocations_are_compared_by_what_they_say(self) -> None:
        """So that nothing is done when nothing has changed."""
        one, two = revocation("user", "alice"), revocation("user", "bob")
        self.assertEqual(Revocations([one, two]), Revocations([two, one]))
        self.assertNotEqual(Revocations([one]), Revocations([two]))
        self.assertNotEqual(Revocations([one]), Revocations([one], {"a": krl()}))


class RevocationTests(SynchronousTestCase):
    """Records: what they may say, and how they are written down."""

    def test_same_target_has_the_same_id(self) -> None:
        """Revoking twice is revoking once; another target has another id."""
        one = revocation("user", "alice")
        self.assertEqual(attrs.evolve(one, reason="again", created=0).id, one.id)
        others = {
            revocation("key_id", "alice").id,
            revocation("user", "bob").id,
            revocation("serial", "42").id,
            revocation("serial", "42", KEY.fingerprint).id,
            one.id,
        }
        self.assertEqual(len(others), 5)

    def test_records_survive_the_registry(self) -> None:
        """With all that they say; what a newer version adds is passed over."""
        for record in (
            revocation("user", "alice"),
            attrs.evolve(revocation("serial", "42", KEY.fingerprint), until=NOW + 60.0),
        ):
            self.assertEqual(Revocation.from_json(record.to_json()), record)
            more = {**json.loads(record.to_json()), "novelty": []}
            self.assertEqual(Revocation.from_json(json.dumps(more)), record)

    def test_only_what_can_be_revoked_is_taken(self) -> None:
        """A name that nobody can have would revoke nothing, and look as if it did."""
        for kind, value in (
            ("serial", "0"),
            ("serial", "-1"),
            ("serial", "042"),
            ("serial", str(2**64)),
            ("serial", ""),
            ("key", "SHA256:short"),
            ("key", "MD5:" + "0" * 43),
            ("key_id", ""),
            ("key_id", "a\nb"),
            ("key_id", "a" * (MAX_TEXT + 1)),
            ("user", "%h"),
            ("agent", "b"),
            ("agent", UUID.upper()),
            ("cluster", "B"),
        ):
            with self.assertRaises(InvalidName, msg=(kind, value)):
                revocation(kind, value)
        with self.assertRaises(InvalidName):
            revocation("user", "alice", KEY.fingerprint)
        for reason in ("", "a\nb", "a" * (MAX_TEXT + 1)):
            with self.assertRaises(InvalidName):
                Revocation.make(
                    RevocationKind.USER, "alice", reason=reason, created=NOW
                )

    def test_fingerprint_may_be_padded(self) -> None:
        """As some programs print it."""
        record = revocation("key", KEY.fingerprint + "=")
        self.assertEqual(record.value, KEY.fingerprint)

    def test_records_that_cannot_be_read_are_refused(self) -> None:
        """Whoever wrote them."""
        good = json.loads(revocation("user", "alice").to_json())
        for broken in (
            "",
            "[]",
            "[" * 100_000,
            *(
                json.dumps({**good, name: value})
                for name, value in (
                    ("kind", "novelty"),
                    ("kind", None),
                    ("value", None),
                    ("value", 42),
                    ("value", "%h"),
                    ("reason", 1),
                    ("created", "now"),
                    ("created", True),
                    ("created", -1),
                    ("created", 10**400),
                    ("until", "then"),
                    ("ca", 1),
                    ("ca", KEY.fingerprint),
                )
            ),
            json.dumps(good).replace(str(NOW), "NaN"),
        ):
            with self.assertRaises(RegistryError, msg=broken[:80]):
                Revocation.from_json(broken)

    @settings(deadline=None, max_examples=200)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["kind", "value", "reason", "created", "until", "ca"]
                    ),
                    inner | st.sampled_from(["user", "alice"]),
                )
            ),
        )
    )
    def test_any_json_is_read_or_refused(self, value: object) -> None:
        """No other error comes of it."""
        with contextlib.suppress(RegistryError):
            Revocation.from_json(json.dumps(value))
