"""``rtunnel agent``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from twisted.internet.testing import MemoryReactorClock

from rtunnel.agent.service import AgentService
from rtunnel.config import load_agent
from rtunnel.state_directory import (
    load_agent_credentials,
    load_certificate,
    load_trust_anchors,
)
from rtunnel.wire.certificate import CertificateKind
from rtunnel.wire.keys import KEY_TYPES
from tests.cli.running import CommandTestCase
from tests.interop.peers import require_peer
from tests.interop.processes import run


class AgentSignTests(CommandTestCase):
    """The state directory of an agent, without a token."""

    def setUp(self) -> None:
        super().setUp()
        self.init("--public", "tls:lb.example.com:443")
        self.out = self.directory / "agent"

    def sign(self, *more: str | Path) -> str:
        """Make an agent of cluster b."""
        return self.assert_done(
            "agent", "sign", "b", "--state", self.state, "--out", self.out, *more
        )

    def refuse(self, *more: str | Path, cluster: str = "b") -> str:
        """Fail to make an agent."""
        return self.assert_refused(
            *("agent", "sign", cluster, "--state", self.state),
            *("--out", self.out, *more),
        )

    def test_an_agent_can_start_from_it(self) -> None:
        """Key, certificate, host authority and config file fit together."""
        self.sign()
        config = load_agent(self.out / "agent.toml")
        self.assertEqual(config.cluster, "b")
        credentials = load_agent_credentials(config.state, "b", time.time())
        self.assertEqual(
            credentials.host_cas, load_trust_anchors(self.state / "host_ca.pub")
        )

    def test_an_agent_removes_private_keys_that_a_crash_left(self) -> None:
        """Files that were being written."""
        self.sign()
        left = self.out / ".agent_key.new.0123456789abcdef"
        left.write_text("a private key")
        config = load_agent(self.out / "agent.toml")
        reactor: Any = MemoryReactorClock()
        AgentService(config, reactor, now=time.time, environ={})
        self.assertFalse(left.exists())

    def test_certificate_is_for_one_cluster_by_the_agent_authority(self) -> None:
        """A user certificate for a day that proxies take for an agent's."""
        self.sign()
        certificate = load_certificate(self.out / "agent_key-cert.pub")
        certificate.check(
            kind=CertificateKind.USER,
            trusted=load_trust_anchors(self.state / "agent_ca.pub"),
            now=time.time(),
        )
        self.assertEqual(certificate.principals, ("b",))
        self.assertApproximates(certificate.valid_before, time.time() + 86400, 60)

    def test_the_key_is_of_the_type_that_was_asked_for(self) -> None:
        """And the certificate for it."""
        for name, key_type in KEY_TYPES.items():
            self.sign("--force", "--key-type", name)
            credentials = load_agent_credentials(self.out, "b", time.time())
            self.assertEqual(credentials.key.public.algorithm, key_type)

    def test_an_ecdsa_host_key_is_listed_where_proxies_have_one(self) -> None:
        """Agents believe none unless told to; what ``--set`` says comes first."""
        certified = b"ecdsa-sha2-nistp256-cert-v01@openssh.com"
        for name in KEY_TYPES:
            self.init("--force", "--host-key-type", name)
            self.sign("--force")
            algorithms = load_agent(self.out / "agent.toml").ssh.algorithms
            self.assertEqual(certified in algorithms.host_keys, name == "ecdsa")
            self.assertIn(b"ssh-ed25519-cert-v01@openssh.com", algorithms.host_keys)
        self.init("--force", "--host-key-type", "ecdsa")
        self.sign("--force", "--set", 'ssh.host_key_algorithms=["ssh-ed25519"]')
        algorithms = load_agent(self.out / "agent.toml").ssh.algorithms
        self.assertEqual(algorithms.host_keys, (b"ssh-ed25519",))

    def test_agents_differ_in_their_ids(self) -> None:
        """Several may serve one cluster."""
        self.sign()
        first = load_certificate(self.out / "agent_key-cert.pub")
        self.sign("--force")
        second = load_certificate(self.out / "agent_key-cert.pub")
        self.assertNotEqual(first.key_id, second.key_id)
        self.assertNotEqual(first.key, second.key)

    def test_proxies_are_found_where_the_proxies_say(self) -> None:
        """ssh.public of proxy.toml, all of it."""
        self.sign()
        self.assertEqual(
            [str(each) for each in load_agent(self.out / "agent.toml").proxies],
            ["lb.example.com:3023", "tls:lb.example.com:443"],
        )

    def test_only_the_agents_own_key_is_private(self) -> None:
        """And nothing of the authorities is there but the host's public key."""
        self.sign()
        files = self.snapshot(self.out)
        self.assertEqual(
            {name: mode for name, (_, mode) in files.items()},
            {
                "agent_key": 0o600,
                "agent_key.pub": 0o644,
                "agent_key-cert.pub": 0o644,
                "host_ca.pub": 0o644,
                "agent.toml": 0o644,
            },
        )

    def test_changes_the_config_file_as_told(self) -> None:
        """``--set`` takes TOML, any number of times."""
        self.sign("--set", 'allow=["*:*"]', "--set", "tunnels=1")
        self.assertEqual(load_agent(self.out / "agent.toml").tunnels, 1)
        self.assertIn("tunels", self.refuse("--force", "--set", "tunels=1"))

    def test_the_proxies_own_cluster_is_refused(self) -> None:
        """Its hosts are reached without an agent."""
        self.assertIn("own cluster", self.refuse(cluster="a"))
        self.assertFalse(self.out.exists())

    def test_certificate_and_config_file_name_one_cluster(self) -> None:
        """Another in the file alone would never come into service."""
        self.assertIn("cluster", self.refuse("--set", 'cluster="c"'))
        self.assertFalse(self.out.exists())

    def test_proxies_without_an_address_are_refused(self) -> None:
        """An agent would not know where to go."""
        self.init("--force", "--set", "ssh.public=[]")
        self.assertIn("ssh.public", self.refuse())

    def test_overwrites_nothing(self) -> None:
        """Unless forced to."""
        self.sign()
        before = self.snapshot(self.out)
        self.assertIn("--force", self.refuse())
        self.assertEqual(self.snapshot(self.out), before)

    def test_says_what_to_do_next(self) -> None:
        """The command that starts it."""
        self.assertIn(
            f"twistd -n rtunnel-agent --config {self.out / 'agent.toml'}", self.sign()
        )

    def test_ssh_keygen_reads_the_certificate(self) -> None:
        """A user certificate, its key id a UUID, its one principal the cluster."""
        self.sign()
        out = run(
            [
                require_peer("ssh-keygen"),
                "-L",
                "-f",
                self.out / "agent_key-cert.pub",
            ]
        ).stdout
        self.assertIn("user certificate", out)
        self.assertRegex(out, r'Key ID: "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"')
        self.assertRegex(out, r"Principals: *\n +b\n +Critical Options: \(none\)")


class AgentRenewTests(CommandTestCase):
    """The certificate of an agent that there is already."""

    def setUp(self) -> None:
        super().setUp()
        self.init()
        self.out = self.directory / "agent"
        self.assert_done(
            *("agent", "sign", "b", "--ttl", "1s"),
            *("--state", self.state, "--out", self.out),
        )
        self.path = self.out / "agent_key-cert.pub"

    def test_key_cluster_and_id_stay(self) -> None:
        """Only the end of the validity is another, and the certificate is in use."""
        old = load_certificate(self.path)
        self.assert_done(
            "agent", "renew", "--state", self.state, "--certificate", self.path
        )
        new = load_certificate(self.path)
        self.assertEqual(
            (new.key, new.principals, new.key_id), (old.key, old.principals, old.key_id)
        )
        load_agent_credentials(self.out, "b", time.time() + 3600)

    def test_the_key_is_not_its_certificate(self) -> None:
        """The file that is meant is named."""
        err = self.assert_refused(
            *("agent", "renew", "--state", self.state),
            *("--certificate", self.out / "agent_key.pub"),
        )
        self.assertIn(f"give its certificate, {self.path}", err)

    def test_only_our_own_agents_are_renewed(self) -> None:
        """A person's certificate, or a proxy's, does not become an agent's."""
        key = self.out / "agent_key.pub"
        person = self.directory / "person-cert.pub"
        self.assert_done(
            *("user", "sign", "b", "--state", self.state),
            *("--key", key, "--out", person),
        )
        for path in (person, self.state / "host_key-cert.pub"):
            before = path.read_bytes()
            self.assert_refused(
                "agent", "renew", "--state", self.state, "--certificate", path
            )
            self.assertEqual(path.read_bytes(), before)
