"""A target that never reads stops the sender, and fills nobody's memory."""

from __future__ import annotations

import time

from tests.interop.deployment import Layout
from tests.interop.processes import rss
from tests.interop.sharing import DeploymentTestCase

#: How long the sender pushes, in seconds.
DURATION = 60
#: What each process may grow by, in bytes.
GROWTH = 16 * 1024 * 1024


class SlowReaderTests(DeploymentTestCase):
    """ssh -W sends all it can to a target that has accepted and never reads."""

    def test_memory_of_proxy_and_agent_stays(self) -> None:
        """After 60 s neither has grown by 16 MiB, and others still get through."""
        deployment = self.deploy(Layout(proxies=1))
        deployment.wait_tunnels()
        programs = (*deployment.proxies, *deployment.agents)
        port = deployment.target("silent")
        deployment.ssh.output("web1.b", "true")
        before = {each.name: rss(each.process.pid) for each in programs}
        growth = dict.fromkeys(before, 0)
        with open("/dev/zero", "rb") as endless:
            sender = deployment.ssh.start("-W", f"web1.b:{port}", "lb", stdin=endless)
        self.addCleanup(sender.wait)
        self.addCleanup(sender.kill)
        end = time.monotonic() + DURATION
        while time.monotonic() < end:
            time.sleep(1)
            for each in programs:
                grown = rss(each.process.pid) - before[each.name]
                growth[each.name] = max(growth[each.name], grown)
        self.assertIsNone(sender.poll(), "the sender gave up")
        for name, grown in growth.items():
            self.assertLess(grown, GROWTH, name)
        deployment.ssh.output("web1.b", "true", timeout=5)
