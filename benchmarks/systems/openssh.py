"""OpenSSH: sshd as the proxy, ``ssh -R`` as the agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.place import Place
from benchmarks.systems.interface import Login, Way
from tests.interop.processes import accepts, free_port, wait_until

_HOSTS = """\
Host proxy
    HostName 127.0.0.1
    Port {proxy}
Host inner
    HostName 127.0.0.1
    Port {entry}
    ProxyJump proxy
"""


class OpenSSH:
    """See :class:`~benchmarks.systems.interface.System`."""

    name = "OpenSSH"

    jump_command: Sequence[str] | None
    ways: Mapping[str, Way]

    def __init__(self, place: Place) -> None:
        port, sshd = place.start_sshd("sshd")
        tunnel, inner, relay, jump = (free_port() for _ in range(4))
        ssh = place.ssh(_HOSTS.format(proxy=port, entry=inner), "openssh.config")
        agent = place.start(
            "openssh-agent",
            [
                *(*ssh, "-N", "proxy"),
                *("-R", f"127.0.0.1:{tunnel}:127.0.0.1:{place.target_port}"),
                *("-R", f"127.0.0.1:{inner}:127.0.0.1:{place.inner_port}"),
            ],
        )
        wait_until(lambda: accepts(tunnel) and accepts(inner), 20, "ssh -R")
        client = place.forward(
            "openssh-client",
            [*ssh, "-N", "-L", f"127.0.0.1:{relay}:127.0.0.1:{tunnel}", "proxy"],
            relay,
        )
        place.forward(
            "openssh-jump",
            [
                *(*ssh, "-N", "inner"),
                *("-L", f"127.0.0.1:{jump}:127.0.0.1:{place.target_port}"),
            ],
            jump,
        )
        self.proxy = sshd.pid
        both = {"proxy": sshd.pid, "agent": agent.pid}
        self.ways = {
            "tunnel": Way(tunnel, both),
            "relay": Way(relay, both | {"client": client.pid}),
            "jump": Way(jump, both),
        }
        self.login = Login(port, place.user, place.key, None, "curve25519-sha256")
        self.jump_command = [*ssh, "inner", "true"]
