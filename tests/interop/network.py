"""A network namespace that a veth pair joins to ours, and packets lost in between."""

from __future__ import annotations

import os
import random

from tests.interop.peers import require_network_namespaces, require_peer
from tests.interop.processes import run

_DROP = (
    "add table inet hole; "
    "add chain inet hole in {{ type filter hook input priority 0; }}; "
    "add chain inet hole out {{ type filter hook output priority 0; }}; "
    "add rule inet hole in iifname {inside} drop; "
    "add rule inet hole out oifname {inside} drop"
)


class Network:
    """One namespace and the wire to it. Needs root.

    :ivar namespace: its name, for ``ip netns exec``.
    :ivar outside: our own address on the wire.
    """

    def __init__(self) -> None:
        require_network_namespaces()
        self._ip = require_peer("ip")
        tag = f"{os.getpid() % 100000}{random.SystemRandom().randrange(10)}"
        self.namespace = f"rtunnel-{tag}"
        self._near, self._far = f"rtn{tag}", f"rtf{tag}"
        # 198.18.0.0/15 is for tests of networks (RFC 2544), so nobody's own.
        block = random.SystemRandom().randrange(2**15 // 4)
        third, fourth = divmod(block * 4, 256)
        self.outside = f"198.18.{third}.{fourth + 1}"
        inside = f"198.18.{third}.{fourth + 2}"
        run([self._ip, "netns", "add", self.namespace])
        try:
            self._link(
                "add", self._near, "type", "veth", "peer", self._far,
                "netns", self.namespace,
            )  # fmt: skip
            run([self._ip, "address", "add", f"{self.outside}/30", "dev", self._near])
            self._link("set", self._near, "up")
            self._inside("address", "add", f"{inside}/30", "dev", self._far)
            self._inside("link", "set", self._far, "up")
            self._inside("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def lose_everything(self) -> None:
        """Drop every packet on the wire, both ways, and tell nobody."""
        rules = _DROP.format(inside=self._far)
        run(
            [self._ip, "netns", "exec", self.namespace, require_peer("nft"), rules],
        )

    def close(self) -> None:
        """Remove namespace and wire; what runs in it must have ended."""
        run([self._ip, "link", "del", self._near], check=False)
        run([self._ip, "netns", "del", self.namespace])

    def _link(self, *words: str) -> None:
        run([self._ip, "link", *words])

    def _inside(self, *words: str) -> None:
        run([self._ip, "-n", self.namespace, *words])
