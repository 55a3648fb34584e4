"""Two proxies of one cluster in this process, which share a registry."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.defer import Deferred

from rtunnel.config import load_proxy
from rtunnel.proxy.service import ProxyService
from rtunnel.ssh.connection import Connection
from rtunnel.state_directory import ProxyCredentials, load_proxy_credentials
from tests.proxy.running import Agent, Peer, ProxyTestCase


class TwoProxiesTestCase(ProxyTestCase):
    """``self.proxy`` is where clients go, ``self.other`` is its peer.

    :cvar other_settings: of the peer, instead of those of the first proxy.
    """

    other_settings: tuple[str, ...] = ()

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        """Start the first proxy, then the other."""
        started = super().setUp()
        started.addCallback(lambda _: self._start_other())
        return started

    def _start_other(self) -> Deferred[None]:
        self.other_state = self.directory / "proxy-2"
        self.run_rtunnel(
            *("proxy", "sign", "proxy-2", "--state", self.state),
            *("--out", self.other_state),
            *(f"--set={setting}" for setting in self.other_settings),
        )
        self.other = ProxyService(
            load_proxy(self.other_state / "proxy.toml"), self.reactor, now=time.time
        )
        # Cleanups run backwards: the other one is stopped first.
        self.addCleanup(self._stop_other)
        self.other.startService()
        return self.other.started

    async def _stop_other(self) -> None:
        for peer in self.peers:
            if peer.connection is not None:
                peer.connection.close("the test is over")
        if self.other.running:
            await self.other.stopService()

    @property
    def other_port(self) -> int:
        """Where the peer listens."""
        return port_of(self.other)

    def other_audit(self) -> str:
        """The peer's audit file."""
        return (self.other_state / "audit.jsonl").read_text()

    async def agent_at_other(self, name: str = "agent") -> Agent:
        """A new agent whose one tunnel ends at the peer, and both know it."""
        agent = await self.agent_in_service(name, port=self.other_port)
        await self.until(lambda: self.knows(self.proxy, agent))
        return agent

    def knows(self, proxy: ProxyService, agent: Agent) -> bool:
        """Whether a proxy knows of a tunnel of that agent."""
        return any(
            tunnel["agent"] == agent.instance
            for cluster in proxy.status()["clusters"]
            for tunnel in cluster["tunnels"]
        )

    def own_credentials(self) -> ProxyCredentials:
        """Key and certificate of the first proxy."""
        return load_proxy_credentials(self.state, "a", time.time())

    async def as_peer(self, port: int | None = None) -> Connection:
        """Log in at the other proxy as the first one does."""
        own = self.own_credentials()
        return await self.connect(
            Peer(), own.key, own.certificate, port or self.other_port
        )

    def links(self) -> list[Any]:
        """The first proxy's links."""
        return list(self.proxy.parts.peers._links.values())


def port_of(proxy: ProxyService) -> int:
    """Where a proxy listens."""
    listen: str = proxy.status()["proxy"]["listen"][0]
    return int(listen.rpartition(":")[2])
