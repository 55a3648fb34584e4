"""``rtunnel proxy``."""

from __future__ import annotations

import time
from pathlib import Path

from rtunnel.config import load_proxy
from rtunnel.state_directory import load_certificate, load_proxy_credentials
from rtunnel.wire.keys import KEY_TYPES
from tests.cli.running import CommandTestCase


class ProxySignTests(CommandTestCase):
    """The state directory of another proxy."""

    def setUp(self) -> None:
        super().setUp()
        self.init("--set", 'name="proxy-1"')
        self.out = self.directory / "proxy-2"

    def sign(self, *more: str | Path) -> str:
        """Make ``proxy-2``."""
        return self.assert_done(
            "proxy", "sign", "proxy-2", "--state", self.state, "--out", self.out, *more
        )

    def refuse(self, *more: str | Path) -> str:
        """Fail to make ``proxy-2``."""
        return self.assert_refused(
            "proxy", "sign", "proxy-2", "--state", self.state, "--out", self.out, *more
        )

    def test_a_proxy_can_start_from_it(self) -> None:
        """With an id and a key of its own, and the same authorities."""
        self.sign()
        first = load_proxy_credentials(self.state, "a", time.time())
        second = load_proxy_credentials(self.out, "a", time.time())
        self.assertNotEqual(first.proxy_id, second.proxy_id)
        self.assertNotEqual(first.key.public, second.key.public)
        self.assertEqual(
            (first.host_cas, first.agent_cas, first.user_cas),
            (second.host_cas, second.agent_cas, second.user_cas),
        )
        self.assertEqual(
            second.certificate.principals[1:], ("a", "lb.example.com", "proxy-2")
        )

    def test_the_host_key_is_of_the_type_that_was_asked_for(self) -> None:
        """Whatever that of the first proxy is; what that means for agents is said."""
        for name, key_type in KEY_TYPES.items():
            printed = self.sign("--force", "--host-key-type", name)
            credentials = load_proxy_credentials(self.out, "a", time.time())
            self.assertEqual(credentials.key.public.algorithm, key_type)
            self.assertEqual(
                "ecdsa-sha2-nistp256-cert-v01@openssh.com" in printed, name == "ecdsa"
            )

    def test_no_authority_leaves_its_directory(self) -> None:
        """Only public keys are copied; the host key is the one private file."""
        self.sign()
        files = self.snapshot(self.out)
        self.assertEqual(
            set(files),
            {
                *("host_ca.pub", "agent_ca.pub", "user_ca.pub"),
                *("host_key", "host_key.pub", "host_key-cert.pub"),
                *("authorized_keys", "proxy.toml"),
            },
        )
        private = [name for name, (_, mode) in files.items() if mode & 0o077 == 0]
        self.assertEqual(private, ["host_key"])
        for name in ("host_ca", "agent_ca", "user_ca"):
            secret = (self.state / name).read_bytes().splitlines()[2]
            for content, _ in files.values():
                self.assertNotIn(secret, content)

    def test_every_line_of_an_authority_is_copied(self) -> None:
        """While an authority is rotated there are two."""
        self.init("--force")
        path = self.state / "agent_ca.pub"
        old = (self.state / "user_ca.pub").read_text()
        path.write_text(path.read_text() + old)
        self.sign()
        self.assertEqual(
            len(load_proxy_credentials(self.out, "a", time.time()).agent_cas), 2
        )

    def test_both_share_one_registry(self) -> None:
        """A relative path would be another file in another directory."""
        self.sign()
        self.assertEqual(
            load_proxy(self.out / "proxy.toml").registry.url,
            f"sqlite:{self.state}/registry.db",
        )

    def test_a_registry_that_cannot_be_shared_is_refused(self) -> None:
        """Two proxies with memory: would never hear of each other."""
        self.init("--force", "--set", 'registry.url="memory:"')
        path = self.state / "proxy.toml"
        self.assertIn(f"{path}: registry.url", self.refuse())
        self.assertFalse(self.out.exists())
        self.init("--force")
        refused = self.refuse("--set", 'registry.url="memory:"')
        self.assertIn("--set: registry.url", refused)
        refused = self.refuse("--set", 'registry.url="etcd:http://127.0.0.1:2379"')
        self.assertIn("not there yet", refused)

    def test_says_when_they_share_no_registry(self) -> None:
        """And nothing of sharing then; the same file by another name is the same."""
        self.assertIn("It shares the registry", self.sign())
        same = f'registry.url="sqlite:../{self.state.name}/registry.db"'
        self.assertIn("It shares the registry", self.sign("--force", "--set", same))
        other = self.sign("--force", "--set", 'registry.url="sqlite:other.db"')
        self.assertNotIn("shares", other)
        self.assertIn(f"sqlite:{self.out}/other.db", other)
        self.assertIn(f"sqlite:{self.state}/registry.db", other)
        self.assertIn("neither knows of the other", other)

    def test_settings_that_hold_for_every_proxy_are_taken_over(self) -> None:
        """Rules and limits; but not what speaks of the first proxy alone."""
        self.init(
            "--force",
            *("--set", "tunnel.heartbeat=1", "--set", "drain.timeout=7"),
            *("--set", 'allow=[{users=["ops"],clusters=["b"],targets=["web1:22"]}]'),
            *("--set", 'ssh.advertise=["p1.example.com:3023"]'),
            *("--set", 'peer.advertise=["p1.example.com:3024"]'),
            *("--set", 'audit.path="/var/log/p1.jsonl"'),
        )
        self.sign()
        first = load_proxy(self.state / "proxy.toml")
        second = load_proxy(self.out / "proxy.toml")
        self.assertEqual(second.name, "proxy-2")
        self.assertEqual(second.state, self.out)
        self.assertEqual(second.ssh.public, first.ssh.public)
        self.assertEqual(second.tunnel, first.tunnel)
        self.assertEqual(second.drain, first.drain)
        self.assertEqual(second.allow, first.allow)
        self.assertEqual((second.ssh.advertise, second.peer.advertise), ((), ()))
        self.assertEqual(second.audit.path, self.out / "audit.jsonl")

    def test_no_rule_stays_no_rule(self) -> None:
        """The rule that a new cluster starts with must not come back."""
        self.init("--force", "--set", "allow=[]")
        text = (self.state / "proxy.toml").read_text()
        for content in (text, text.replace("allow = []\n", "", 1)):
            (self.state / "proxy.toml").write_text(content)
            self.sign("--force")
            self.assertEqual(load_proxy(self.out / "proxy.toml").allow, ())

    def test_people_are_copied(self) -> None:
        """From where the first proxy reads them."""
        self.init("--force", "--set", 'ssh.authorized_keys="people"')
        (self.state / "people").write_text("# nobody but us\n")
        self.sign()
        config = load_proxy(self.out / "proxy.toml")
        self.assertEqual(config.ssh.authorized_keys, self.out / "authorized_keys")
        self.assertEqual(config.ssh.authorized_keys.read_text(), "# nobody but us\n")

    def test_says_what_two_proxies_on_one_machine_need(self) -> None:
        """Listeners of their own, as the registry ties them to the machine."""
        self.assertIn("tcp:3023", self.sign())
        out = self.sign(
            "--force",
            *("--set", 'ssh.listen=["tcp:3024"]', "--set", "web.listen=[]"),
        )
        self.assertNotIn("tcp:3023", out)
        self.assertIn(
            f"twistd -n rtunnel-proxy --config {self.out / 'proxy.toml'}", out
        )

    def test_refuses_to_be_the_first_proxy(self) -> None:
        """Neither its name nor its directory, nor another cluster."""
        before = self.snapshot(self.state)
        self.assert_refused(
            "proxy", "sign", "proxy-1", "--state", self.state, "--out", self.out
        )
        self.assert_refused(
            *("proxy", "sign", "proxy-2", "--force"),
            *("--state", self.state, "--out", self.state),
        )
        self.assertIn("cluster", self.refuse("--set", 'cluster="c"'))
        self.assertEqual(self.snapshot(self.state), before)
        self.assertFalse(self.out.exists())

    def test_a_directory_without_authorities_cannot_sign(self) -> None:
        """The one that was just made, for example."""
        self.sign()
        err = self.assert_refused(
            *("proxy", "sign", "proxy-3", "--state", self.out),
            *("--out", self.directory / "proxy-3"),
        )
        self.assertIn(f"{self.out / 'host_ca'}: no such file", err)
        self.assertIn("rtunnel init", err)

    def test_overwrites_nothing(self) -> None:
        """Unless forced to."""
        self.sign()
        before = self.snapshot(self.out)
        self.assertIn("--force", self.refuse())
        self.assertEqual(self.snapshot(self.out), before)
        self.sign("--force")
        self.assertNotEqual(self.snapshot(self.out)["host_key"], before["host_key"])


class ProxyRenewTests(CommandTestCase):
    """The certificate of a proxy that there is already."""

    def setUp(self) -> None:
        super().setUp()
        self.init("--ttl", "1s", "--set", 'name="proxy-1"')
        self.path = self.state / "host_key-cert.pub"

    def test_key_and_id_stay(self) -> None:
        """Only the end of the validity is another, and the certificate is in use."""
        old = load_certificate(self.path)
        self.assert_done("proxy", "renew", "--state", self.state, "--ttl", "1d")
        new = load_certificate(self.path)
        self.assertEqual((new.key, new.principals), (old.key, old.principals))
        self.assertApproximates(new.valid_before, time.time() + 86400, 60)
        load_proxy_credentials(self.state, "a", time.time() + 3600)

    def test_takes_a_copy_of_another_proxys_certificate(self) -> None:
        """The key of that proxy is not needed, and its own name stays."""
        out = self.directory / "proxy-2"
        self.assert_done(
            "proxy", "sign", "proxy-2", "--state", self.state, "--out", out
        )
        copy = self.directory / "copy-cert.pub"
        copy.write_bytes((out / "host_key-cert.pub").read_bytes())
        self.assert_done("proxy", "renew", "--state", self.state, "--certificate", copy)
        copy.replace(out / "host_key-cert.pub")
        credentials = load_proxy_credentials(out, "a", time.time())
        self.assertIn("proxy-2", credentials.certificate.principals)
        self.assertNotIn("proxy-1", credentials.certificate.principals)

    def test_new_public_names_are_added(self) -> None:
        """What proxy.toml says now."""
        path = self.state / "proxy.toml"
        path.write_text(path.read_text().replace("lb.example.com", "new.example.com"))
        self.assert_done("proxy", "renew", "--state", self.state)
        self.assertEqual(
            load_certificate(self.path).principals[1:],
            ("a", "new.example.com", "lb.example.com", "proxy-1"),
        )

    def test_only_our_own_host_certificates_are_renewed(self) -> None:
        """Else anybody's certificate would become one of ours."""
        other = self.directory / "other"
        self.assert_done(
            "init", "--state", other, "--cluster", "a", "--public", "lb.example.com"
        )
        agent = self.directory / "agent"
        self.assert_done("agent", "sign", "b", "--state", self.state, "--out", agent)
        for path in (other / "host_key-cert.pub", agent / "agent_key-cert.pub"):
            before = path.read_bytes()
            err = self.assert_refused(
                "proxy", "renew", "--state", self.state, "--certificate", path
            )
            self.assertIn(str(path), err)
            self.assertEqual(path.read_bytes(), before)
