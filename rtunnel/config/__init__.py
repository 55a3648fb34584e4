"""The config files of proxy and agent: file to frozen values, and values to file."""

from rtunnel.config.addresses import Address
from rtunnel.config.loading import load_agent, load_proxy
from rtunnel.config.structuring import describe_problem
from rtunnel.config.values import (
    AgentConfig,
    AuditConfig,
    DrainConfig,
    LimitsConfig,
    LocalConfig,
    PeerConfig,
    ProxyConfig,
    RegistryConfig,
    SshConfig,
    TunnelConfig,
    WebConfig,
)
from rtunnel.config.writing import agent_toml, proxy_toml

__all__ = [
    "Address",
    "AgentConfig",
    "AuditConfig",
    "DrainConfig",
    "LimitsConfig",
    "LocalConfig",
    "PeerConfig",
    "ProxyConfig",
    "RegistryConfig",
    "SshConfig",
    "TunnelConfig",
    "WebConfig",
    "agent_toml",
    "describe_problem",
    "load_agent",
    "load_proxy",
    "proxy_toml",
]
