"""The proxy's table of remote sites: which tunnels lead to which cluster.

Pure: it orders and remembers; opening channels is for the dispatcher.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class SiteTunnel(Protocol):
    """What the table has to know of a tunnel."""

    @property
    def cluster(self) -> str:
        """The cluster behind it."""

    @property
    def agent(self) -> str:
        """The instance id of the agent that holds it."""

    @property
    def open_channels(self) -> int:
        """Channels open or opening on it."""

    @property
    def accepts_dials(self) -> bool:
        """Whether a channel can be opened now: in service, answering, not draining."""


T = TypeVar("T", bound=SiteTunnel)


class Sites(Generic[T]):
    """Tunnels in service at this proxy, by cluster.

    There is at most one tunnel for each agent instance.
    """

    def __init__(self) -> None:
        self._by_agent: dict[str, T] = {}

    def add(self, tunnel: T) -> None:
        """Take a tunnel into service.

        :raises ValueError: when its agent instance has one already.
        """
        if tunnel.agent in self._by_agent:
            raise ValueError(f"agent {tunnel.agent} already holds a tunnel")
        self._by_agent[tunnel.agent] = tunnel

    def remove(self, tunnel: T) -> None:
        """Forget a tunnel; one that is not in the table is no error."""
        if self._by_agent.get(tunnel.agent) is tunnel:
            del self._by_agent[tunnel.agent]

    def held_by(self, agent: str) -> T | None:
        """The tunnel of that agent instance."""
        return self._by_agent.get(agent)

    def tunnels(self) -> tuple[T, ...]:
        """Every tunnel, in the order in which they came."""
        return tuple(self._by_agent.values())

    def clusters(self) -> tuple[str, ...]:
        """Clusters with at least one tunnel here, sorted."""
        return tuple(sorted({t.cluster for t in self._by_agent.values()}))

    def candidates(self, cluster: str) -> list[T]:
        """Tunnels to try for a new dial: the least busy first, dead ones left out."""
        usable = [
            t
            for t in self._by_agent.values()
            if t.cluster == cluster and t.accepts_dials
        ]
        return sorted(usable, key=lambda t: t.open_channels)
