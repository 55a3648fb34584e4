"""An agent that knows one address finds every proxy behind it."""

from __future__ import annotations

import time

from tests.interop.deployment import Deployment, Layout
from tests.interop.processes import wait_until
from tests.interop.programs import Proxy
from tests.interop.sharing import DeploymentTestCase

#: So many of five runs say on which side of a bound the median is.
MOST = 3


class JoinAndLeaveTests(DeploymentTestCase):
    """Proxies that come, go and come back behind the balancer."""

    def test_proxy_that_joins_is_found_and_one_that_leaves_is_let_go(self) -> None:
        """One proxy, then two, then each of them out of rotation and back."""
        deployment = self.deploy(Layout(proxies=1, spare=1))
        (first,), (second,) = deployment.proxies, deployment.spares
        deployment.wait_tunnels()

        second.start()
        second.wait_ready()
        deployment.balancer.add(second.name)
        deployment.wait_tunnels([first, second])
        for proxy in (first, second):
            deployment.ssh.output("-J", proxy.name, "web1.b", "true")

        for leaving, staying in ((first, second), (second, first)):
            deployment.balancer.remove(leaving.name)
            deployment.wait_tunnels([leaving], 5, agents=0)
            self.assertEqual(len(staying.tunnels()), 1)
            deployment.ssh.output("web1.b", "true")
            deployment.balancer.add(leaving.name)
            deployment.wait_tunnels([first, second])
            deployment.ssh.output("-J", leaving.name, "web1.b", "true")

        self.assertEqual(first.process.stop(), 0)
        wait_until(lambda: _holders(second) == {second.id}, 17, deployment.tails)
        deployment.ssh.output("web1.b", "true")

    def test_agent_survives_the_loss_of_every_proxy_it_knows(self) -> None:
        """Six times the only proxy dies and a different one appears."""
        deployment = self.deploy(Layout(proxies=1, spare=6))
        (current,) = deployment.proxies
        deployment.wait_tunnels()
        for following in deployment.spares:
            current.process.kill()
            deployment.balancer.remove(current.name)
            following.start()
            following.wait_ready()
            deployment.balancer.add(following.name)
            deployment.wait_tunnels([following])
            deployment.ssh.output("web1.b", "true")
            current = following

    def test_restart_of_all_proxies_is_recovered_from(self) -> None:
        """Cluster a goes down and comes back; the same client works within 30 s."""
        deployment = self.deploy(Layout(proxies=2))
        deployment.wait_tunnels()
        deployment.ssh.output("web1.b", "true")
        for proxy in deployment.proxies:
            self.assertEqual(proxy.process.stop(), 0)
        for proxy in deployment.proxies:
            proxy.start()
        for proxy in deployment.proxies:
            proxy.wait_ready()
        deployment.wait_tunnels(seconds=30)
        deployment.ssh.output("web1.b", "true")


class TwoAgentsTests(DeploymentTestCase):
    """Two agents of one cluster at one proxy."""

    def test_requests_work_when_one_of_two_agents_ends(self) -> None:
        """Three of three, and the listing still has the cluster."""
        deployment = self.deploy(Layout(proxies=1, agents=2))
        (proxy,) = deployment.proxies
        deployment.wait_tunnels()
        self.assertEqual(len({tunnel["agent"] for tunnel in proxy.tunnels()}), 2)
        self.assertEqual(deployment.agents[0].process.stop(), 0)
        for _ in range(3):
            deployment.ssh.output("web1.b", "true")
        self.assertEqual(len(proxy.tunnels()), 1)
        self.assertIn("b", deployment.ssh.output("lb", "ls").split())


class BalancingTests(DeploymentTestCase):
    """What each way to balance does to the search."""

    def test_round_robin_leads_to_every_proxy(self) -> None:
        """Each dial is sent to the next proxy."""
        self.deploy(Layout(proxies=3, balance="roundrobin")).wait_tunnels(seconds=10)

    def test_pinned_balancer_with_advertised_addresses_hides_no_proxy(self) -> None:
        """Source hash gives the same proxy each time; the others are dialled direct."""
        deployment = self.deploy(Layout(proxies=3, balance="source", advertise=True))
        deployment.wait_tunnels(seconds=10)


class FiveProxiesTests(DeploymentTestCase):
    """Five proxies behind a balancer that chooses at random."""

    def assert_median(self, layout: Layout, bound: float) -> None:
        """The median of the seconds from an agent's start to its last tunnel.

        There are no more runs than it takes to know on which side of the bound it is.
        """
        deployment = self.deploy(layout)
        (agent,) = deployment.agents
        deployment.wait_tunnels()
        within: list[float] = []
        over: list[float] = []
        while max(len(within), len(over)) < MOST:
            self.assertEqual(agent.process.stop(), 0)
            wait_until(lambda: not _held(deployment), 5, deployment.tails)
            start = time.monotonic()
            agent.start()
            deployment.wait_tunnels(seconds=30)
            taken = time.monotonic() - start
            (within if taken <= bound else over).append(taken)
        self.assertEqual(len(within), MOST, f"seconds: {within} and {over}")

    def test_all_are_found_by_chance_within_10_seconds(self) -> None:
        """The median of five runs, the start of the process included."""
        layout = Layout(proxies=5, balance="random")
        self.assert_median(layout, 10)

    def test_all_are_found_by_their_addresses_within_3_seconds(self) -> None:
        """The same when each proxy advertises where it is."""
        layout = Layout(proxies=5, balance="random", advertise=True)
        self.assert_median(layout, 3)


def _holders(proxy: Proxy) -> set[str]:
    """Return the ids of all proxies that hold a tunnel of b, as one proxy knows it."""
    return {
        tunnel["proxy"]
        for cluster in proxy.status()["clusters"]
        if cluster["name"] == "b"
        for tunnel in cluster["tunnels"]
    }


def _held(deployment: Deployment) -> list[Proxy]:
    """Return the proxies that hold a tunnel."""
    return [proxy for proxy in deployment.proxies if proxy.tunnels()]
