"""The files of an agent or a proxy that has just joined, all but its private key."""

from __future__ import annotations

from collections.abc import Iterable

from rtunnel.config import ProxyConfig, agent_toml, proxy_toml
from rtunnel.config.common_settings import common_settings
from rtunnel.state_directory import (
    AGENT_CA,
    AGENT_CONFIG,
    AGENT_KEY,
    AUTHORIZED_KEYS,
    HOST_CA,
    HOST_KEY,
    PROXY_CONFIG,
    USER_CA,
)
from rtunnel.trust.signing_request import Signed
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PublicKey


def agent_files(config: ProxyConfig, signed: Signed) -> dict[str, str]:
    """What an agent needs, by file name.

    :param config: of the proxy that it has joined at.
    """
    certificate = signed.certificate
    (cluster,) = certificate.principals
    owner = f"rtunnel agent {certificate.key_id} of {cluster}"
    return {
        f"{AGENT_KEY}-cert.pub": certificate.to_openssh(owner) + "\n",
        **_authority(config, HOST_CA, signed.anchors.host),
        AGENT_CONFIG: agent_toml(
            {"cluster": cluster, "proxies": config.ssh.public or config.ssh.advertise}
        ),
    }


def proxy_files(config: ProxyConfig, signed: Signed) -> dict[str, str]:
    """What a proxy needs, by file name: the settings of the one that it has joined at,
    but those that speak of that proxy alone.

    :param config: of the proxy that it has joined at.
    """
    certificate, anchors = signed.certificate, signed.anchors
    owner = f"rtunnel proxy {certificate.key_id}"
    settings = common_settings(config) | {"name": _name(config, certificate)}
    files = {
        f"{HOST_KEY}-cert.pub": certificate.to_openssh(owner) + "\n",
        **_authority(config, HOST_CA, anchors.host),
        **_authority(config, AGENT_CA, anchors.agent),
        **_authority(config, USER_CA, anchors.user),
        PROXY_CONFIG: proxy_toml(settings),
    }
    people = config.ssh.authorized_keys
    if people.exists():
        files[AUTHORIZED_KEYS] = people.read_text("utf-8", "replace")
    return files


def _name(config: ProxyConfig, certificate: Certificate) -> str:
    """The first name that is this proxy's own, or else one made of its id."""
    shared = {config.cluster, *(address.host for address in config.ssh.public)}
    proxy_id, *names = certificate.principals
    own = [name for name in names if name not in shared]
    return own[0] if own else f"proxy-{proxy_id[:8]}"


def _authority(
    config: ProxyConfig, name: str, keys: Iterable[PublicKey]
) -> dict[str, str]:
    comment = f"rtunnel {name} of {config.cluster}"
    lines = sorted(f"{key.to_openssh(comment)}\n" for key in keys)
    return {f"{name}.pub": "".join(lines)}
