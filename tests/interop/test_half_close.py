"""The end of input travels, and what comes after it the other way arrives whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.interop.sharing import DeploymentTestCase
from tests.interop.targets import reply_after

#: What is sent before the end of input, in bytes; no multiple of a packet or window.
SENT = bytes(index % 249 for index in range(100_000))
RUNS = 50
#: How many ssh run at once: enough to be quick, few enough for `login_grace`.
AT_ONCE = 4


class HalfCloseTests(DeploymentTestCase):
    """A target that reads to the end of input and only then answers."""

    def _complete_answers(self, host: str, target: str) -> int:
        """Return how many of :data:`RUNS` ``ssh -W`` got every byte of the answer."""
        ssh = self.deployment.ssh

        def is_complete(_: int) -> bool:
            done = ssh.run("ssh", "-W", target, host, data=SENT)
            return (done.returncode, done.stdout) == (0, reply_after(len(SENT)))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return sum(pool.map(is_complete, range(RUNS)))

    def test_answer_after_the_end_of_input_arrives_whole(self) -> None:
        """100,000 bytes in, end of input, 200,011 bytes back, 50 of 50."""
        port = self.deployment.target("half-close")
        self.assertEqual(self._complete_answers("lb", f"web1.b:{port}"), RUNS)

    def test_plain_openssh_does_the_same(self) -> None:
        """The yardstick: OpenSSH's own sshd in our place."""
        port = self.deployment.target("half-close")
        self.assertEqual(self._complete_answers("plain", f"127.0.0.1:{port}"), RUNS)
