"""Joining as users do it: the commands, stock ssh, and somebody in the way."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path

from rtunnel.trust.join_token import TOKEN_REFUSED, JoinLine, hash_of
from tests.interop.deployment import Layout
from tests.interop.processes import LOOPBACK, ROOT, environment, free_port, run
from tests.interop.programs import Proxy, rtunnel, settings
from tests.interop.sharing import DeploymentTestCase
from tests.interop.sshd import Sshd, make_key

ALLOW = settings(['allow=["localhost:*", "127.0.0.1:*"]'])


class JoinTests(DeploymentTestCase):
    """Two proxies behind the balancer; the second has no authority's private key."""

    layout = Layout(proxies=2, agents=0)

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    @property
    def first(self) -> Proxy:
        """The one that can sign."""
        return self.deployment.proxies[0]

    def add(self, *arguments: str) -> str:
        """``rtunnel token add``, asked of the running proxy."""
        state = ("--state", self.first.state)
        line: str = run(rtunnel("token", "add", *state, *arguments)).stdout
        self.assertEqual(line.count("\n"), 1)
        return line.strip()

    def join(
        self, line: str, *arguments: str | Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``rtunnel join``, into ``state`` of this test's directory."""
        command = rtunnel("join", line, "--state", self.directory / "state", *arguments)
        return subprocess.run(
            command,
            env=environment() | (env or {}),
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.directory,
        )

    def joined(self, line: str, *arguments: str | Path) -> str:
        """What a join that succeeds prints."""
        done = self.join(line, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def refused(self, line: str, **more: dict[str, str]) -> str:
        """The one sentence of a join that fails, and leaves nothing behind."""
        done = self.join(line, **more)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertEqual(list(self.directory.glob("state*")), [])
        return done.stderr.splitlines()[-1].removeprefix("rtunnel: ")

    def is_good(self, line: str) -> bool:
        """Whether the token in a line can be used."""
        token_id = hash_of(JoinLine.parse(line).token)[:12]
        return any(each["id"] == token_id for each in self.tokens())

    def tokens(self) -> list[dict[str, object]]:
        """The tokens that are good."""
        state = ("--state", self.first.state)
        listed: list[dict[str, object]] = json.loads(
            run(rtunnel("token", "ls", "--json", *state)).stdout
        )
        return listed

    def test_from_one_line_to_ssh(self) -> None:
        """By either proxy; the line is good once."""
        deployment = self.deployment
        port = deployment.balancer_port
        proxies = settings([f'proxies=["{LOOPBACK}:{port}"]'])
        agents = []
        for proxy in deployment.proxies:
            line = self.add("b").replace(f":{port},", f":{proxy.port},")
            agent = deployment.adopt_agent(f"joined-{proxy.name}")
            done = run(rtunnel("join", line, "--state", agent.state, *ALLOW, *proxies))
            self.assertIn("twistd -n rtunnel-agent", done.stdout)
            agents.append(agent)
        self.assertEqual(self.refused(line), TOKEN_REFUSED)
        for agent in agents:
            agent.start()
            self.addCleanup(agent.process.stop)
        deployment.wait_tunnels(agents=len(agents))
        self.assertEqual(deployment.ssh.output("b", "echo", "hello"), "hello\n")
        for proxy, signs in zip(deployment.proxies, (True, False), strict=True):
            events = proxy.audit()
            logins = [e["key_id"] for e in events if e["event"] == "login_accepted"]
            self.assertTrue(any(str(who).startswith("token:") for who in logins))
            self.assertEqual(any(e["event"] == "join_accepted" for e in events), signs)

    def test_stock_ssh_as_the_documentation_shows(self) -> None:
        """Its commands, literally, but for where the proxy is."""
        text = (ROOT / "docs" / "operations.md").read_text()
        section = text.partition("### Without `rtunnel join`")[2]
        found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
        assert found is not None
        script = found[1].replace("3023", str(self.deployment.balancer_port))
        script = script.replace("lb.example.com", LOOPBACK)
        known = run(
            rtunnel("ssh-config", "--state", self.first.state, "--only", "known-hosts")
        ).stdout
        (self.directory / "join_known_hosts").write_text(known)
        line = JoinLine.parse(self.add("b"))
        askpass = self.directory / "askpass"
        askpass.write_text(f"#!/bin/sh\necho {shlex.quote(line.token)}\n")
        askpass.chmod(0o700)
        env = environment() | {
            "SSH_ASKPASS": str(askpass),
            "SSH_ASKPASS_REQUIRE": "force",
            "HOME": str(self.directory),
        }
        for attempt in ("good", "used"):
            done = subprocess.run(
                ["sh", "-c", script],
                env=env,
                cwd=self.directory,
                capture_output=True,
                text=True,
                timeout=60,
                stdin=subprocess.DEVNULL,
            )
            if attempt == "used":
                self.assertIn("Permission denied (password)", done.stderr)
                self.assertIn(TOKEN_REFUSED, done.stderr)
                break
            self.assertEqual(done.returncode, 0, done.stderr)
            state = self.deployment.directory / "by-hand"
            state.mkdir()
            for name in (
                "agent_key",
                "agent_key-cert.pub",
                "host_ca.pub",
                "agent.toml",
            ):
                (self.directory / name).rename(state / name)
        shown = run(["ssh-keygen", "-l", "-f", state / "host_ca.pub"]).stdout
        self.assertIn(line.host_cas[0], shown)
        agent = self.deployment.adopt_agent("by-hand")
        agent.start()
        self.addCleanup(agent.process.stop)
        self.deployment.wait_tunnels(agents=1)

    def test_a_further_proxy(self) -> None:
        """It starts, finds the others, and takes an agent that it could not sign."""
        deployment = self.deployment
        proxy = Proxy("proxy-9", deployment.directory, LOOPBACK)
        line = self.add("--proxy", "--name", "proxy-9")
        run(
            rtunnel(
                *("join", line, "--state", proxy.state),
                *settings(proxy.settings(advertise=False)),
            )
        )
        deployment.all_proxies.append(proxy)
        self.addCleanup(deployment.all_proxies.remove, proxy)
        proxy.start()
        try:
            proxy.wait_ready()
            names = {each["name"] for each in proxy.status()["proxies"]}
            self.assertEqual(names, {"proxy-1", "proxy-2", "proxy-9"})
            line = self.add("b")
            port = str(deployment.balancer_port)
            self.joined(line.replace(f":{port},", f":{proxy.port},"), *ALLOW)
        finally:
            proxy.process.stop()

    def test_whoever_is_in_the_way_does_not_get_the_token(self) -> None:
        """A real sshd with a key of its own, at the address of the proxy; and a line
        with another fingerprint. The token is good after it."""
        line = self.add("b")
        sshd = Sshd(self.directory / "sshd", make_key(self.directory / "key"), "")
        self.addCleanup(sshd.process.kill)
        port = str(self.deployment.balancer_port)
        wrong_ca = re.sub("SHA256:.{43}", "SHA256:" + "A" * 43, line)
        for told, said in (
            (line.replace(f":{port},", f":{sshd.port},"), "no host certificate"),
            (wrong_ca, "is of the authority SHA256:"),
        ):
            refused = self.refused(told)
            self.assertIn(said, refused)
            self.assertIn("was not sent and is still good", refused)
        self.assertTrue(self.is_good(line))
        self.joined(line)
        self.assertFalse(self.is_good(line))

    def test_every_address_is_tried(self) -> None:
        """And each step is told."""
        line = self.add("b").replace("at=", f"at={LOOPBACK}:{free_port()},at=", 1)
        done = self.join(line)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("no luck there", done.stderr)
        self.assertIn("is genuine", done.stderr)

    def test_nothing_is_written_over(self) -> None:
        """And the token stays good, unless forced."""
        self.joined(self.add("b"))
        before = (self.directory / "state" / "agent_key").read_bytes()
        line = self.add("b")
        done = self.join(line)
        self.assertEqual(done.returncode, 1)
        self.assertIn("--force", done.stderr)
        self.assertEqual((self.directory / "state" / "agent_key").read_bytes(), before)
        self.joined(line, "--force")
        self.assertNotEqual(
            (self.directory / "state" / "agent_key").read_bytes(), before
        )

    def test_the_line_may_come_from_standard_input(self) -> None:
        """Where no list of processes shows it."""
        done = subprocess.run(
            [*map(str, rtunnel("join", "-", "--state", self.directory / "state"))],
            input=self.add("b") + "\n",
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_withdrawn_token_is_none(self) -> None:
        """Nobody is told that it ever was one."""
        line = self.add("b", "--label", "shop 7")
        (record,) = (each for each in self.tokens() if each["label"] == "shop 7")
        state = ("--state", self.first.state)
        run(rtunnel("token", "rm", str(record["id"]), *state))
        self.assertEqual(self.refused(line), TOKEN_REFUSED)

    def test_an_interrupted_join_leaves_nothing(self) -> None:
        """Ctrl-C while somebody keeps it waiting: exit code 130, one line."""
        with socket.create_server((LOOPBACK, 0)) as silent:
            line = re.sub(
                "at=[^,]*", f"at={LOOPBACK}:{silent.getsockname()[1]}", self.add("b")
            )
            joining = subprocess.Popen(
                [*map(str, rtunnel("join", line, "--state", self.directory / "state"))],
                env=environment(),
                stderr=subprocess.PIPE,
                text=True,
            )
            connection, _ = silent.accept()
            with connection:
                # Its version line: it has begun, and so will hear of the signal.
                self.assertTrue(connection.recv(100))
                joining.send_signal(signal.SIGINT)
                _, said = joining.communicate(timeout=20)
        self.assertEqual(joining.returncode, 130)
        self.assertEqual(said.splitlines()[-1], "rtunnel: interrupted")
        self.assertEqual(list(self.directory.iterdir()), [])
