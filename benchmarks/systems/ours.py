"""rtunnel, deployed as an operator does: ``rtunnel init``, ``sign``, ``twistd``.

Twice: one proxy is the program as it is, for everything that comes by SSH; the other
has a local port that leads through its tunnel (:mod:`benchmarks.tunnel_entry`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.place import Place
from benchmarks.systems.interface import Login, Way
from tests.interop.processes import ROOT, Process, free_port, run, wait_until
from tests.interop.programs import rtunnel, settings, twistd

_HOSTS = """\
Host proxy
    HostName 127.0.0.1
    Port {proxy}
    CertificateFile {certificate}
Host localhost.b
    Port {inner}
    ProxyJump proxy
"""


class Deployment:
    """One proxy and one agent.

    The limits on strangers are those of a proxy that expects storms from one address.

    :param checkout: whose code they run.
    """

    def __init__(
        self, place: Place, name: str, checkout: Path, proxy: Sequence[object] = ()
    ) -> None:
        code: list[Any] = ["env", f"PYTHONPATH={checkout}"]
        self.state = place.directory / name
        self.port = free_port()
        endpoint = f"tcp:{self.port}:interface=127.0.0.1:backlog=4096"
        proxy_settings = [
            f'name="{name}"',
            f'ssh.listen=["{endpoint}"]',
            "web.listen=[]",
            "limits.unauthenticated=2000",
            "limits.unauthenticated_per_source=2000",
            'allow=[{users=["bench"], clusters=["b"], targets=["*:*"]}]',
        ]
        public = f"127.0.0.1:{self.port}"
        run(
            code
            + rtunnel(
                *("init", "--state", self.state, "--cluster", "a"),
                *("--public", public, *settings(proxy_settings)),
            )
        )
        agent_state = place.directory / f"{name}-agent"
        run(
            code
            + rtunnel(
                *("agent", "sign", "b", "--state", self.state, "--out", agent_state),
                *settings(['allow=["localhost:*"]']),
            )
        )
        config = self.state / "proxy.toml"
        command: list[object] = [*twistd("rtunnel-proxy", config)]
        if proxy:
            command = [sys.executable, "-m", "benchmarks.tunnel_entry", config, *proxy]
        self.proxy = place.start(name, code + command)
        self.proxy.wait_for_port(self.port)
        self.agent = place.start(
            f"{name}-agent-log",
            code + twistd("rtunnel-agent", agent_state / "agent.toml"),
        )
        self._wait_in_service(self.proxy)

    def _wait_in_service(self, proxy: Process) -> None:
        wait_until(lambda: "in service" in proxy.output(), 20, proxy.tail)


class Ours:
    """See :class:`~benchmarks.systems.interface.System`.

    :ivar agent_authority: the key that signs agents.
    """

    name = "rtunnel"
    #: Whose code runs.
    checkout = ROOT

    jump_command: Sequence[str] | None
    ways: Mapping[str, Way]

    def __init__(self, place: Place) -> None:
        tunnel, relay, jump = (free_port() for _ in range(3))
        name, checkout = self.name, self.checkout
        entry = Deployment(
            place, f"{name}-entry", checkout, [tunnel, place.target_port]
        )
        main = Deployment(place, f"{name}-proxy", checkout)
        certificate = self._sign_user(place, main)
        ssh = place.ssh(
            _HOSTS.format(
                proxy=main.port, inner=place.inner_port, certificate=certificate
            ),
            f"{name}.config",
        )
        client = place.forward(
            f"{name}-client",
            [
                *(*ssh, "-N", "proxy"),
                *("-L", f"127.0.0.1:{relay}:localhost.b:{place.target_port}"),
            ],
            relay,
        )
        place.forward(
            f"{name}-jump",
            [
                *(*ssh, "-N", "localhost.b"),
                *("-L", f"127.0.0.1:{jump}:127.0.0.1:{place.target_port}"),
            ],
            jump,
        )
        self.proxy = main.proxy.pid
        self.agent_authority = main.state / "agent_ca"
        entry_parts = {"proxy": entry.proxy.pid, "agent": entry.agent.pid}
        main_parts = {"proxy": main.proxy.pid, "agent": main.agent.pid}
        self.ways = {
            "tunnel": Way(tunnel, entry_parts),
            "relay": Way(relay, main_parts | {"client": client.pid}),
            "jump": Way(jump, main_parts),
        }
        self.login = Login(
            main.port, "bench", place.key, certificate, "mlkem768x25519-sha256"
        )
        self.jump_command = [*ssh, "localhost.b", "true"]

    def _sign_user(self, place: Place, deployment: Deployment) -> Path:
        public = place.key.with_suffix(".pub")
        run(
            rtunnel(
                *("user", "sign", "bench", "--state", deployment.state),
                *("--key", public, "--ttl", "1h"),
            )
        )
        signed = place.key.with_name(place.key.name + "-cert.pub")
        return signed.rename(place.directory / f"{self.name}-cert.pub")


def of_checkout(checkout: Path) -> type[Ours]:
    """The same, running the code of another checkout.

    :param checkout: its directory. It runs on our Python, with what is installed there.
    """

    class Other(Ours):
        name = "other"

    Other.checkout = checkout.resolve()
    return Other
