"""What ``init``, ``proxy`` and ``agent`` share when they fill state directories."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

from rtunnel.config import AgentConfig, ProxyConfig
from rtunnel.config.structuring import structure
from rtunnel.errors import CertificateError, ConfigError, KeyFileError
from rtunnel.state_directory import (
    HOST_KEY,
    certificate_path,
    write_key_pair,
    write_public,
)
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.wire.certificate import Certificate, CertificateKind
from rtunnel.wire.keys import PrivateKey, PublicKey


def parse_proxy_toml(text: str) -> ProxyConfig:
    """The values of a ``proxy.toml`` that was just rendered, paths left as they are."""
    return structure(tomllib.loads(text), ProxyConfig)


def parse_agent_toml(text: str) -> AgentConfig:
    """The values of an ``agent.toml`` that was just rendered, likewise."""
    return structure(tomllib.loads(text), AgentConfig)


def check_state(config: ProxyConfig | AgentConfig, directory: Path) -> None:
    """Refuse a ``state`` key that points away from the directory being filled.

    :raises ConfigError: when it does.
    """
    if (directory / config.state).resolve() != directory.resolve():
        raise ConfigError(
            [
                f'--set: state: found "{config.state}", expected "."; the directory '
                "is chosen with --state and --out"
            ]
        )


def sign_host_key(
    ca: PrivateKey,
    key: PublicKey,
    proxy_id: str,
    config: ProxyConfig,
    ttl: int,
    more_names: Iterable[str] = (),
) -> Certificate:
    """Certify a host key for every name by which the proxy may be called.

    :param ca: the host authority.
    :param ttl: seconds from now.
    :param more_names: besides those in the config.
    """
    called = [address.host for address in (*config.ssh.public, *config.ssh.advertise)]
    return CertificateAuthority(ca, now=time.time).sign_host(
        key,
        proxy_id=proxy_id,
        cluster=config.cluster,
        public_names=[*called, *more_names],
        validity=ttl,
    )


def host_certificate_line(certificate: Certificate) -> str:
    """A host certificate as the text of its file."""
    return certificate.to_openssh(f"rtunnel proxy {certificate.key_id}") + "\n"


def write_host_key(
    directory: Path, key: PrivateKey, certificate: Certificate, *, force: bool
) -> None:
    """Write a proxy's key pair and certificate.

    :raises KeyFileError: one is there already, or cannot be written.
    """
    path = directory / HOST_KEY
    write_key_pair(path, key, f"rtunnel proxy {certificate.key_id}", force=force)
    write_public(
        certificate_path(path), host_certificate_line(certificate), force=force
    )


def public_key_lines(keys: Iterable[PublicKey], comment: str) -> str:
    """Trust anchors as the text of their file."""
    return "".join(f"{key.to_openssh(comment)}\n" for key in keys)


def check_renewable(
    path: Path,
    certificate: Certificate,
    kind: CertificateKind,
    ca: PublicKey,
    make_new: str,
) -> None:
    """Make sure that a certificate is ours; expired it may be.

    :param path: where it was read.
    :param make_new: the command that makes a new one instead.
    :raises KeyFileError: when it is not to be renewed.
    """
    try:
        certificate.check(kind=kind, trusted=[ca], now=certificate.valid_after)
    except CertificateError as error:
        raise KeyFileError(
            f"{path}: {error}; make a new one with `{make_new}`"
        ) from None
