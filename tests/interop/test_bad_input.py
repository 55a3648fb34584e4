"""What is wrong gets a clear answer, and disturbs nothing that runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.peers import require_peer
from tests.interop.processes import LOOPBACK, run, wait_until
from tests.interop.programs import rtunnel_here, twistd
from tests.interop.sharing import DeploymentTestCase
from tests.interop.sshd import make_key

ROGUE_AGENT = Path(__file__).with_name("rogue_agent.py")

BAD_PROXY_TOML = """\
cluster = "No Cluster"
colour = "red"
[limits]
login_grace = "soon"
[web]
listen = ["tcp:no-port"]
[[allow]]
users = ["*"]
clusters = ["*"]
targets = ["*:99999"]
"""

BAD_AGENT_TOML = """\
cluster = "b"
proxies = []
tunnels = "some"
allow = ["no port"]
resolve = {web1 = "not an address"}
"""


class StartTests(SynchronousTestCase):
    """Programs that cannot start say why, in plain lines, with exit code 1."""

    def setUp(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="rtunnel-"))
        self.addCleanup(shutil.rmtree, self.state)
        self.proxy, self.agent = self.state / "proxy", self.state / "agent"
        options = ("--cluster", "a", "--public", f"{LOOPBACK}:3023")
        rtunnel_here("init", "--state", self.proxy, *options)
        rtunnel_here("agent", "sign", "b", "--state", self.proxy, "--out", self.agent)

    def _complaint(self, plugin: str, config: Path) -> str:
        """Return what a program that does not start says."""
        done = run(twistd(plugin, config), check=False)
        said = done.stdout + done.stderr
        self.assertEqual(done.returncode, 1, said)
        self.assertNotIn("Traceback", said)
        return said

    def _assert_names(self, said: str, *words: str) -> None:
        for word in words:
            self.assertIn(word, said)

    def test_every_problem_of_a_proxy_file_is_told_at_once(self) -> None:
        """Each with the file, the key and what was expected."""
        config = self.proxy / "proxy.toml"
        config.write_text(BAD_PROXY_TOML)
        said = self._complaint("rtunnel-proxy", config)
        self._assert_names(
            said, "proxy.toml", "No Cluster", "colour", "login_grace", "no-port"
        )
        self._assert_names(said, "targets", "99999")

    def test_every_problem_of_an_agent_file_is_told_at_once(self) -> None:
        """The same for agents."""
        config = self.agent / "agent.toml"
        config.write_text(BAD_AGENT_TOML)
        said = self._complaint("rtunnel-agent", config)
        self._assert_names(
            said, "agent.toml", "proxies", "tunnels", "no port", "not an address"
        )

    def test_file_that_is_missing_is_named(self) -> None:
        """The config file, and then a key."""
        absent = self.proxy / "absent.toml"
        self.assertIn(str(absent), self._complaint("rtunnel-proxy", absent))
        (self.proxy / "host_key").unlink()
        said = self._complaint("rtunnel-proxy", self.proxy / "proxy.toml")
        self.assertIn(str(self.proxy / "host_key"), said)

    def test_key_that_others_can_read_is_refused(self) -> None:
        """The line says which file, and how to mend it."""
        for plugin, config, key in (
            ("rtunnel-proxy", self.proxy / "proxy.toml", self.proxy / "host_key"),
            ("rtunnel-agent", self.agent / "agent.toml", self.agent / "agent_key"),
        ):
            key.chmod(0o644)
            self._assert_names(self._complaint(plugin, config), str(key), "chmod")

    def test_certificate_that_cannot_hold_is_refused_at_start(self) -> None:
        """An agent says so itself, and does not bother any proxy."""
        instance = _instance(self.agent)
        for what, options in (
            ("expired", ("-n", "b", "-V", "-2h:-1h")),
            ("host certificate", ("-h", "-n", "b", "-V", "+1h")),
            ("cluster", ("-n", "another", "-V", "+1h")),
        ):
            _sign(
                self.proxy / "agent_ca",
                self.agent / "agent_key.pub",
                *("-I", instance, *options),
            )
            said = self._complaint("rtunnel-agent", self.agent / "agent.toml")
            self._assert_names(said, "agent_key-cert.pub", what)


class StrangersTests(DeploymentTestCase):
    """Bad input to a deployment that goes on working all the while."""

    def setUp(self) -> None:
        """Open a connection that must outlive the test."""
        self.before = self._tunnels()
        echo = self.deployment.target("echo")
        self.witness = self.deployment.ssh.start(
            *("-W", f"web1.b:{echo}", "lb"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.addCleanup(self._end_witness)
        self._ask_witness(b"before\n")
        self.addCleanup(self._assert_undisturbed)

    def _assert_undisturbed(self) -> None:
        """The connection works, and every tunnel is the one that it was."""
        self._ask_witness(b"after\n")
        self.assertEqual(self._tunnels(), self.before)
        for program in (*self.deployment.proxies, *self.deployment.agents):
            self.assertTrue(program.process.is_alive, program.name)
            said = program.process.output()
            self.assertNotIn("Traceback", said)
            self.assertNotIn("\x1b", said)

    def _ask_witness(self, word: bytes) -> None:
        assert self.witness.stdin is not None and self.witness.stdout is not None
        self.witness.stdin.write(word)
        self.witness.stdin.flush()
        self.assertEqual(self.witness.stdout.readline(), word)

    def _end_witness(self) -> None:
        self.witness.kill()
        self.witness.communicate()

    def _tunnels(self) -> set[tuple[str, str, str]]:
        return {
            (tunnel["proxy"], tunnel["agent"], tunnel["since"])
            for proxy in self.deployment.proxies
            for tunnel in proxy.tunnels()
        }

    def _reasons(self) -> list[str]:
        """Return the reasons of all audit events at the first proxy so far."""
        events = self.deployment.proxies[0].audit()
        return [str(event.get("reason")) for event in events]

    def _assert_denied(self, what: str, *options: str, ca: Path) -> None:
        """Sign a key as told, and see it refused and the reason audited."""
        directory = self.deployment.directory / what.replace(" ", "-")
        directory.mkdir()
        make_key(directory / "id")
        _sign(ca, directory / "id.pub", *options)
        ssh = self.deployment.client(directory, directory / "id-cert.pub")
        known = len(self._reasons())
        proxy = self.deployment.proxies[0]
        done = ssh.run("ssh", "-W", "web1.b:22", proxy.name)
        self.assertEqual(done.returncode, 255, what)
        self.assertIn(b"Permission denied", done.stderr, what)
        wait_until(
            lambda: any(what in reason for reason in self._reasons()[known:]),
            2,
            lambda: f"{what!r} in {self._reasons()[known:]}",
        )

    def test_user_certificates_that_do_not_hold_are_refused(self) -> None:
        """All look alike from outside; our own log says what is wrong with each."""
        state = self.deployment.proxies[0].state
        user_ca = state / "user_ca"
        foreign_ca = self.deployment.directory / "foreign_ca"
        make_key(foreign_ca)
        alice = ("-I", "alice", "-n", "alice,ops")
        for what, options, ca in (
            ("expired", (*alice, "-V", "-2h:-1h"), user_ca),
            ("not valid before", (*alice, "-V", "+1h:+2h"), user_ca),
            ("no trusted CA", (*alice, "-V", "+1h"), foreign_ca),
            ("names no principal", ("-I", "alice", "-V", "+1h"), user_ca),
            (
                "may not be used from",
                (*alice, "-O", "source-address=192.0.2.0/24", "-V", "+1h"),
                user_ca,
            ),
            (
                "critical option",
                (*alice, "-O", "critical:novelty@example.com=1", "-V", "+1h"),
                user_ca,
            ),
        ):
            self._assert_denied(what, *options, ca=ca)

    def test_certificate_of_one_kind_is_refused_in_another_role(self) -> None:
        """What the agent or host authority signed is no person."""
        state = self.deployment.proxies[0].state
        for ca in ("agent_ca", "host_ca"):
            directory = self.deployment.directory / f"by-{ca}"
            directory.mkdir()
            make_key(directory / "id")
            _sign(
                state / ca,
                directory / "id.pub",
                *("-I", "alice", "-n", "alice,ops", "-V", "+1h"),
            )
            ssh = self.deployment.client(directory, directory / "id-cert.pub")
            done = ssh.run("ssh", "-W", "web1.b:22", "lb")
            self.assertEqual(done.returncode, 255, ca)
            self.assertIn(b"Permission denied", done.stderr, ca)

    def _stray_agent(self, name: str) -> Path:
        """Return a copy of the agent's state directory; its key and certificate too."""
        directory = self.deployment.directory / name
        shutil.copytree(self.deployment.agents[0].state, directory)
        return directory

    def _assert_agent_says(self, name: str, *words: str) -> None:
        """Start the stray agent, and wait for a line of its log with these words."""
        agent = self.deployment.adopt_agent(name)
        agent.start()
        try:
            wait_until(
                lambda: any(
                    all(word in line for word in words)
                    for line in agent.process.output().lower().splitlines()
                ),
                15,
                lambda: f"{words}\n{agent.process.tail()}",
            )
            self.assertEqual(self._tunnels(), self.before)
        finally:
            agent.process.kill()

    def test_agent_of_a_foreign_authority_gets_no_tunnel(self) -> None:
        """Its log says that the proxy does not accept it."""
        directory = self._stray_agent("foreign-agent")
        make_key(self.deployment.directory / "foreign_agent_ca")
        _sign(
            self.deployment.directory / "foreign_agent_ca",
            directory / "agent_key.pub",
            *("-I", _instance(directory), "-n", "b", "-V", "+1h"),
        )
        self._assert_agent_says("foreign-agent", "not accept", "certificate")

    def test_second_agent_of_one_instance_gets_no_tunnel(self) -> None:
        """The first keeps its tunnels; the second's log says why it has none."""
        self._stray_agent("twin-agent")
        self._assert_agent_says("twin-agent", "another", "instance")

    def _misbehave(self, *requests: tuple[str, str]) -> str:
        """Return what a rogue agent of cluster b reports."""
        name = f"rogue-{len(self.deployment.added_agents)}"
        agent = self.deployment.add_agent("b", name)
        proxy = self.deployment.proxies[0]
        script = agent.state / "requests.json"
        script.write_text(json.dumps(requests))
        words = (ROGUE_AGENT, LOOPBACK, str(proxy.port), agent.state, script)
        return run([sys.executable, *words]).stdout

    def test_malformed_control_messages_end_only_that_tunnel(self) -> None:
        """The reason comes with the disconnect."""
        for payload in (
            "{not json",
            "[]",
            '{"version": 7}',
            f'{{"version": "{"7" * 70_000}"}}',
        ):
            said = self._misbehave(("hello", payload))
            self.assertIn("hello: ConnectionClosed", said)
            self.assertIn("connection lost: ", said)
            self.assertIn("hello", said.partition("connection lost: ")[2])

    def test_unknown_control_message_is_answered_with_failure(self) -> None:
        """A newer agent may ask for more than we know."""
        said = self._misbehave(("novelty", "{}"), ("novelty", "{}"))
        self.assertEqual(said.splitlines()[:2], ["novelty: RequestFailed"] * 2)

    def test_names_with_control_characters_are_refused_and_logged_escaped(self) -> None:
        """No terminal of an operator is sent what a stranger wrote."""
        for name in ("web\x1b[31m1.b", "web1.b\x1b]0;x\x07", "web\n1.b", "\x01"):
            done = self.deployment.ssh.run("ssh", "-W", f"{name}:22", "lb")
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(b"open failed", done.stderr)
            self.assertNotIn(b"\x1b", done.stderr)
        for proxy in self.deployment.proxies:
            self.assertNotIn("\x1b", (proxy.state / "audit.jsonl").read_text())

    def test_target_over_255_characters_is_refused(self) -> None:
        """The sentence says what is too long."""
        done = self.deployment.ssh.run("ssh", "-W", f"{'w' * 300}.b:22", "lb")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"255", done.stderr)


def _sign(ca: Path, public: Path, *options: str) -> None:
    """Write the certificate of a public key with ssh-keygen."""
    run([require_peer("ssh-keygen"), "-q", "-s", ca, *options, public])


def _instance(agent: Path) -> str:
    """Return the instance id that an agent's certificate names."""
    shown = run(
        [require_peer("ssh-keygen"), "-L", "-f", agent / "agent_key-cert.pub"]
    ).stdout
    (line,) = (line for line in shown.splitlines() if "Key ID:" in line)
    return line.split('"')[1]
