"""Proxies, agents and authorities with keys of each type, met by stock ``ssh``."""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.state_directory import load_public_key
from rtunnel.wire.algorithms import HOST_KEY_ALGORITHMS
from rtunnel.wire.keys import KEY_TYPES, SK_ECDSA_P256, SK_ED25519
from tests.interop.peers import require_peer
from tests.interop.processes import LOOPBACK, run, wait_until
from tests.interop.programs import Agent, Proxy, rtunnel, settings, twistd
from tests.interop.ssh_agent import SecurityKeyAgent
from tests.interop.sshd import make_key
from tests.interop.test_algorithms import key_type_of, known_hosts_lines, sign
from tests.wire.examples import SecurityKey


class KeyTypeTests(SynchronousTestCase):
    """A proxy, agents and authorities whose keys are of another kind."""

    def setUp(self) -> None:
        """A directory for all of it."""
        directory = tempfile.TemporaryDirectory(prefix="rtunnel-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.ssh = require_peer("ssh")

    def make(self, *types: str, agent: Sequence[str] = ()) -> tuple[Proxy, Agent]:
        """Make a proxy and an agent of cluster ``b``.

        :param types: further options of ``rtunnel init``.
        :param agent: of ``rtunnel agent sign``.
        """
        proxy = Proxy("proxy", self.directory, LOOPBACK)
        address = f"{LOOPBACK}:{proxy.port}"
        run(
            rtunnel(
                *("init", "--state", proxy.state, "--cluster", "a"),
                *("--public", address, *types),
                *settings(proxy.settings(advertise=False)),
            )
        )
        made = Agent("agent", self.directory)
        state = ("--state", proxy.state, "--out", made.state)
        run(rtunnel("agent", "sign", "b", *state, *agent))
        return proxy, made

    def start(self, program: Proxy | Agent) -> None:
        """Start one of them; it ends with the test."""
        program.start()
        self.addCleanup(program.process.kill)

    def check_tunnel(self, proxy: Proxy, cluster: str) -> None:
        """Wait until an agent of a cluster believes the proxy, and is let in."""
        wait_until(
            lambda: proxy.tunnels(cluster),
            20,
            lambda: f"a tunnel\n{proxy.process.tail()}",
        )

    def log_in(self, proxy: Proxy, *words: str) -> list[str]:
        """The command with which a person, who has a certificate, asks a proxy.

        :param words: further options of ``ssh``.
        """
        person = self.directory / "person"
        if not person.exists():
            person.mkdir()
            make_key(person / "id")
            state = ("--state", self.directory / "proxy")
            run(rtunnel("user", "sign", "ops", *state, "--key", person / "id.pub"))
        known_hosts = person / f"known_hosts-{proxy.name}"
        known_hosts.write_text(known_hosts_lines(proxy.state))
        command = [self.ssh, "-F", "none", "-i", str(person / "id")]
        for option in (
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "GlobalKnownHostsFile=/dev/null",
            f"UserKnownHostsFile={known_hosts}",
        ):
            command += ["-o", option]
        return [*command, "-p", str(proxy.port), *words, LOOPBACK]

    def check_ssh(self, proxy: Proxy, key_type: str) -> None:
        """A person logs in under every algorithm of the host key."""
        names = [name for name in HOST_KEY_ALGORITHMS if key_type_of(name) == key_type]
        self.assertGreaterEqual(len(names), 2)
        for name in map(bytes.decode, names):
            command = self.log_in(proxy, "-v", "-o", f"HostKeyAlgorithms={name}")
            done = run([*command, "ls"])
            self.assertIn("b", done.stdout.split(), name)
            self.assertIn(f"kex: host key algorithm: {name}\n", done.stderr)

    def check_kind(self, key_type: str) -> None:
        """Everybody has keys of a type, as ``rtunnel`` makes them."""
        proxy, agent = self.make(
            *("--host-key-type", key_type, "--ca-key-type", key_type),
            agent=("--key-type", key_type),
        )
        self.start(proxy)
        proxy.wait_ready()
        self.start(agent)
        self.check_tunnel(proxy, "b")
        self.check_ssh(proxy, key_type)
        line = run(rtunnel("token", "add", "c", "--state", proxy.state)).stdout.strip()
        joined = Agent("joined", self.directory)
        run(rtunnel("join", line, "--state", joined.state, "--key-type", key_type))
        key, _ = load_public_key(joined.state / "agent_key.pub")
        self.assertEqual(key.algorithm, KEY_TYPES[key_type])
        self.start(joined)
        self.check_tunnel(proxy, "c")

    def test_ecdsa_p256(self) -> None:
        """Plain and certified; agents are told to believe it."""
        self.check_kind("ecdsa")

    def test_rsa(self) -> None:
        """With either hash."""
        self.check_kind("rsa")

    def test_another_proxy_with_a_key_of_another_type(self) -> None:
        """They believe each other: what one has no tunnel for goes by the other."""
        proxy, agent = self.make(
            *("--host-key-type", "rsa"),
            agent=settings(["tunnels=1", f'allow=["{LOOPBACK}:*"]']),
        )
        second = Proxy("second", self.directory, LOOPBACK)
        state = ("--state", proxy.state, "--out", second.state)
        values = settings(second.settings(advertise=False))
        key_type = ("--host-key-type", "ecdsa")
        run(rtunnel("proxy", "sign", "second", *state, *key_type, *values))
        for each in (proxy, second):
            self.start(each)
            each.wait_ready()
        self.start(agent)
        self.check_tunnel(proxy, "b")
        words = ("-W", f"{LOOPBACK}.b:{proxy.port}")
        shown = subprocess.run(
            self.log_in(second, *words), stdin=subprocess.DEVNULL, capture_output=True
        )
        # The target is the first proxy itself, which says who it is and hangs up.
        self.assertTrue(shown.stdout.startswith(b"SSH-2.0-rtunnel"), shown)
        self.assertEqual(second.tunnels("b"), [])

    def test_a_security_key_as_the_authority_of_people(self) -> None:
        """It signs for them when it is touched; otherwise the signature is no good."""
        proxy, _ = self.make()
        keys = [SecurityKey(kind) for kind in (SK_ED25519, SK_ECDSA_P256)]
        with (proxy.state / "user_ca.pub").open("a") as file:
            file.writelines(f"{key.public.to_openssh()}\n" for key in keys)
        self.start(proxy)
        proxy.wait_ready()
        command = [*self.log_in(proxy), "ls"]
        person = self.directory / "person"
        for number, key in enumerate(keys):
            authority = self.directory / f"ca-{number}.pub"
            authority.write_text(key.public.to_openssh() + "\n")
            for flags, exit_code in ((1, 0), (0, 255)):
                agent = SecurityKeyAgent(
                    self.directory / f"agent-{number}-{flags}", key, flags
                )
                self.addCleanup(agent.close)
                words: list[str | Path] = [
                    "-Us",
                    authority,
                    "-I",
                    "ops",
                    "-n",
                    "ops",
                    person / "id.pub",
                ]
                subprocess.run(
                    [require_peer("ssh-keygen"), "-q", *words],
                    env=os.environ | {"SSH_AUTH_SOCK": str(agent.path)},
                    check=True,
                )
                done = subprocess.run(command, capture_output=True, text=True)
                self.assertEqual(done.returncode, exit_code, done.stderr)

    def test_keys_made_and_certified_with_ssh_keygen(self) -> None:
        """In the place of ours, as the documentation says; the proxy stays the same."""
        proxy, agent = self.make()
        self.start(proxy)
        proxy.wait_ready()
        identity = proxy.id
        proxy.process.stop()
        self.replace_key(
            proxy.state / "host_key",
            proxy.state / "host_ca",
            *("-h", "-I", identity),
            principals=f"{identity},a,{LOOPBACK}",
        )
        self.replace_key(
            agent.state / "agent_key",
            proxy.state / "agent_ca",
            *("-I", str(uuid.uuid4())),
            principals="b",
        )
        self.start(proxy)
        proxy.wait_ready()
        self.assertEqual(proxy.id, identity)
        self.start(agent)
        self.check_tunnel(proxy, "b")
        self.check_ssh(proxy, "rsa")

    def replace_key(self, path: Path, ca: Path, *words: str, principals: str) -> None:
        """Put an RSA key in the place of one, and certify it.

        :param words: further options of ``ssh-keygen -s``.
        """
        for old in (path, path.with_name(path.name + ".pub")):
            old.unlink()
        make_key(path, "rsa")
        sign(path, ca, *words, principals=principals)

    def test_lists_that_the_key_cannot_serve_stop_the_start(self) -> None:
        """With one line that says what is needed, at a proxy and at an agent."""
        proxy = Proxy("proxy-1", self.directory, LOOPBACK)
        rsa_only = settings(['ssh.host_key_algorithms=["rsa-sha2-512"]'])
        run(
            rtunnel(
                *("init", "--state", proxy.state, "--cluster", "a"),
                *("--public", LOOPBACK, *settings(proxy.settings(advertise=False))),
                *rsa_only,
            )
        )
        agent = self.directory / "agent"
        state = ("--state", proxy.state)
        run(rtunnel("agent", "sign", "b", *state, "--out", agent, *rsa_only))
        for plugin, config in (
            ("rtunnel-proxy", proxy.state / "proxy.toml"),
            ("rtunnel-agent", agent / "agent.toml"),
        ):
            done = run(twistd(plugin, config), check=False, cwd=self.directory)
            self.assertEqual(done.returncode, 1)
            self.assertIn(
                f"{plugin}: {config}: ssh.host_key_algorithms: found rsa-sha2-512, "
                "expected one of ssh-ed25519-cert-v01@openssh.com",
                done.stderr,
            )
            self.assertNotIn("Traceback", done.stderr)
