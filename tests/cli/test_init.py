"""``rtunnel init``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from uuid import UUID

from rtunnel.config import load_proxy
from rtunnel.state_directory import load_certificate, load_proxy_credentials
from rtunnel.wire.keys import KEY_TYPES
from tests.cli.running import CommandTestCase
from tests.interop.peers import require_peer
from tests.interop.processes import environment, run

LB = "lb.example.com:3023"
PRIVATE = {"host_ca", "agent_ca", "user_ca", "host_key"}
PUBLIC = {f"{name}.pub" for name in PRIVATE} | {"host_key-cert.pub"}
OTHERS = {"authorized_keys", "proxy.toml"}


class InitTests(CommandTestCase):
    """A new cluster, and the state directory of its first proxy."""

    def test_writes_every_file_of_a_proxy(self) -> None:
        """Private keys for their owner alone, in a directory for its owner alone."""
        self.addCleanup(os.umask, os.umask(0o022))
        self.init()
        files = self.snapshot(self.state)
        self.assertEqual(set(files), PRIVATE | PUBLIC | OTHERS)
        self.assertEqual(self.state.stat().st_mode & 0o777, 0o700)
        for name, (_, mode) in files.items():
            self.assertEqual(mode, 0o600 if name in PRIVATE else 0o644, name)

    def test_a_proxy_can_start_from_it(self) -> None:
        """Key, certificate, authorities and config file fit together."""
        self.init("--set", 'name="proxy-1"')
        config = load_proxy(self.state / "proxy.toml")
        self.assertEqual(config.cluster, "a")
        self.assertEqual([str(each) for each in config.ssh.public], [LB])
        credentials = load_proxy_credentials(self.state, "a", time.time())
        self.assertEqual(
            credentials.certificate.principals,
            (credentials.proxy_id, "a", "lb.example.com", "proxy-1"),
        )

    def test_the_three_authorities_are_three_keys(self) -> None:
        """So that one cannot sign in another's place."""
        self.init()
        credentials = load_proxy_credentials(self.state, "a", time.time())
        every = {
            *credentials.host_cas,
            *credentials.agent_cas,
            *credentials.user_cas,
            credentials.key.public,
        }
        self.assertEqual(len(every), 4)

    def test_keys_are_of_the_type_that_was_asked_for(self) -> None:
        """That of the host key, and that of the authorities; Ed25519 without a word."""
        types = ("ed25519", "ecdsa", "rsa")
        for host, authority in (("", ""), *zip(types, types[1:] + types, strict=False)):
            self.init(
                "--force",
                *(("--host-key-type", host) if host else ()),
                *(("--ca-key-type", authority) if authority else ()),
            )
            credentials = load_proxy_credentials(self.state, "a", time.time())
            self.assertEqual(
                credentials.key.public.algorithm, KEY_TYPES[host or "ed25519"]
            )
            for key in (
                *credentials.host_cas,
                *credentials.agent_cas,
                *credentials.user_cas,
            ):
                self.assertEqual(key.algorithm, KEY_TYPES[authority or "ed25519"])

    def test_a_type_that_there_is_not_is_wrong_usage(self) -> None:
        """Those that there are are named."""
        for option in ("--host-key-type", "--ca-key-type"):
            err = self.assert_wrong_usage(
                *("init", "--state", self.state, "--cluster", "a"),
                *("--public", LB, option, "dsa"),
            )
            for text in (option, "ed25519", "ecdsa", "rsa"):
                self.assertIn(text, err)
            self.assertFalse(self.state.exists())

    def test_certificate_names_every_public_host(self) -> None:
        """Without ports and brackets, each once; and the advertised ones."""
        self.init(
            *("--public", "lb.example.com:443", "--public", "[2001:db8::1]:3023"),
            *("--set", 'ssh.advertise=["p1.example.com:3023"]'),
        )
        certificate = load_certificate(self.state / "host_key-cert.pub")
        self.assertEqual(
            certificate.principals[1:],
            (
                *("a", "lb.example.com", "2001:db8::1", "p1.example.com"),
                load_proxy(self.state / "proxy.toml").name,
            ),
        )

    def test_validity_is_a_week_or_what_config_or_ttl_says(self) -> None:
        """Counted from now; what --ttl says comes first."""
        path = self.state / "host_key-cert.pub"
        self.init()
        self.assertApproximates(
            load_certificate(path).valid_before, time.time() + 604800, 60
        )
        self.init("--force", "--set", "certificates.proxy_ttl=3600")
        self.assertApproximates(
            load_certificate(path).valid_before, time.time() + 3600, 60
        )
        self.init("--force", "--ttl", "2d")
        self.assertApproximates(
            load_certificate(path).valid_before, time.time() + 2 * 86400, 60
        )

    def test_changes_the_config_file_as_told(self) -> None:
        """``--set`` takes TOML, any number of times; the comments stay."""
        self.init(
            *("--set", 'ssh.listen=["tcp:2022:interface=127.0.0.1"]'),
            *("--set", "tunnel.heartbeat=1"),
        )
        config = load_proxy(self.state / "proxy.toml")
        self.assertEqual(config.ssh.listen, ("tcp:2022:interface=127.0.0.1",))
        self.assertEqual(config.tunnel.heartbeat, 1)
        self.assertIn(
            "# seconds between heartbeats", (self.state / "proxy.toml").read_text()
        )

    def test_a_setting_that_cannot_be_used_leaves_nothing_behind(self) -> None:
        """The argument is named, and no file is written."""
        for setting, reason in (
            ("ssh.listen=5", "ssh.listen"),
            ("shh.listen=[]", "shh"),
            ("nonsense", "KEY=VALUE"),
            ('state="elsewhere"', "state"),
        ):
            err = self.assert_refused(
                *("init", "--state", self.state, "--cluster", "a"),
                *("--public", LB, "--set", setting),
            )
            self.assertIn(reason, err)
            self.assertFalse(self.state.exists())

    def test_overwrites_nothing(self) -> None:
        """One file in the way is enough; it is named, and every file stays."""
        self.init()
        before = self.snapshot(self.state)
        command = ("init", "--state", self.state, "--cluster", "a", "--public", LB)
        self.assertIn("--force", self.assert_refused(*command))
        self.assertEqual(self.snapshot(self.state), before)
        for name in PRIVATE | PUBLIC - {"user_ca.pub"} | {"proxy.toml"}:
            (self.state / name).unlink()
        self.assertIn(
            f"{self.state / 'user_ca.pub'}: already there",
            self.assert_refused(*command),
        )
        self.assertEqual(
            set(self.snapshot(self.state)), {"user_ca.pub", "authorized_keys"}
        )

    def test_a_disk_that_is_full_leaves_nothing_behind(self) -> None:
        """So that the next try needs no --force; a limit for files stands for it."""
        verb = ("-m", "rtunnel.cli.main", "init", "--state", self.state)
        options = ("--cluster", "a", "--public", LB)
        done = subprocess.run(
            [
                "sh",
                "-c",
                'ulimit -f 0; exec "$0" "$@"',
                sys.executable,
                *verb,
                *options,
            ],
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\A.*nothing can be written there: .*\n\Z")
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_force_makes_everything_new_but_the_people(self) -> None:
        """authorized_keys is written by hand, and would be lost."""
        self.init()
        before = self.snapshot(self.state)
        people = self.state / "authorized_keys"
        people.write_text("ssh-ed25519 AAAA alice\n")
        (self.state / "host_key").chmod(0o644)
        self.init("--force")
        after = self.snapshot(self.state)
        for name in PRIVATE | PUBLIC:
            self.assertNotEqual(after[name][0], before[name][0], name)
        self.assertEqual(after["host_key"][1], 0o600)
        self.assertEqual(people.read_text(), "ssh-ed25519 AAAA alice\n")

    def test_empty_authorized_keys_says_what_a_line_is(self) -> None:
        """In comments only: nobody is let in."""
        self.init()
        lines = (self.state / "authorized_keys").read_text().splitlines()
        self.assertTrue(any("comment is the person's name" in line for line in lines))
        self.assertEqual([line for line in lines if not line.startswith("#")], [])

    def test_says_what_to_do_next(self) -> None:
        """Commands to paste, with the paths as they were given."""
        state = self.directory / "my state"
        out = self.assert_done(
            "init", "--state", state, "--cluster", "a", "--public", LB
        )
        for command in (
            f"twistd -n rtunnel-proxy --config '{state}/proxy.toml'",
            f"rtunnel token add b --state '{state}'",
            f"rtunnel user sign alice --state '{state}'",
            f"rtunnel ssh-config --state '{state}'",
            f"ssh -J {LB} root@b",
        ):
            self.assertIn(command, out)

    def test_names_and_addresses_are_checked_first(self) -> None:
        """A dot in a cluster name, an address that is none: wrong usage."""
        for cluster, public in (("a.b", LB), ("a", "lb:port"), ("a", "::1")):
            self.assert_wrong_usage(
                *("init", "--state", self.state, "--cluster", cluster),
                *("--public", public),
            )
        self.assertFalse(self.state.exists())

    def test_name_is_that_of_this_host(self) -> None:
        """Unless it is set."""
        self.patch(socket, "gethostname", lambda: "gate7")
        self.init()
        self.assertEqual(load_proxy(self.state / "proxy.toml").name, "gate7")


class SshKeygenTests(CommandTestCase):
    """What OpenSSH makes of the files."""

    def setUp(self) -> None:
        super().setUp()
        self.ssh_keygen = require_peer("ssh-keygen")
        self.init("--set", 'name="proxy-1"')

    def test_reads_the_host_certificate(self) -> None:
        """A host certificate with these principals, signed by the host authority."""
        out = run(
            [self.ssh_keygen, "-L", "-f", self.state / "host_key-cert.pub"]
        ).stdout
        lines = [line.strip() for line in out.splitlines()]
        self.assertIn("Type: ssh-ed25519-cert-v01@openssh.com host certificate", lines)
        start = lines.index("Principals:") + 1
        principals = lines[start : lines.index("Critical Options: (none)")]
        UUID(principals[0])
        self.assertEqual(principals[1:], ["a", "lb.example.com", "proxy-1"])
        ca = run([self.ssh_keygen, "-l", "-f", self.state / "host_ca.pub"]).stdout
        fingerprint = ca.split()[1]
        self.assertTrue(any(line.startswith("Signing CA:") for line in lines))
        self.assertIn(fingerprint, out)

    def test_reads_the_private_keys(self) -> None:
        """Each file's public half is the one beside it."""
        for name in PRIVATE:
            path = self.state / name
            derived = run([self.ssh_keygen, "-y", "-f", path]).stdout.split()[:2]
            written = (self.state / f"{name}.pub").read_text().split()[:2]
            self.assertEqual(derived, written, name)
