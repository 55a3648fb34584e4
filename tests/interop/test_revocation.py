"""Revoked, expired or no longer allowed while connected: real ssh, two real proxies."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import time
from contextlib import ExitStack
from typing import Any

from rtunnel.config import load_proxy
from rtunnel.timestamps import rfc3339
from tests.interop.deployment import Deployment, Layout
from tests.interop.openssh import OpenSSH
from tests.interop.peers import require_peer
from tests.interop.processes import run, wait_until
from tests.interop.programs import Proxy, rtunnel
from tests.interop.revocation_lists import empty_krl
from tests.interop.sharing import DeploymentTestCase, shared

#: Seconds within which every proxy has to act.
WITHIN = 10


class Sessions:
    """One ``ssh -W`` through each proxy to the target's sshd, which waits for a login.

    That sshd would wait for two minutes.
    """

    def __init__(
        self, deployment: Deployment, ssh: OpenSSH, cluster: str = "b"
    ) -> None:
        self._log = ssh.directory / "ssh.log"
        self._begin = self._log.stat().st_size if self._log.exists() else 0
        self.processes: list[subprocess.Popen[bytes]] = []
        for proxy in deployment.proxies:
            process = ssh.start(
                *("-W", f"web1.{cluster}:{deployment.sshd.port}", proxy.name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            self.processes.append(process)
            assert process.stdout is not None
            if not process.stdout.readline().startswith(b"SSH-2.0-"):
                self.close()
                raise AssertionError(f"ssh does not begin: {self.said()}")

    def said(self) -> str:
        """What they said on standard error."""
        return self._log.read_text()[self._begin :]

    @property
    def alive(self) -> int:
        """How many go on."""
        return sum(process.poll() is None for process in self.processes)

    def close(self) -> None:
        """End those that go on."""
        for process in self.processes:
            process.kill()
            process.communicate()


@functools.cache
def layout() -> Layout:
    """Two proxies that read one key revocation list, which is empty at first."""
    krl = empty_krl()
    return Layout(
        proxies=2,
        proxy_settings=(f'revocation.krl=["{krl}"]', "close_on_change=true"),
    )


class RevocationTestCase(DeploymentTestCase):
    """What the tests below have in common: the deployment, most of all."""

    @property
    def deployment(self) -> Deployment:
        """The shared deployment."""
        return shared(layout())

    def sessions(
        self, deployment: Deployment, ssh: OpenSSH, cluster: str = "b"
    ) -> Sessions:
        """Sessions that end with the test at the latest."""
        sessions = Sessions(deployment, ssh, cluster)
        self.addCleanup(sessions.close)
        return sessions

    def revoke(self, proxy: Proxy, *arguments: str) -> dict[str, Any]:
        """What ``rtunnel revoke --json`` says, asked at one proxy."""
        done = run(rtunnel("revoke", "--state", proxy.state, "--json", *arguments))
        record: dict[str, Any] = json.loads(done.stdout)
        return record

    def trust_again(self, proxy: Proxy, record: dict[str, Any]) -> None:
        """Leave the deployment as it was."""
        run(rtunnel("revoke", "--state", proxy.state, "--remove", record["id"]))

    def assert_ended(self, sessions: Sessions, reason: str) -> None:
        """All of them end in time, and ssh says why."""
        wait_until(lambda: not sessions.alive, WITHIN, "ssh goes on")
        self.assertEqual(
            sessions.said().count(reason), len(sessions.processes), sessions.said()
        )

    def events(self, proxy: Proxy, name: str, since: float) -> list[dict[str, Any]]:
        """The audit lines of one event, from a moment on."""
        begin = rfc3339(since)
        return [
            event
            for event in proxy.audit()
            if event["event"] == name and event["time"] >= begin
        ]


class RevokedTests(RevocationTestCase):
    """``rtunnel revoke`` at one proxy counts at both."""

    def test_person_is_disconnected_and_kept_out(self) -> None:
        """Others are not; trusted again they are let in again."""
        deployment = self.deployment
        first, _ = deployment.proxies
        carol = deployment.person("carol", "ops")
        hers = self.sessions(deployment, carol)
        others = self.sessions(deployment, deployment.ssh)
        began = time.time()
        record = self.revoke(first, "--user", "carol", "--reason", "laptop lost")
        self.assert_ended(hers, "certificate or key has been revoked")
        self.assertLess(time.time() - began, WITHIN)
        # Why is nobody's business but the operator's.
        self.assertNotIn("laptop", hers.said())
        for proxy in deployment.proxies:
            refused = carol.run("ssh", "-W", "web1.b:22", proxy.name)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn(b"Permission denied", refused.stderr)
            (ended,) = self.events(proxy, "login_ended", began)
            self.assertEqual(ended["reason"], "user carol is revoked: laptop lost")
        self.assertEqual(others.alive, 2)
        self.trust_again(first, record)
        for proxy in deployment.proxies:
            wait_until(
                lambda name=proxy.name: (  # type: ignore[misc]
                    carol.run("ssh", name, "ls").returncode == 0
                ),
                WITHIN,
                "Carol is kept out",
            )

    def test_certificate_that_expires_ends_its_connections(self) -> None:
        """On the second, at both proxies, with a word on what to do."""
        deployment = self.deployment
        dora = deployment.person("dora", "ops")
        directory = dora.directory
        signing = rtunnel(
            *("user", "sign", "dora", "--principal", "ops", "--ttl", "8s"),
            *("--state", deployment.proxies[0].state),
            *("--key", directory / "id.pub", "--force"),
        )
        run(signing)
        expires = time.time() + 8
        sessions = self.sessions(deployment, dora)
        wait_until(lambda: not sessions.alive, 30, "ssh goes on")
        self.assertGreater(time.time(), expires - 2)
        self.assertEqual(
            sessions.said().count("log in with a new one"), 2, sessions.said()
        )


class AgentTests(RevocationTestCase):
    """An agent that is not trusted any longer."""

    def test_agent_is_gone_from_both_proxies(self) -> None:
        """People hear that its cluster is offline; other clusters stay."""
        deployment = self.deployment
        first, second = deployment.proxies
        agent = deployment.add_agent("c", "agent-c")
        agent.start()
        self.addCleanup(agent.process.kill)

        def held() -> list[str]:
            return [
                tunnel["agent"]
                for proxy in deployment.proxies
                for tunnel in proxy.tunnels("c")
            ]

        wait_until(lambda: len(held()) == 2, 30, deployment.tails)
        theirs = self.sessions(deployment, deployment.ssh, "c")
        others = self.sessions(deployment, deployment.ssh)
        self.revoke(second, "--agent", held()[0], "--reason", "stolen")
        wait_until(lambda: not theirs.alive and not held(), WITHIN, deployment.tails)
        wait_until(
            lambda: (
                b"offline" in deployment.ssh.run("ssh", "-W", "web1.c:22", "lb").stderr
            ),
            WITHIN,
            deployment.tails,
        )
        self.assertEqual((others.alive, len(first.tunnels())), (2, 1))


class ProxyTests(RevocationTestCase):
    """A proxy whose key is in somebody else's hands."""

    def test_agents_turn_away_from_it_and_come_back(self) -> None:
        """Though it runs and would take them; also after a start of the agent's."""
        deployment = self.deployment
        first, second = deployment.proxies
        [agent] = deployment.agents
        ids = [proxy.status()["proxy"]["id"] for proxy in deployment.proxies]
        deployment.wait_tunnels()
        key = second.state / "host_key.pub"
        record = self.revoke(first, "--key", str(key), "--reason", "stolen")
        # Whatever comes of it, the other tests need both proxies.
        undo = ExitStack()
        self.addCleanup(undo.close)
        undo.callback(self.trust_again, first, record)
        wait_until(
            lambda: f"closing the tunnel to proxy {ids[1]}" in agent.process.tail(),
            WITHIN,
            deployment.tails,
        )
        wait_until(lambda: not self.held_by(second), WITHIN, deployment.tails)
        self.assertTrue(self.held_by(first))
        agent.process.stop()
        agent.start()
        wait_until(lambda: self.held_by(first), 30, deployment.tails)
        # It has been there, and has seen that it is revoked.
        wait_until(lambda: "is revoked" in agent.process.tail(), 30, deployment.tails)
        self.assertFalse(self.held_by(second))
        undo.close()
        wait_until(lambda: self.held_by(second), 60, deployment.tails)

    def held_by(self, proxy: Proxy) -> bool:
        """Whether an agent of cluster b has a tunnel there, as it says itself."""
        own = proxy.status()["proxy"]["id"]
        return any(tunnel["proxy"] == own for tunnel in proxy.tunnels())


class RevocationListTests(RevocationTestCase):
    """A list of ``ssh-keygen -k``, which both proxies read."""

    def test_key_on_a_list_that_changes_is_disconnected(self) -> None:
        """Without anybody telling the proxies; others stay."""
        deployment = self.deployment
        krl = load_proxy(deployment.proxies[0].state / "proxy.toml").revocation.krl[0]
        carol = deployment.person("carol", "ops")
        hers = self.sessions(deployment, carol)
        others = self.sessions(deployment, deployment.ssh)
        empty = krl.read_bytes()
        self.addCleanup(krl.write_bytes, empty)
        key = carol.directory / "id.pub"
        run([require_peer("ssh-keygen"), "-q", "-k", "-u", "-f", krl, key])
        self.assert_ended(hers, "certificate or key has been revoked")
        self.assertEqual(others.alive, 2)


class RulesTests(RevocationTestCase):
    """Rules that change while somebody is connected."""

    def test_connections_that_rules_allow_no_longer_are_closed(self) -> None:
        """On SIGHUP, at the proxy that has other rules now."""
        deployment = self.deployment
        first, _ = deployment.proxies
        sessions = self.sessions(deployment, deployment.ssh)
        path = first.state / "proxy.toml"
        before = path.read_text()
        self.addCleanup(first.process.signal, signal.SIGHUP)
        self.addCleanup(path.write_text, before)
        path.write_text(before.replace('"ops"', '"nobody"'))
        first.process.signal(signal.SIGHUP)
        wait_until(lambda: sessions.alive == 1, WITHIN, "ssh goes on")
        self.assertIsNotNone(sessions.processes[0].poll())
        checked = run(
            rtunnel(
                *("access", "check", "alice", "web1.b", "--principal", "ops"),
                *("--state", first.state),
            ),
            check=False,
        )
        self.assertEqual(checked.returncode, 1)
        self.assertTrue(checked.stdout.startswith("no: "), checked.stdout)
