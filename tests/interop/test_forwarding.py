"""Clients that the balancer sends to a proxy which holds no tunnel."""

from __future__ import annotations

import hashlib
import signal
import time

from tests.interop.deployment import Deployment, Layout
from tests.interop.processes import wait_until
from tests.interop.programs import Proxy
from tests.interop.sharing import DeploymentTestCase

#: An agent that leaves it to the proxies to pass connections on.
ONE_TUNNEL = Layout(proxies=2, agent_settings=("tunnels=1",))


def _settled(deployment: Deployment) -> tuple[Proxy, Proxy]:
    """Wait until every proxy knows of the one tunnel; return its holder, the other."""

    def known() -> bool:
        return all(
            any(each["tunnels"] for each in proxy.status()["clusters"])
            for proxy in deployment.proxies
        )

    wait_until(known, 20, deployment.tails)
    holders = [proxy for proxy in deployment.proxies if proxy.tunnels()]
    others = [proxy for proxy in deployment.proxies if not proxy.tunnels()]
    assert len(holders) == len(others) == 1, deployment.tails()
    return holders[0], others[0]


class ForwardingTests(DeploymentTestCase):
    """Two proxies, an agent with one tunnel, and nothing configured for peers."""

    def test_wherever_the_balancer_leads_the_target_is_reached(self) -> None:
        """Twenty of twenty, half of them through the proxy without the tunnel."""
        deployment = self.deploy(ONE_TUNNEL)
        holder, other = _settled(deployment)
        before = deployment.balancer.sessions(other.name)
        for number in range(20):
            said = deployment.ssh.output("web1.b", f"echo {number}")
            self.assertEqual(said, f"{number}\n")
        self.assertEqual(deployment.balancer.sessions(other.name) - before, 10)
        opened = [e for e in other.audit() if e["event"] == "connection_opened"]
        self.assertEqual(len(opened), 10)
        passed_on = {e["connection_id"] for e in opened}
        at_holder = [e for e in holder.audit() if e["event"] == "connection_opened"]
        self.assertEqual(len(at_holder), 20)
        self.assertLess(passed_on, {e["connection_id"] for e in at_holder})
        (agent,) = holder.tunnels()
        self.assertEqual({e["agent"] for e in opened}, {agent["agent"]})

        data = bytes(range(256)) * 40_000
        digest = deployment.ssh.output(
            "-J", other.name, "web1.b", "sha256sum", data=data
        )
        self.assertEqual(digest.split()[0], hashlib.sha256(data).hexdigest())

        # A tunnel that goes elsewhere is followed there.
        self.assertEqual(holder.process.stop(), 0)
        wait_until(other.tunnels, 30, deployment.tails)
        holder.start()
        holder.wait_ready()
        deployment.balancer.wait_up({each.name for each in deployment.proxies})
        _settled(deployment)
        deployment.ssh.output("-J", holder.name, "web1.b", "true")

    def test_a_peer_that_hangs_does_not_hold_clients_up(self) -> None:
        """They are told in seconds; when it goes on, so does everything."""
        deployment = self.deploy(ONE_TUNNEL)
        holder, other = _settled(deployment)
        deployment.ssh.output("-J", other.name, "web1.b", "true")
        holder.process.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            done = deployment.ssh.run("ssh", "-J", other.name, "web1.b", "true")
            self.assertEqual(done.returncode, 255)
            self.assertLess(time.monotonic() - began, 15)
            self.assertIn(holder.name.encode(), done.stderr)
        finally:
            holder.process.signal(signal.SIGCONT)

        def reached() -> bool:
            done = deployment.ssh.run("ssh", "-J", other.name, "web1.b", "true")
            return done.returncode == 0

        wait_until(reached, 40, deployment.tails, every=1)
