"""Whose certificates have logged people in."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.proxy import people_seen
from rtunnel.proxy.people_seen import PeopleSeen, SeenPerson
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.identity import UserIdentity
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey

OLD, NEW = PrivateKey.generate(), PrivateKey.generate()
KEY = PrivateKey.generate().public
NOW = 1_800_000_000


def user_identity(name: str, certificate: Certificate | None) -> UserIdentity:
    """Somebody who has logged in."""
    return UserIdentity(
        name=name,
        principals=(name,),
        source="192.0.2.1",
        fingerprint=KEY.fingerprint,
        key_id=name,
        key=None if certificate else KEY,
        certificate=certificate,
        valid_before=None,
    )


class PeopleSeenTests(SynchronousTestCase):
    """By name, and for as long as it matters."""

    def setUp(self) -> None:
        self.now = float(NOW)
        self.people = PeopleSeen(lambda: self.now)

    def saw(self, name: str, by: PrivateKey = OLD, ttl: float = 60) -> None:
        """Somebody logs in by certificate."""
        authority = CertificateAuthority(by, now=lambda: self.now)
        certificate = authority.sign_user(KEY, name=name, ttl=ttl)
        self.people.saw(user_identity(name, certificate))

    def names(self) -> list[str]:
        """Those with nothing of the new key."""
        return [each.name for each in self.people.not_by(NEW.public)]

    def test_those_of_another_key_are_named(self) -> None:
        """With the end of their last certificate."""
        self.saw("bob")
        self.saw("alice", ttl=120)
        self.saw("alice", ttl=30)
        self.saw("carol", NEW)
        self.assertEqual(
            self.people.not_by(NEW.public),
            (SeenPerson("alice", NOW + 120), SeenPerson("bob", NOW + 60)),
        )

    def test_who_has_a_new_one_too_is_not(self) -> None:
        """Whichever came last."""
        self.saw("alice", NEW)
        self.saw("alice")
        self.assertEqual(self.names(), [])

    def test_what_has_ended_does_not_matter(self) -> None:
        """Nobody loses what is over."""
        self.saw("alice")
        self.now += 60
        self.assertEqual(self.names(), [])

    def test_who_has_no_certificate_depends_on_no_authority(self) -> None:
        """A line of authorized_keys stays."""
        self.people.saw(user_identity("alice", None))
        self.assertEqual(self.names(), [])

    def test_so_many_are_remembered_and_no_more(self) -> None:
        """Those who came last."""
        self.patch(people_seen, "MAX_PEOPLE", 2)
        for name in ("alice", "bob", "carol", "bob", "dora"):
            self.saw(name)
        self.assertEqual(self.names(), ["bob", "dora"])
