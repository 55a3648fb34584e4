"""asyncssh: its server as the proxy, its remote port forwarding as the agent."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from benchmarks.place import Place
from benchmarks.systems.interface import Login, Way
from tests.interop.processes import free_port

_HOSTS = """\
Host proxy
    HostName 127.0.0.1
    Port {proxy}
"""


class AsyncSSH:
    """See :class:`~benchmarks.systems.interface.System`; it has no ``jump``."""

    name = "asyncssh"
    jump_command: Sequence[str] | None = None
    ways: Mapping[str, Way]

    def __init__(self, place: Place) -> None:
        port, tunnel, relay = (free_port() for _ in range(3))
        ends = [sys.executable, "-m", "benchmarks.systems.asyncssh_ends"]
        host_key = place.make_key("asyncssh-host-key")
        server = place.start(
            "asyncssh-server",
            [*ends, "server", port, host_key, place.key.with_suffix(".pub")],
        )
        server.wait_for_port(port)
        agent = place.start(
            "asyncssh-agent",
            [*ends, "agent", port, place.key, tunnel, place.target_port],
        )
        server.wait_for_port(tunnel)
        client = place.forward(
            "asyncssh-client",
            [
                *place.ssh(_HOSTS.format(proxy=port), "asyncssh.config"),
                *("-N", "proxy"),
                *("-L", f"127.0.0.1:{relay}:127.0.0.1:{tunnel}"),
            ],
            relay,
        )
        self.proxy = server.pid
        both = {"proxy": server.pid, "agent": agent.pid}
        self.ways = {
            "tunnel": Way(tunnel, both),
            "relay": Way(relay, both | {"client": client.pid}),
        }
        self.login = Login(port, "bench", place.key, None, "curve25519-sha256")
