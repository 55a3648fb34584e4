"""A balancer that gives the same proxy each time, and no other way to the rest."""

from __future__ import annotations

import time

from tests.interop.deployment import Deployment, Layout
from tests.interop.processes import wait_until
from tests.interop.programs import Proxy
from tests.interop.sharing import DeploymentTestCase

#: What the agent says of such a balancer, once.
NOTICE = "gave proxies that have a tunnel already"
#: Seconds of looking on, and the dials in it that are no storm.
WATCHED = 10
CALM = 4


class PinnedBalancerTests(DeploymentTestCase):
    """Source hash: all dials of an agent are sent to one proxy."""

    def test_pinned_balancer_is_told_of_once_and_not_stormed(self) -> None:
        """Without addresses the agent keeps the proxy it gets, and says why."""
        deployment = self.deploy(Layout(proxies=2, balance="source"))
        wait_until(lambda: _held(deployment), 15, deployment.tails)
        (agent,) = deployment.agents

        def notices() -> list[str]:
            return [
                line for line in agent.process.output().splitlines() if NOTICE in line
            ]

        wait_until(notices, 40, deployment.tails)
        before = _logins(deployment)
        time.sleep(WATCHED)
        self.assertLessEqual(_logins(deployment) - before, CALM)
        self.assertEqual(len(notices()), 1)
        self.assertEqual(len(_held(deployment)), 1)
        deployment.ssh.output("-J", _held(deployment)[0].name, "web1.b", "true")


def _held(deployment: Deployment) -> list[Proxy]:
    """Return the proxies that hold a tunnel."""
    return [proxy for proxy in deployment.proxies if proxy.tunnels()]


def _logins(deployment: Deployment) -> int:
    """Return how many connections the balancer has passed on so far."""
    return sum(deployment.balancer.sessions(each.name) for each in deployment.proxies)
