"""What ``init``, ``proxy`` and ``agent`` share when they fill state directories."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rtunnel.authority_files import available_keys
from rtunnel.config import Address, AgentConfig, ProxyConfig, agent_toml
from rtunnel.config.structuring import structure
from rtunnel.errors import CertificateError, ConfigError, KeyFileError
from rtunnel.filling import NewFile
from rtunnel.state_directory import (
    AGENT_CA,
    AGENT_CONFIG,
    AGENT_KEY,
    AUTHORIZED_KEYS,
    HOST_CA,
    HOST_KEY,
    PROXY_CONFIG,
    USER_CA,
    load_trust_anchors,
    public_path,
)
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.wire.algorithms import HOST_KEY_ALGORITHMS
from rtunnel.wire.certificate import Certificate, CertificateKind
from rtunnel.wire.keys import ECDSA_P256, PrivateKey, PublicKey

#: The authorities that every proxy knows.
CAS = (HOST_CA, AGENT_CA, USER_CA)

#: The names of the files of an agent, and of a further proxy.
AGENT_FILES = (
    *(AGENT_KEY, f"{AGENT_KEY}.pub", f"{AGENT_KEY}-cert.pub"),
    *(f"{HOST_CA}.pub", AGENT_CONFIG),
)
PROXY_FILES = (
    *(HOST_KEY, f"{HOST_KEY}.pub", f"{HOST_KEY}-cert.pub"),
    *(f"{ca}.pub" for ca in CAS),
    *(AUTHORIZED_KEYS, PROXY_CONFIG),
)


def parse_proxy_toml(text: str) -> ProxyConfig:
    """The values of a ``proxy.toml`` that was just rendered, paths left as they are."""
    return structure(tomllib.loads(text), ProxyConfig)


def parse_agent_toml(text: str) -> AgentConfig:
    """The values of an ``agent.toml`` that was just rendered, likewise."""
    return structure(tomllib.loads(text), AgentConfig)


def agent_config(
    cluster: str,
    proxies: Sequence[Address | str],
    host_key: PublicKey | None,
    settings: Sequence[str],
) -> str:
    """The text of a new ``agent.toml``.

    :param proxies: where to find them.
    :param host_key: of one of them; None when it is not known. An ECDSA key is one that
        agents do not believe by default, so that has to be said.
    :param settings: ``KEY=VALUE`` arguments as given to ``--set``.
    :raises ConfigError: when one of them is wrong.
    """
    values: dict[str, Any] = {"cluster": cluster, "proxies": proxies}
    if host_key is not None and host_key.algorithm == ECDSA_P256:
        names = [name.decode("ascii") for name in HOST_KEY_ALGORITHMS]
        values["ssh"] = {"host_key_algorithms": names}
    return agent_toml(values, settings)


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
    settings: ProxyConfig,
    ttl: int | None,
    more_names: Iterable[str] = (),
) -> Certificate:
    """Certify a host key for every name by which the proxy may be called.

    :param ca: the host authority.
    :param settings: of the proxy that signs.
    :param ttl: seconds from now; None is what the settings say.
    :param more_names: besides those in the config.
    """
    called = [address.host for address in (*config.ssh.public, *config.ssh.advertise)]
    return CertificateAuthority(ca, now=time.time).sign_host(
        key,
        proxy_id=proxy_id,
        cluster=config.cluster,
        public_names=[*called, *more_names],
        validity=ttl or settings.certificates.proxy_ttl,
    )


def host_certificate_line(certificate: Certificate) -> str:
    """A host certificate as the text of its file."""
    return certificate.to_openssh(f"rtunnel proxy {certificate.key_id}") + "\n"


def public_key_lines(keys: Iterable[PublicKey], comment: str) -> str:
    """Trust anchors as the text of their file."""
    return "".join(f"{key.to_openssh(comment)}\n" for key in keys)


def agent_files(
    key: PrivateKey, certificate: Certificate, host_cas: str, config: str
) -> list[NewFile]:
    """The files of an agent's state directory.

    :param host_cas: trust anchors as the text of their file.
    :param config: ``agent.toml``.
    """
    owner = f"rtunnel agent {certificate.key_id} of {certificate.principals[0]}"
    return [
        *_key_files(AGENT_KEY, key, certificate, owner),
        NewFile.public(f"{HOST_CA}.pub", host_cas),
        NewFile.public(AGENT_CONFIG, config),
    ]


def proxy_files(
    key: PrivateKey,
    certificate: Certificate,
    authorities: Mapping[str, str],
    people: str,
    config: str,
) -> list[NewFile]:
    """The files of a further proxy's state directory.

    :param authorities: trust anchors as the text of their file, by the authority.
    :param people: ``authorized_keys``.
    :param config: ``proxy.toml``.
    """
    owner = f"rtunnel proxy {certificate.key_id}"
    return [
        *_key_files(HOST_KEY, key, certificate, owner),
        *(NewFile.public(f"{name}.pub", authorities[name]) for name in CAS),
        NewFile.public(AUTHORIZED_KEYS, people),
        NewFile.public(PROXY_CONFIG, config),
    ]


def _key_files(
    name: str, key: PrivateKey, certificate: Certificate, owner: str
) -> list[NewFile]:
    return [
        NewFile(name, key.to_openssh(), private=True),
        NewFile.public(f"{name}.pub", key.public.to_openssh(owner) + "\n"),
        NewFile.public(f"{name}-cert.pub", certificate.to_openssh(owner) + "\n"),
    ]


def check_renewable(
    path: Path,
    certificate: Certificate,
    kind: CertificateKind,
    ca: Path,
    make_new: str,
) -> None:
    """Make sure that a certificate is ours; expired it may be, or of a key that the
    authority had before.

    :param path: where it was read.
    :param ca: the authority's private key file.
    :param make_new: the command that makes a new one instead.
    :raises KeyFileError: when it is not to be renewed.
    """
    trusted = {key.public for key in available_keys(ca)}
    trusted.update(load_trust_anchors(public_path(ca)))
    try:
        certificate.check(kind=kind, trusted=trusted, now=certificate.valid_after)
    except CertificateError as error:
        raise KeyFileError(
            f"{path}: {error}; make a new one with `{make_new}`"
        ) from None
