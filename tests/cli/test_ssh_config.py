"""``rtunnel ssh-config``, with the real ssh as the judge."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rtunnel.wire.keys import PrivateKey
from tests.cli.running import CommandTestCase
from tests.interop.peers import require_peer, require_sshd
from tests.interop.processes import Process, environment, free_port, run


class SshConfigTests(CommandTestCase):
    """What is printed."""

    def setUp(self) -> None:
        super().setUp()
        self.init()

    def print(self, *more: str | Path) -> str:
        """What ssh-config prints."""
        return self.assert_done("ssh-config", "--state", self.state, *more)

    def anchors(self, text: str) -> list[str]:
        """The lines for known_hosts."""
        return [line for line in text.splitlines() if line.startswith("@")]

    def test_known_hosts_has_one_line_with_the_host_authority(self) -> None:
        """For every public name, with its port and without."""
        self.init("--force", "--public", "[2001:db8::1]:22")
        (line,) = self.anchors(self.print())
        marker, patterns, *key, _ = line.split()
        self.assertEqual(marker, "@cert-authority")
        self.assertEqual(
            patterns.split(","),
            [
                *("lb.example.com", "[lb.example.com]:3023"),
                *("2001:db8::1", "[2001:db8::1]:22"),
            ],
        )
        self.assertEqual(key, (self.state / "host_ca.pub").read_text().split()[:2])

    def test_names_that_a_shell_would_read_are_no_names(self) -> None:
        """Clusters' names end up in a ProxyCommand, maybe; people's in ``%r``."""
        key = self.state.parent / "somebody.pub"
        key.write_text(PrivateKey.generate().public.to_openssh() + "\n")
        state = ("--state", self.state)
        before = sorted(self.state.parent.rglob("*"))
        for name in ("$(id)", "`id`", "a;id", "a|b", "a b", "%h", "a\nb", "../a", "'a"):
            for words in (
                ("ssh-config", *state, "--cluster", name),
                ("user", "sign", name, *state, "--key", key),
                ("agent", "sign", name, *state, "--out", self.state.parent / "out"),
            ):
                self.assert_wrong_usage(*words)
        self.assertEqual(sorted(self.state.parent.rglob("*")), before)

    def test_every_key_of_the_authority_has_a_line(self) -> None:
        """While it is rotated there are two."""
        path = self.state / "host_ca.pub"
        path.write_text(path.read_text() + (self.state / "user_ca.pub").read_text())
        self.assertEqual(len(self.anchors(self.print())), 2)

    def test_each_part_can_be_had_alone(self) -> None:
        """To be appended to its file; together they are all there is."""
        whole = self.print()
        block = self.print("--only", "config")
        line = self.print("--only", "known-hosts")
        self.assertEqual(self.anchors(block), [])
        self.assertEqual(line.count("\n"), 1)
        self.assertIn(block, whole)
        self.assertTrue(whole.endswith(line))

    def test_nothing_in_it_would_be_expanded(self) -> None:
        """ssh takes a percent sign for its own."""
        self.assertNotIn("%", self.print("--cluster", "b"))

    def test_an_address_inside_tls_is_not_for_ssh(self) -> None:
        """Another is taken; when there is no other, that is said."""
        self.init(
            *("--force", "--set"),
            'ssh.public=["tls:lb.example.com:443", "direct.example.com:3023"]',
        )
        text = self.print()
        self.assertIn("HostName direct.example.com\n", text)
        self.assertNotIn("443", text)
        self.init("--force", "--set", 'ssh.public=["tls:lb.example.com:443"]')
        err = self.assert_refused("ssh-config", "--state", self.state)
        self.assertIn("ssh.public", err)

    def test_works_in_the_directory_of_any_proxy(self) -> None:
        """It needs public keys only."""
        out = self.directory / "proxy-2"
        self.assert_done(
            "proxy", "sign", "proxy-2", "--state", self.state, "--out", out
        )
        self.assertEqual(self.assert_done("ssh-config", "--state", out), self.print())


class StockSshTests(CommandTestCase):
    """What OpenSSH makes of it."""

    def setUp(self) -> None:
        super().setUp()
        self.ssh = require_peer("ssh")
        self.config = self.directory / "config"
        self.known_hosts = self.directory / "known_hosts"

    def write(self, *more: str) -> None:
        """Put both parts where ssh is told to look."""
        command = ["ssh-config", "--state", str(self.state), *more, "--only"]
        self.config.write_text(self.assert_done(*command, "config"))
        self.known_hosts.write_text(self.assert_done(*command, "known-hosts"))

    def settings(self, host: str) -> dict[str, str]:
        """What ssh would do for a host, by ``ssh -G``."""
        out = run([self.ssh, "-G", "-F", self.config, host]).stdout
        return dict(line.split(" ", 1) for line in out.splitlines() if " " in line)

    def test_hosts_of_the_clusters_go_through_the_proxy(self) -> None:
        """Those of the proxies' own, those that were named, and their agents' own."""
        self.init()
        self.write("--cluster", "b", "--cluster", "c")
        for host in ("web1.a", "web1.b", "10.0.0.5.c", "b"):
            settings = self.settings(host)
            self.assertEqual(settings["proxyjump"], "rtunnel-a")
            self.assertEqual(settings["hostname"], host)
        for host in ("web1.d", "example.com", "a"):
            self.assertNotIn("proxyjump", self.settings(host))

    def test_the_proxy_has_its_public_address(self) -> None:
        """And is reached without a jump."""
        self.init()
        self.write()
        settings = self.settings("rtunnel-a")
        self.assertEqual(settings["hostname"], "lb.example.com")
        self.assertEqual(settings["port"], "3023")
        self.assertNotIn("proxyjump", settings)

    def test_a_proxy_is_not_reached_through_itself(self) -> None:
        """Even if its own name ends like a cluster's."""
        self.assert_done(
            *("init", "--state", self.state, "--cluster", "a"),
            *("--public", "gate.b:3023"),
        )
        self.write("--cluster", "b")
        self.assertNotIn("proxyjump", self.settings("gate.b"))
        self.assertIn("proxyjump", self.settings("web1.b"))

    def test_a_proxy_is_believed(self) -> None:
        """An sshd with our host key and certificate, on another port than 22."""
        for name in ("localhost", "127.0.0.1"):
            self.assertIn("is known and matches", self.login(name, name))

    def test_a_proxy_by_another_name_is_not_believed(self) -> None:
        """The certificate does not name it."""
        output = self.login("localhost", "lb.example.com")
        self.assertIn("Host key verification failed", output)

    def login(self, host: str, public: str) -> str:
        """Try to log in at ``host``, where the proxy's public name is ``public``.

        :return: what ``ssh -v`` says. Nobody is let in; the host's proof comes first.
        """
        port = free_port()
        self.assert_done(
            *("init", "--force", "--state", self.state, "--cluster", "a"),
            *("--public", f"{public}:{port}"),
        )
        self.write()
        if public != host:
            text = self.known_hosts.read_text().replace(public, host)
            self.known_hosts.write_text(text)
        config = self.directory / "sshd_config"
        config.write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\n"
            f"HostKey {self.state}/host_key\n"
            f"HostCertificate {self.state}/host_key-cert.pub\n"
        )
        sshd = Process(
            "sshd",
            [require_sshd(), "-D", "-e", "-f", config],
            self.directory,
        )
        self.addCleanup(sshd.stop)
        sshd.wait_for_port(port)
        return subprocess.run(
            [
                *(self.ssh, "-v", "-F", self.config, "-p", str(port)),
                *("-o", f"UserKnownHostsFile={self.known_hosts}"),
                *("-o", "GlobalKnownHostsFile=/dev/null"),
                *("-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"),
                *("-o", "IdentityFile=none", host, "true"),
            ],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=30,
        ).stderr
