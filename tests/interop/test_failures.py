"""Networks and processes that fail without a word."""

from __future__ import annotations

import signal
import subprocess
import urllib.error
import urllib.request

from tests.interop.deployment import Deployment, Layout
from tests.interop.network import Network
from tests.interop.processes import tcp_sockets, wait_until
from tests.interop.programs import Agent, Proxy
from tests.interop.sharing import DeploymentTestCase

#: Seconds in which a dead tunnel is out of service: three heartbeats of 5 s, and one.
DEAD = 20


def _established(agent: Agent, deployment: Deployment) -> int:
    """Return how many connections to the balancer an agent has up."""
    return sum(
        each.state == "ESTABLISHED" and each.remote_port == deployment.balancer_port
        for each in tcp_sockets(agent.process.pid)
    )


class SilenceTests(DeploymentTestCase):
    """Nothing is closed or reset; packets or answers just stop."""

    def test_black_hole_ends_the_tunnel_at_both_ends(self) -> None:
        """Every packet is dropped: both ends give up within 20 s."""
        network = Network()
        self.addCleanup(network.close)
        deployment = self.deploy(
            Layout(proxies=2, address=network.outside, namespace=network.namespace)
        )
        deployment.wait_tunnels()
        (agent,) = deployment.agents
        deployment.ssh.output("web1.b", "true")
        self.assertEqual(_established(agent, deployment), 2)

        network.lose_everything()
        wait_until(
            lambda: (
                not any(proxy.tunnels() for proxy in deployment.proxies)
                and not _established(agent, deployment)
            ),
            DEAD,
            lambda: (
                f"proxies hold {[p.tunnels() for p in deployment.proxies]}, "
                f"the agent {_established(agent, deployment)}\n{deployment.tails()}"
            ),
        )
        refused = deployment.ssh.run("ssh", "-W", "web1.b:22", "lb", timeout=5)
        self.assertIn(b"offline", refused.stderr)

    def test_stopped_agent_is_out_of_service_and_comes_back(self) -> None:
        """SIGSTOP leaves its sockets open; no proxy takes it for alive."""
        deployment = self.deploy(Layout(proxies=2))
        deployment.wait_tunnels()
        (agent,) = deployment.agents
        agent.process.signal(signal.SIGSTOP)
        wait_until(
            lambda: not any(proxy.tunnels() for proxy in deployment.proxies),
            DEAD,
            deployment.tails,
        )
        agent.process.signal(signal.SIGCONT)
        deployment.wait_tunnels()
        deployment.ssh.output("web1.b", "true")

    def test_stopped_proxy_is_left_and_clients_use_the_other(self) -> None:
        """Its agent, its balancer and its fellow notice, and take it back later."""
        deployment = self.deploy(Layout(proxies=2))
        deployment.wait_tunnels()
        stopped, other = deployment.proxies
        (agent,) = deployment.agents
        stopped.process.signal(signal.SIGSTOP)
        deployment.balancer.wait_up({other.name})
        deployment.ssh.output("web1.b", "true", timeout=5)
        wait_until(lambda: _established(agent, deployment) == 1, DEAD, deployment.tails)
        self.assertEqual(len(other.tunnels()), 1)
        stopped.process.signal(signal.SIGCONT)
        deployment.wait_tunnels(seconds=40)
        deployment.ssh.output("-J", stopped.name, "web1.b", "true")


class DeathTests(DeploymentTestCase):
    """Processes that end, by accident or when asked to."""

    def test_next_ssh_uses_the_agent_that_is_left(self) -> None:
        """Two agents of one cluster; one is killed, and ssh works at once."""
        deployment = self.deploy(Layout(proxies=2, agents=2))
        deployment.wait_tunnels()
        for agent in deployment.agents:
            agent.process.kill()
            for proxy in deployment.proxies:
                deployment.ssh.output("-J", proxy.name, "web1.b", "true", timeout=5)
            agent.start()
            deployment.wait_tunnels()

    def test_only_proxy_is_found_again_when_it_restarts(self) -> None:
        """Killed and started anew, it has its tunnel back within 10 s of being up."""
        deployment = self.deploy(Layout(proxies=1))
        (proxy,) = deployment.proxies
        deployment.wait_tunnels()
        proxy.process.kill()
        proxy.start()
        proxy.wait_ready()
        deployment.wait_tunnels(seconds=10)
        deployment.ssh.output("web1.b", "true")

    def test_proxy_that_is_asked_to_end_lets_open_connections_finish(self) -> None:
        """SIGTERM: unready at once, what is open ends well, exit code 0."""
        deployment = self.deploy(Layout(proxies=2))
        deployment.wait_tunnels()
        leaving, staying = deployment.proxies
        session = deployment.ssh.start(
            *("-J", leaving.name, "web1.b", "echo begun; sleep 4; echo done"),
            stdout=subprocess.PIPE,
        )
        assert session.stdout is not None
        with session.stdout:
            self.assertEqual(session.stdout.readline(), b"begun\n")
            leaving.process.signal(signal.SIGTERM)
            wait_until(lambda: not _is_ready(leaving), 1, "readyz says 503")
            self.assertTrue(_is_ready(staying))
            deployment.ssh.output("web1.b", "true")
            self.assertEqual(session.stdout.read(), b"done\n")
        self.assertEqual(session.wait(10), 0)
        self.assertEqual(leaving.process.wait(10), 0)

    def test_agent_that_is_asked_to_end_lets_open_connections_finish(self) -> None:
        """SIGTERM to the agent: no new dial reaches it, what is open ends well."""
        deployment = self.deploy(Layout(proxies=1, agents=2))
        deployment.wait_tunnels()
        session = deployment.ssh.start(
            "web1.b", "echo begun; sleep 3; echo done", stdout=subprocess.PIPE
        )
        assert session.stdout is not None
        with session.stdout:
            self.assertEqual(session.stdout.readline(), b"begun\n")
            for agent in deployment.agents:
                agent.process.signal(signal.SIGTERM)
            self.assertEqual(session.stdout.read(), b"done\n")
        self.assertEqual(session.wait(10), 0)
        for agent in deployment.agents:
            self.assertEqual(agent.process.wait(10), 0)


def _is_ready(proxy: Proxy) -> bool:
    try:
        with urllib.request.urlopen(
            f"http://{proxy.address}:{proxy.web_port}/readyz", timeout=2
        ) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code != 503
