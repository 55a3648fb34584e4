"""Tests for :mod:`rtunnel.state_directory`: all that a proxy or an agent needs."""

from __future__ import annotations

from uuid import uuid4

from rtunnel.errors import KeyFileError
from rtunnel.state_directory import (
    AGENT_CA,
    AGENT_KEY,
    HOST_CA,
    HOST_KEY,
    USER_CA,
    certificate_path,
    load_agent_credentials,
    load_certificate,
    load_proxy_credentials,
    load_trust_anchors,
    public_path,
    write_key_pair,
    write_public,
)
from rtunnel.wire.certificate import CertificateKind
from rtunnel.wire.keys import PrivateKey, PublicKey
from tests.state_directories import NOW, DirectoryTestCase


class ProxyCredentialsTests(DirectoryTestCase):
    """What a proxy reads at its start."""

    def setUp(self) -> None:
        super().setUp()
        self.proxy_id = str(uuid4())
        self.key = PrivateKey.generate()
        self.ca = PrivateKey.generate()
        self.path = self.directory / HOST_KEY
        write_key_pair(self.path, self.key, "host")
        for name in (AGENT_CA, USER_CA):
            write_key_pair(self.directory / name, PrivateKey.generate(), name)
        write_key_pair(self.directory / HOST_CA, self.ca, HOST_CA)
        self.certify_host(self.key.public, self.ca)

    def certify_host(
        self,
        key: PublicKey,
        ca: PrivateKey,
        kind: CertificateKind = CertificateKind.HOST,
        principals: tuple[str, ...] | None = None,
        seconds: int = 3600,
    ) -> None:
        """Replace the host certificate."""
        self.certify(
            self.path, key, ca, kind, principals or (self.proxy_id, "a"), seconds
        )

    def assert_refused(self, *reasons: str) -> None:
        """The certificate file is refused for these reasons."""
        error = self.assertRaises(
            KeyFileError, load_proxy_credentials, self.directory, "a", NOW
        )
        for reason in (str(certificate_path(self.path)), *reasons):
            self.assertIn(reason, str(error))

    def test_reads_key_certificate_and_the_three_authorities(self) -> None:
        """The id is the certificate's first principal."""
        credentials = load_proxy_credentials(self.directory, "a", NOW)
        self.assertEqual(credentials.proxy_id, self.proxy_id)
        self.assertEqual(credentials.key.public, self.key.public)
        self.assertEqual(
            (credentials.host_cas, credentials.agent_cas, credentials.user_cas),
            tuple(
                load_trust_anchors(public_path(self.directory / name))
                for name in (HOST_CA, AGENT_CA, USER_CA)
            ),
        )

    def test_refuses_a_certificate_for_another_key(self) -> None:
        """Key and certificate were copied from two places."""
        self.certify_host(PrivateKey.generate().public, self.ca)
        self.assert_refused("another key", str(self.path))

    def test_refuses_a_certificate_of_another_authority(self) -> None:
        """Agents and clients would refuse it, so say it now."""
        self.certify_host(self.key.public, PrivateKey.generate())
        self.assert_refused("trusted CA")

    def test_refuses_an_expired_certificate(self) -> None:
        """And says how to get a new one."""
        self.certify_host(self.key.public, self.ca, seconds=-1)
        self.assert_refused("expired", "rtunnel proxy renew")

    def test_refuses_a_user_certificate(self) -> None:
        """The same authority's word about a person does not make a host."""
        self.certify_host(self.key.public, self.ca, CertificateKind.USER)
        self.assert_refused("user certificate")

    def test_refuses_a_certificate_of_another_cluster(self) -> None:
        """The config file was changed, or the directory mixed up."""
        self.certify_host(self.key.public, self.ca, principals=(self.proxy_id, "other"))
        self.assert_refused("'a'")

    def test_refuses_a_certificate_without_a_proxy_id(self) -> None:
        """As ssh-keygen would make it by hand."""
        self.certify_host(self.key.public, self.ca, principals=("a", "lb"))
        self.assert_refused("proxy's id")


class AgentCredentialsTests(DirectoryTestCase):
    """What an agent reads at its start."""

    def setUp(self) -> None:
        super().setUp()
        self.instance = str(uuid4())
        self.key = PrivateKey.generate()
        self.path = self.directory / AGENT_KEY
        write_key_pair(self.path, self.key, "agent")
        self.host_ca = PrivateKey.generate().public
        write_public(
            public_path(self.directory / HOST_CA), self.host_ca.to_openssh() + "\n"
        )
        self.certify_agent()

    def certify_agent(
        self,
        principals: tuple[str, ...] = ("b",),
        kind: CertificateKind = CertificateKind.USER,
        seconds: int = 3600,
    ) -> None:
        """Replace the agent's certificate."""
        self.certify(
            self.path,
            self.key.public,
            PrivateKey.generate(),
            kind,
            principals,
            seconds,
            self.instance,
        )

    def assert_refused(self, *reasons: str) -> None:
        """The certificate file is refused for these reasons."""
        error = self.assertRaises(
            KeyFileError, load_agent_credentials, self.directory, "b", NOW
        )
        for reason in (str(certificate_path(self.path)), *reasons):
            self.assertIn(reason, str(error))

    def test_reads_key_certificate_and_host_authority(self) -> None:
        """The instance id is the certificate's key id."""
        credentials = load_agent_credentials(self.directory, "b", NOW)
        self.assertEqual(credentials.instance, self.instance)
        self.assertEqual(credentials.key.public, self.key.public)
        self.assertEqual(credentials.host_cas, (self.host_ca,))

    def test_refuses_an_expired_certificate(self) -> None:
        """And says how to get a new one."""
        self.certify_agent(seconds=-1)
        self.assert_refused("expired", "rtunnel agent renew")

    def test_refuses_a_certificate_of_another_cluster(self) -> None:
        """No proxy would let it speak for the cluster in the config file."""
        self.certify_agent(principals=("c",))
        self.assert_refused("for cluster c", "says cluster b")
        self.certify_agent(principals=("b", "c"))
        self.assert_refused("for cluster b, c")

    def test_refuses_a_host_certificate(self) -> None:
        """A proxy's key is no agent's."""
        self.certify_agent(kind=CertificateKind.HOST)
        self.assert_refused("host certificate")

    def test_refuses_a_certificate_without_an_instance_id(self) -> None:
        """As ssh-keygen would make it by hand."""
        self.instance = "agent-1"
        self.certify_agent()
        self.assert_refused("agent's id")

    def test_says_where_a_missing_certificate_comes_from(self) -> None:
        """The agent's key alone is not enough."""
        certificate_path(self.path).unlink()
        self.assert_refused("no such file", "rtunnel agent sign")

    def test_refuses_a_malformed_certificate(self) -> None:
        """A plain public key is none."""
        write_public(
            certificate_path(self.path), self.key.public.to_openssh(), force=True
        )
        self.assertRaises(KeyFileError, load_certificate, certificate_path(self.path))
        self.assert_refused("not accepted")
