"""The values of ``proxy.toml`` and ``agent.toml``, key by key, with their defaults.

Paths are absolute once loaded: ``state`` is taken relative to the file, every other
path relative to ``state``. The comments that ``init`` writes beside the keys are in
:mod:`rtunnel.config.writing`.
"""

import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import attrs

from rtunnel.config.algorithm_lists import AgentSshConfig, AlgorithmLists
from rtunnel.config.checks import (
    AtLeastOne,
    ClusterName,
    Count,
    DialAddress,
    Endpoint,
    FilePath,
    Flag,
    ProxyName,
    RegistryUrl,
    Seconds,
    SecondsOrZero,
    SourceNetwork,
    Tunnels,
    is_proxy_name,
)
from rtunnel.ssh.penalties import LOOPBACK
from rtunnel.trust.policy import AllowRule
from rtunnel.trust.renewal import AGENT_VALIDITY, PROXY_VALIDITY
from rtunnel.trust.targets import TargetPatterns

#: An allow list that allows nothing.
NO_TARGETS = TargetPatterns()

#: What a new agent lets through: its own host's SSH server.
OWN_SSHD = TargetPatterns.parse(["localhost:22"])


def host_name() -> str:
    """This host's name as a proxy name, "proxy" if it cannot be one."""
    name = socket.gethostname()
    return name if is_proxy_name(name) else "proxy"


@attrs.frozen
class SshConfig(AlgorithmLists):
    """``[ssh]`` of a proxy: agents and clients.

    :param listen: Twisted server endpoint strings, at least one.
    :param public: what agents and clients are told to use.
    :param advertise: where agents can reach this very proxy, if they can.
    :param authorized_keys: file of people's keys; it need not exist.
    :param proxy_protocol_from: balancers that send a PROXY header, and have to.
    """

    listen: AtLeastOne[Endpoint] = ("tcp:3023",)
    public: tuple[DialAddress, ...] = ()
    advertise: tuple[DialAddress, ...] = ()
    authorized_keys: FilePath = Path("authorized_keys")
    proxy_protocol_from: tuple[SourceNetwork, ...] = ()


@attrs.frozen
class WebConfig:
    """``[web]``: /healthz, /readyz.

    :param listen: Twisted server endpoint strings; none, no web server.
    """

    listen: tuple[Endpoint, ...] = ("tcp:3080:interface=127.0.0.1",)


@attrs.frozen
class RegistryConfig:
    """``[registry]``: where the proxies of a cluster find each other.

    :param url: ``memory:``, or ``sqlite:PATH`` (relative to ``state``).
    """

    url: RegistryUrl = "sqlite:registry.db"


@attrs.frozen
class PeerConfig:
    """``[peer]``: the other proxies.

    :param listen: Twisted server endpoint strings; none, the ssh listener serves them.
    :param advertise: what other proxies dial.
    """

    listen: tuple[Endpoint, ...] = ()
    advertise: tuple[DialAddress, ...] = ()


@attrs.frozen
class TunnelConfig:
    """``[tunnel]``: liveness.

    :param heartbeat: seconds between heartbeats.
    :param missed: heartbeats missed before a tunnel is dead.
    """

    heartbeat: Seconds = 5.0
    missed: Count = 3


@attrs.frozen
class LimitsConfig:
    """``[limits]``.

    :param login_grace: seconds from accept to authenticated.
    :param unauthenticated: connections not yet authenticated, all sources.
    :param unauthenticated_per_source: the same, from one address.
    :param penalties: whether sources that come in vain too often are refused a while.
    :param penalties_exempt: networks of sources that never are.
    :param channels_per_connection: open channels on one SSH connection.
    :param sessions_outlive_certificates: whether what is open may go on when the
        certificate or key that it was opened with expires.
    """

    login_grace: Seconds = 20.0
    unauthenticated: Count = 100
    unauthenticated_per_source: Count = 10
    penalties: Flag = True
    penalties_exempt: tuple[SourceNetwork, ...] = LOOPBACK
    channels_per_connection: Count = 1000
    sessions_outlive_certificates: Flag = False


@attrs.frozen
class RevocationConfig:
    """``[revocation]``: what is revoked besides what ``rtunnel revoke`` did.

    :param krl: OpenSSH key revocation lists.
    """

    krl: tuple[FilePath, ...] = ()


@attrs.frozen
class CertificatesConfig:
    """``[certificates]``: how long those are valid that this proxy signs by itself, for
    newcomers and when they are renewed.

    :param agent_ttl: seconds, for agents.
    :param proxy_ttl: seconds, for proxies.
    """

    agent_ttl: Seconds = float(AGENT_VALIDITY)
    proxy_ttl: Seconds = float(PROXY_VALIDITY)


@attrs.frozen
class RenewalConfig:
    """``[renewal]`` of an agent.

    :param fresh_key: whether each new certificate is for a new key.
    """

    fresh_key: Flag = False


@attrs.frozen
class DrainConfig:
    """``[drain]``.

    :param timeout: seconds that open channels get after SIGTERM; 0 cuts them at once.
    :param grace: seconds of these in which everybody is still served, while ``/readyz``
        says 503 already.
    """

    timeout: SecondsOrZero = 30.0
    grace: SecondsOrZero = 0.0


@attrs.frozen
class LocalConfig:
    """``[local]``: targets of the proxy's own cluster.

    :param allow: what this proxy may dial itself.
    """

    allow: TargetPatterns = NO_TARGETS


@attrs.frozen
class AuditConfig:
    """``[audit]``.

    :param path: file of JSON lines.
    :param required: whether nobody is taken, and nothing opened, while it cannot be
        written.
    :param refused_logins_per_second: lines about logins and tokens that were refused.
    :param refused_logins_burst: the same at once, after a quiet time.
    """

    path: FilePath = Path("audit.jsonl")
    required: Flag = False
    refused_logins_per_second: Count = 10
    refused_logins_burst: Count = 100


@attrs.frozen(kw_only=True)
class ProxyConfig:
    """``proxy.toml``.

    :param path: the file it was loaded from.
    :param cluster: the cluster of this proxy.
    :param name: for people.
    :param state: directory of keys, certificates, registry and admin.sock.
    :param close_on_change: whether what is open is closed when the rules allow it no
        longer, or the line of authorized_keys or the authority is gone that the login
        stands on; else these count for what is opened anew.
    :param allow: who may reach what, see :class:`rtunnel.trust.policy.Policy`.
    """

    path: Path = Path("proxy.toml")
    cluster: ClusterName
    name: ProxyName = attrs.field(factory=host_name)
    state: FilePath = Path(".")
    close_on_change: Flag = False
    ssh: SshConfig = SshConfig()
    web: WebConfig = WebConfig()
    registry: RegistryConfig = RegistryConfig()
    peer: PeerConfig = PeerConfig()
    tunnel: TunnelConfig = TunnelConfig()
    limits: LimitsConfig = LimitsConfig()
    drain: DrainConfig = DrainConfig()
    local: LocalConfig = LocalConfig()
    certificates: CertificatesConfig = CertificatesConfig()
    revocation: RevocationConfig = RevocationConfig()
    audit: AuditConfig = AuditConfig()
    allow: tuple[AllowRule, ...] = ()


@attrs.frozen(kw_only=True)
class AgentConfig:
    """``agent.toml``.

    :param path: the file it was loaded from.
    :param cluster: the cluster that this agent serves.
    :param state: directory of key, certificate and CA.
    :param proxies: addresses to find proxies at; every A and AAAA record of each.
    :param ssh: the algorithms of its connections to them.
    :param tls_authorities: files of PEM certificates that vouch for ``tls:`` addresses;
        none: the system's.
    :param tunnels: "all", or how many tunnels to hold.
    :param allow: what may be reached through this agent; the last word.
    :param resolve: host names, in lower case, and the IP address that each stands for.
    :param close_on_change: whether connections that ``allow`` lists no longer are
        closed; else it counts for new ones only.
    """

    path: Path = Path("agent.toml")
    cluster: ClusterName
    state: FilePath = Path(".")
    proxies: AtLeastOne[DialAddress]
    tls_authorities: tuple[FilePath, ...] = ()
    tunnels: Tunnels = "all"
    allow: TargetPatterns = OWN_SSHD
    resolve: Mapping[str, str] = MappingProxyType({})
    close_on_change: Flag = False
    ssh: AgentSshConfig = attrs.field(factory=AgentSshConfig)
    tunnel: TunnelConfig = TunnelConfig()
    renewal: RenewalConfig = RenewalConfig()
