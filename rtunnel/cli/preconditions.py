"""What a proxy's config has to say before others can join it, by hand or by token."""

from __future__ import annotations

from pathlib import Path

from rtunnel.config import ProxyConfig
from rtunnel.errors import ConfigError, RtunnelError


def check_agent_cluster(cluster: str, config: ProxyConfig, instead: str = "") -> None:
    """An agent is of another cluster than the proxies.

    :param instead: what else could be done, to follow a comma.
    :raises RtunnelError: when it is not.
    """
    if cluster == config.cluster:
        raise RtunnelError(
            f"{cluster} is the proxies' own cluster, which they reach themselves; name "
            f"another for the hosts behind the agent{instead}"
        )


def check_public(config: ProxyConfig) -> None:
    """Agents have to know where the proxies are.

    :raises ConfigError: when nothing says it.
    """
    if not config.ssh.public:
        raise ConfigError(
            [
                f"{config.path}: ssh.public: found [], expected the addresses where "
                'agents find the proxies, as in ["lb.example.com:3023"]'
            ]
        )


def check_shareable(config: ProxyConfig, source: str | Path) -> None:
    """A second proxy has to reach the registry.

    :param source: what says where it is, a file or an argument.
    :raises ConfigError: when it cannot.
    """
    if config.registry.url == "memory:":
        raise ConfigError(
            [
                f'{source}: registry.url: found "memory:", expected "sqlite:PATH"; '
                "proxies find each other only in a registry that all of them can reach"
            ]
        )
