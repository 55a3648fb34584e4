"""What people see when there is no way through: one sentence, soon."""

from __future__ import annotations

import time

from tests.interop.processes import free_port, wait_until
from tests.interop.sharing import DeploymentTestCase

#: Seconds from Enter to the prompt.
SOON = 5


class RefusalsTests(DeploymentTestCase):
    """ssh to somewhere that cannot be reached."""

    def _refusal(self, *arguments: str) -> str:
        """Return what ssh says on standard error, in lower case."""
        # The first to ask for the deployment waits until it runs.
        ssh = self.deployment.ssh
        start = time.monotonic()
        done = ssh.run("ssh", *arguments)
        self.assertNotEqual(done.returncode, 0)
        self.assertLess(time.monotonic() - start, SOON)
        self.assertEqual(done.stdout, b"")
        return done.stderr.decode().lower()

    def test_closed_port_says_that_the_target_refused(self) -> None:
        """The channel is confirmed when the target has accepted, not before."""
        port = free_port()
        said = self._refusal("-W", f"web1.b:{port}", "lb")
        self.assertIn("connect failed", said)
        self.assertIn("refused", said)

    def test_target_that_no_agent_allows_says_so(self) -> None:
        """The agent's own allow list is the last word."""
        said = self._refusal("-W", "192.0.2.7.b:22", "lb")
        self.assertIn("prohibited", said)
        self.assertIn("allow", said)

    def test_target_that_no_rule_allows_says_so(self) -> None:
        """A person whose principals are in no [[allow]] rule."""
        guest = self.deployment.person("mallory", "guests")
        done = guest.run("ssh", "-W", f"web1.b:{self.deployment.sshd.port}", "lb")
        said = done.stderr.decode()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("prohibited", said)
        self.assertIn("mallory is not allowed to reach", said)

    def test_unknown_cluster_says_that_there_is_none(self) -> None:
        """A typing error is told apart from a cluster that is away."""
        said = self._refusal("-W", "web1.nowhere:22", "lb")
        self.assertIn("prohibited", said)
        self.assertIn("no cluster 'nowhere'", said)

    def test_a_host_without_its_cluster_says_how_to_write_it(self) -> None:
        """It is read as a cluster, of which there is none."""
        said = self._refusal("-W", "localhost:22", "lb")
        self.assertIn("no cluster 'localhost'; a host is written host.cluster", said)

    def test_subsystem_shows_the_sentence_too(self) -> None:
        """ssh ends when it hears no, so the reason has to be there before."""
        for request, words in (
            ("proxy:web1:22@nowhere", "no cluster 'nowhere'"),
            ("sftp", "is not a subsystem of this proxy"),
        ):
            self.assertIn(words, self._refusal("-s", "lb", request))

    def test_offline_cluster_says_that_it_is_offline(self) -> None:
        """A cluster that was here, and whose agent has gone."""
        agent = self.deployment.add_agent("c", "agent-of-c")
        agent.start()

        def tunnels() -> list[int]:
            return [len(proxy.tunnels("c")) for proxy in self.deployment.proxies]

        count = len(self.deployment.proxies)
        wait_until(lambda: tunnels() == [1] * count, 20, agent.process.tail)
        self.assertEqual(agent.process.stop(), 0)
        wait_until(lambda: tunnels() == [0] * count, 5, agent.process.tail)
        said = self._refusal("-W", "web1.c:22", "lb")
        self.assertIn("connect failed", said)
        self.assertIn("offline", said)

    def test_jump_host_shows_the_sentence_too(self) -> None:
        """ssh -J starts an ssh -W of its own; its words reach the terminal."""
        self.assertIn("no cluster 'nowhere'", self._refusal("-J", "lb", "web1.nowhere"))
