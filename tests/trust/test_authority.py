"""What the authorities sign, and what ssh-keygen shows of it."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import CertificateError, InvalidName
from rtunnel.trust.authority import BACKDATE, CertificateAuthority, random_serial
from rtunnel.wire.certificate import CertificateKind
from rtunnel.wire.data_types import text
from rtunnel.wire.keys import ED25519
from tests.wire.examples import KEY_TYPES, NOW, private_key, require_program, ssh_keygen

PROXY_ID = "0b0e0ad2-5a4c-4d4e-9d5c-0f6a3c1c7d11"
INSTANCE = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
KEY = private_key(ED25519).public


def authority(name: str = "ca") -> CertificateAuthority:
    """An authority whose clock stands and whose serials are all 42."""
    return CertificateAuthority(
        private_key(ED25519, name), now=lambda: NOW + 0.75, serial=lambda: 42
    )


class CertificateAuthorityTests(SynchronousTestCase):
    """Three kinds of certificate."""

    def test_a_host_certificate_names_id_cluster_and_public_names(self) -> None:
        """The id first, each name once, in the order given."""
        certificate = authority().sign_host(
            KEY,
            proxy_id=PROXY_ID,
            cluster="a",
            public_names=["lb.example.com", "192.0.2.1", "2001:db8::1", "a"],
            validity=3600,
        )
        self.assertIs(certificate.kind, CertificateKind.HOST)
        self.assertEqual(
            certificate.principals,
            (PROXY_ID, "a", "lb.example.com", "192.0.2.1", "2001:db8::1"),
        )
        self.assertEqual(certificate.key_id, PROXY_ID)
        self.assertEqual(certificate.key, KEY)
        certificate.check(
            kind=CertificateKind.HOST, trusted=[authority().public], now=NOW
        )

    def test_an_agent_certificate_names_its_cluster_alone(self) -> None:
        """Its key id is the instance, and it grants nothing to a stock sshd."""
        certificate = authority().sign_agent(
            KEY, cluster="b", instance=INSTANCE, validity=3600
        )
        self.assertIs(certificate.kind, CertificateKind.USER)
        self.assertEqual(certificate.principals, ("b",))
        self.assertEqual(certificate.key_id, INSTANCE)
        self.assertEqual(certificate.extensions, ())
        self.assertEqual(certificate.critical_options, ())

    def test_a_user_certificate_names_the_person_and_more(self) -> None:
        """The name is always among the principals, once."""
        certificate = authority().sign_user(
            KEY, name="alice", principals=["ops", "alice", "ops"], ttl=60
        )
        self.assertIs(certificate.kind, CertificateKind.USER)
        self.assertEqual(certificate.key_id, "alice")
        self.assertEqual(certificate.principals, ("alice", "ops"))
        self.assertEqual(certificate.critical_options, ())
        self.assertIn(("permit-port-forwarding", b""), certificate.extensions)

    def test_a_user_certificate_may_be_bound_to_addresses(self) -> None:
        """By the one critical option that we honour."""
        certificate = authority().sign_user(
            KEY, name="alice", ttl=60, source_addresses=["192.0.2.0/24", "::1"]
        )
        self.assertEqual(
            certificate.critical_options,
            (("source-address", text("192.0.2.0/24,::1")),),
        )
        for bad in ("192.0.2.1/24", "example.com", ""):
            with self.assertRaises(CertificateError):
                authority().sign_user(KEY, name="alice", ttl=60, source_addresses=[bad])

    def test_validity_begins_a_minute_ago_and_ends_in_time(self) -> None:
        """In whole seconds, so never later than asked for."""
        certificate = authority().sign_user(KEY, name="alice", ttl=90.9)
        self.assertEqual(certificate.valid_after, NOW - BACKDATE)
        self.assertEqual(certificate.valid_before, NOW + 90)

    def test_a_certificate_is_valid_for_a_second_at_least(self) -> None:
        """Zero or less is a mistake, not "for ever"."""
        for ttl in (0, 0.5, -60):
            with self.assertRaises(CertificateError):
                authority().sign_user(KEY, name="alice", ttl=ttl)

    def test_the_serial_is_the_one_given(self) -> None:
        """And the usual ones are of 63 bits and differ."""
        certificate = authority().sign_user(KEY, name="alice", ttl=60)
        self.assertEqual(certificate.serial, 42)
        serials = {random_serial() for _ in range(100)}
        self.assertEqual(len(serials), 100)
        self.assertTrue(all(0 <= serial < 2**63 for serial in serials))

    def test_names_that_are_not_well_formed_are_not_signed(self) -> None:
        """Ids, clusters, people and hosts; ports are no part of a host's name."""
        signer = authority()

        def host(proxy_id: str, cluster: str, name: str) -> None:
            signer.sign_host(
                KEY,
                proxy_id=proxy_id,
                cluster=cluster,
                public_names=[name],
                validity=60,
            )

        host(PROXY_ID, "a", "lb.example.com")
        for bad in (
            "lb.example.com:3023",
            "[::1]:22",
            "*.example.com",
            "a,b",
            "a b",
            "",
            "-a",
            "a\n",
            "%h",
        ):
            with self.assertRaises(InvalidName):
                host(PROXY_ID, "a", bad)
        with self.assertRaises(InvalidName):
            host("proxy-1", "a", "lb.example.com")
        with self.assertRaises(InvalidName):
            host(PROXY_ID, "A.b", "lb.example.com")
        with self.assertRaises(InvalidName):
            signer.sign_agent(KEY, cluster="*", instance=INSTANCE, validity=60)
        with self.assertRaises(InvalidName):
            signer.sign_agent(KEY, cluster="b", instance="me", validity=60)
        for name, principals in (("*", ()), ("", ()), ("alice", ("%h",))):
            with self.assertRaises(InvalidName):
                signer.sign_user(KEY, name=name, principals=principals, ttl=60)


class SshKeygenTests(SynchronousTestCase):
    """All three in the hands of the real ssh-keygen."""

    def test_it_shows_what_we_signed(self) -> None:
        """For every kind of CA key."""
        require_program("ssh-keygen")
        path = Path(self.mktemp())
        for ca_type in KEY_TYPES:
            signer = CertificateAuthority(
                private_key(ca_type, "ca"), now=lambda: NOW, serial=lambda: 42
            )
            for certificate, wanted in (
                (
                    signer.sign_host(
                        KEY,
                        proxy_id=PROXY_ID,
                        cluster="a",
                        public_names=["lb.example.com"],
                        validity=3600,
                    ),
                    ("host certificate", f'"{PROXY_ID}"', "lb.example.com\n"),
                ),
                (
                    signer.sign_agent(
                        KEY, cluster="b", instance=INSTANCE, validity=3600
                    ),
                    ("user certificate", f'"{INSTANCE}"', "Extensions: (none)"),
                ),
                (
                    signer.sign_user(
                        KEY, name="alice", ttl=3600, source_addresses=["::1"]
                    ),
                    ("user certificate", '"alice"', "source-address ::1", "permit-pty"),
                ),
            ):
                path.write_text(certificate.to_openssh("a comment") + "\n")
                code, output = ssh_keygen("-L", "-f", path)
                self.assertEqual(code, 0, output)
                for shown in (
                    *wanted,
                    signer.public.fingerprint,
                    "Serial: 42",
                    "from 2027-01-15T07:59:00 to 2027-01-15T09:00:00",
                ):
                    self.assertIn(shown, output)
