"""The config files of proxy and agent: file to frozen values, and values to file."""

from rtunnel.config.addresses import Address
from rtunnel.config.algorithm_lists import AgentSshConfig, AlgorithmLists
from rtunnel.config.loading import load_agent, load_proxy
from rtunnel.config.structuring import describe_problem
from rtunnel.config.usable_algorithms import check_usable
from rtunnel.config.values import (
    AgentConfig,
    AuditConfig,
    CertificatesConfig,
    DrainConfig,
    LimitsConfig,
    LocalConfig,
    PeerConfig,
    ProxyConfig,
    RegistryConfig,
    RenewalConfig,
    SshConfig,
    TunnelConfig,
    WebConfig,
)
from rtunnel.config.writing import agent_toml, proxy_toml

__all__ = [
    "Address",
    "AgentConfig",
    "AgentSshConfig",
    "AlgorithmLists",
    "AuditConfig",
    "CertificatesConfig",
    "DrainConfig",
    "LimitsConfig",
    "LocalConfig",
    "PeerConfig",
    "ProxyConfig",
    "RegistryConfig",
    "RenewalConfig",
    "SshConfig",
    "TunnelConfig",
    "WebConfig",
    "agent_toml",
    "check_usable",
    "describe_problem",
    "load_agent",
    "load_proxy",
    "proxy_toml",
]
