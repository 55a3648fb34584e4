"""Tests for :mod:`rtunnel.agent.host_check`; ``test_tunnel`` has them at work."""

from __future__ import annotations

import uuid

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent.host_check import check_host, proxy_id_of
from rtunnel.errors import CertificateError, HostRefused
from rtunnel.trust.authority import CertificateAuthority
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


class HostCheckTests(SynchronousTestCase):
    """:func:`check_host` and :func:`proxy_id_of`."""

    def check(self, shown: Certificate, now: float = NOW) -> Certificate:
        """What the agent makes of it."""
        return check_host(shown.algorithm, shown.blob, [CA.public], now)

    def test_every_proxy_of_our_authority_is_one_of_ours(self) -> None:
        """Whatever its names are; the id says which."""
        self.assertEqual(proxy_id_of(self.check(certificate())), ID)

    def test_another_authority_is_refused_with_advice(self) -> None:
        """It may have been exchanged while the agent was off."""
        other = certificate(PrivateKey.generate())
        error = self.assertRaises(HostRefused, self.check, other)
        self.assertIn("copy host_ca.pub", str(error))

    def test_one_of_ours_that_is_over_is_told_as_it_is(self) -> None:
        """No other authority would help."""
        late = NOW + 2 * 3600
        self.assertRaises(CertificateError, self.check, certificate(), late)

    def test_a_plain_key_is_refused(self) -> None:
        """Nobody vouches for it."""
        self.assertRaises(
            HostRefused, check_host, KEY.algorithm, KEY.blob, [CA.public], NOW
        )

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
        self.assertRaises(HostRefused, proxy_id_of, self.check(nameless))
