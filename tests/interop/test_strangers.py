"""Whoever does not log in takes nothing from those who do: no place, memory or time."""

from __future__ import annotations

import time

from rtunnel.wire.keys import PrivateKey
from tests.interop.deployment import Deployment, Layout
from tests.interop.processes import rss
from tests.interop.sharing import DeploymentTestCase
from tests.interop.socket_client import SocketClient
from tests.interop.strangers import Strangers, addresses, allow_files

STRANGERS = 2000
LOGIN_GRACE = 6
#: Seconds that a login may take while they are there.
LOGIN_SECONDS = 3
#: Bytes of memory that one may cost.
STRANGER_BYTES = 64 * 1024
#: A login from elsewhere.
ELSEWHERE = "127.0.0.2"


class IdleStrangersTests(DeploymentTestCase):
    """2,000 connections that stop at every stage of the handshake."""

    def deploy_proxy(self, *settings: str) -> Deployment:
        """One proxy and one agent, for this test alone."""
        allow_files(3 * STRANGERS)
        deployment = self.deploy(
            Layout(
                proxies=1,
                proxy_settings=(
                    f"limits.login_grace={LOGIN_GRACE}",
                    "limits.penalties_exempt=[]",
                    *settings,
                ),
            )
        )
        deployment.wait_tunnels()
        return deployment

    def log_in(self, deployment: Deployment) -> float:
        """A real login from elsewhere; how many seconds it took."""
        started = time.monotonic()
        done = deployment.ssh.run(
            "ssh", "-b", ELSEWHERE, deployment.proxies[0].name, "ls"
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return time.monotonic() - started

    def ask_to_log_in(self, port: int, source: str) -> SocketClient:
        """One more, who has come as far as one can without a name."""
        client = SocketClient(port, PrivateKey.generate(), source=source)
        self.addCleanup(client.close)
        return client.start_userauth()

    def test_room_for_all_of_them(self) -> None:
        """They stay for the grace time, cost little, and nobody waits for them."""
        deployment = self.deploy_proxy("limits.unauthenticated=5000")
        (proxy,) = deployment.proxies
        self.log_in(deployment)
        before = rss(proxy.process.pid)
        strangers = Strangers(proxy.port, STRANGERS, sources=addresses(STRANGERS // 8))
        self.addCleanup(strangers.close)
        asking = [self.ask_to_log_in(proxy.port, each) for each in addresses(50, 5)]
        connected = time.monotonic()
        taken = [self.log_in(deployment) for _ in range(3)]
        self.assertLess(max(taken), LOGIN_SECONDS)
        self.assertEqual(strangers.here(), STRANGERS)
        cost = (rss(proxy.process.pid) - before) / STRANGERS
        self.assertLess(cost, STRANGER_BYTES)
        strangers.wait_gone(LOGIN_GRACE + 2)
        for each in asking:
            each.wait_closed()
        self.assertLess(time.monotonic() - connected, LOGIN_GRACE + 2)
        self.log_in(deployment)

    def test_room_for_a_hundred(self) -> None:
        """By default: those who are silent lose their places to those who come."""
        deployment = self.deploy_proxy()
        (proxy,) = deployment.proxies
        strangers = Strangers(
            proxy.port, STRANGERS, sources=addresses(STRANGERS // 8, block=2)
        )
        self.addCleanup(strangers.close)
        strangers.wait_gone(LOGIN_GRACE, all_but=100)
        # Long enough to count as silent, not long enough to be sent away.
        time.sleep(2)
        self.assertGreater(strangers.here(), 90)
        for _ in range(3):
            self.assertLess(self.log_in(deployment), LOGIN_SECONDS)
        self.assertEqual(len(proxy.tunnels()), 1)
