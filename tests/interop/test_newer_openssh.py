"""An OpenSSH that has the hybrid key exchange, as a client and as a server.

``.ci/peers install`` fetches it; everything else meets the system's.
"""

from __future__ import annotations

import re
from pathlib import Path

from rtunnel.wire.key_exchange import KEY_EXCHANGES
from tests.interop import test_algorithms
from tests.interop.deployment import Layout
from tests.interop.peers import require_newer_openssh
from tests.interop.sharing import DeploymentTestCase
from tests.interop.test_algorithms import DATA, EXPECTED, digest

HYBRID = "mlkem768x25519-sha256"


class JumpTests(DeploymentTestCase):
    """``ssh -J`` through a proxy as ``rtunnel init`` makes it."""

    layout = Layout(proxies=1)

    def test_the_hybrid_is_used_unasked_and_data_arrives_whole(self) -> None:
        """20 MB to the target's own ``sshd`` and back."""
        ssh = self.deployment.ssh.of(require_newer_openssh())
        done = ssh.run(
            "ssh", "-v", "-J", "proxy-1", "web1.b", "cat", data=DATA, timeout=60
        )
        said = done.stderr.decode(errors="replace")
        self.assertEqual(done.returncode, 0, said)
        self.assertEqual(digest(done.stdout), EXPECTED)
        # The proxy comes first, then the target, whose OpenSSH is the system's.
        versions = re.findall(r"remote software version (\S+)", said)
        exchanges = re.findall(r"kex: algorithm: (\S+)", said)
        self.assertEqual(versions[0], "rtunnel", said)
        self.assertEqual(exchanges[0], HYBRID, said)


class NewerClientTests(test_algorithms.OpenSSHClientTests):
    """All that the system's ``ssh`` does at our proxy, and the hybrid."""

    def programs(self) -> Path:
        """See :class:`~tests.interop.test_algorithms.OpenSSHClientTests`."""
        return require_newer_openssh()

    def test_it_has_every_key_exchange_that_we_have(self) -> None:
        """So none is left out by what is asked of it."""
        ssh = self.programs() / "ssh"
        known = test_algorithms.known_to(ssh, KEY_EXCHANGES, "kex")
        self.assertEqual(known, list(KEY_EXCHANGES))


class NewerServerTests(test_algorithms.OurClientTests):
    """All that our client does at the system's ``sshd``, and the hybrid."""

    def programs(self) -> Path:
        """See :class:`~tests.interop.test_algorithms.OurClientTests`."""
        return require_newer_openssh()
