"""Tests for :mod:`rtunnel.trust.host_check`; agents, newcomers and links have it at
work."""

from __future__ import annotations

import uuid
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent import host_check as agent_check
from rtunnel.errors import AuthorityUnknown, CertificateError, HostRefused
from rtunnel.state_directory import AgentCredentials
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.host_check import KnownHost, check_host
from rtunnel.trust.revocation import Revocation, RevocationKind, Revocations
from rtunnel.trust.revoked_hosts import following
from rtunnel.wire.certificate import Certificate, CertificateKind, sign_certificate
from rtunnel.wire.keys import PrivateKey

NOW = 1_800_000_000.0
CA = PrivateKey.generate()
KEY = PrivateKey.generate().public
ID = str(uuid.UUID(int=7))


def certificate(ca: PrivateKey = CA) -> Certificate:
    """Of a proxy, valid for an hour."""
    return CertificateAuthority(ca, now=lambda: NOW).sign_host(
        KEY, proxy_id=ID, cluster="a", public_names=["lb"], validity=3600
    )


def revocation(shown: Certificate, kind: RevocationKind) -> Revocation:
    """Of a certificate, in one of the three ways."""
    value = {
        RevocationKind.SERIAL: str(shown.serial),
        RevocationKind.KEY: shown.key.fingerprint,
        RevocationKind.KEY_ID: shown.key_id,
    }[kind]
    return Revocation.make(kind, value, reason="stolen", created=NOW)


class HostCheckTests(SynchronousTestCase):
    """:func:`check_host`."""

    def check(self, shown: Certificate, **settings: Any) -> KnownHost:
        """What the reader makes of it."""
        given = {"trusts": lambda key: key == CA.public, "now": NOW, **settings}
        return check_host(shown.algorithm, shown.blob, **given)

    def test_every_proxy_of_our_authority_is_one_of_ours(self) -> None:
        """Whatever its names are; the id says which."""
        shown = certificate()
        self.assertEqual(self.check(shown), KnownHost(shown, ID))

    def test_another_authority_is_told_apart(self) -> None:
        """What to do about it depends on who asks."""
        other = certificate(PrivateKey.generate())
        self.assertRaises(AuthorityUnknown, self.check, other)

    def test_one_of_ours_that_is_over_is_told_as_it_is(self) -> None:
        """No other authority would help."""
        late = NOW + 2 * 3600
        self.assertRaises(CertificateError, self.check, certificate(), now=late)

    def test_a_plain_key_is_refused(self) -> None:
        """Nobody vouches for it."""
        with self.assertRaises(HostRefused):
            check_host(KEY.algorithm, KEY.blob, trusts=lambda key: True, now=NOW)

    def test_a_name_that_is_wanted_has_to_be_there(self) -> None:
        """Proxies believe those of their own cluster."""
        self.check(certificate(), principal="a")
        self.assertRaises(CertificateError, self.check, certificate(), principal="b")

    def test_an_agents_certificate_is_none(self) -> None:
        """Though the same authority may have signed it."""
        agent = CertificateAuthority(CA, now=lambda: NOW).sign_agent(
            KEY, cluster="a", instance=ID, validity=60
        )
        self.assertRaises(CertificateError, self.check, agent)

    def test_a_first_principal_that_is_no_id_is_refused(self) -> None:
        """Of whatever authority."""
        nameless = sign_certificate(
            CA,
            KEY,
            kind=CertificateKind.HOST,
            key_id="x",
            principals=["lb"],
            valid_after=int(NOW) - 60,
            valid_before=int(NOW) + 60,
            serial=1,
        )
        self.assertRaises(HostRefused, self.check, nameless)

    def test_what_is_revoked_is_refused(self) -> None:
        """By serial number, key or id."""
        shown = certificate()
        for kind in (RevocationKind.SERIAL, RevocationKind.KEY, RevocationKind.KEY_ID):
            revocations = Revocations([revocation(shown, kind)])
            with self.assertRaisesRegex(HostRefused, "is revoked: stolen"):
                self.check(shown, revocations=revocations)


class AgentTests(SynchronousTestCase):
    """What an agent makes of it."""

    def setUp(self) -> None:
        key = PrivateKey.generate()
        own = CertificateAuthority(CA, now=lambda: NOW).sign_agent(
            key.public, cluster="b", instance=ID, validity=60
        )
        self.credentials = AgentCredentials(key, own, (CA.public,))

    def test_another_authority_is_refused_with_advice(self) -> None:
        """It may have been exchanged while the agent was off."""
        other = certificate(PrivateKey.generate())
        with self.assertRaisesRegex(HostRefused, "copy host_ca.pub"):
            agent_check.check_host(other.algorithm, other.blob, self.credentials, NOW)

    def test_what_the_authority_has_revoked_is_refused(self) -> None:
        """As long as that holds."""
        shown = certificate()
        entry = Revocation.make(
            RevocationKind.KEY_ID, ID, reason="x", created=NOW, until=NOW + 60
        )
        own = self.credentials
        credentials = AgentCredentials(
            own.key, own.certificate, own.host_cas, following(None, NOW, add=entry)
        )
        with self.assertRaisesRegex(HostRefused, "is revoked"):
            agent_check.check_host(shown.algorithm, shown.blob, credentials, NOW)
        agent_check.check_host(shown.algorithm, shown.blob, credentials, NOW + 62)
