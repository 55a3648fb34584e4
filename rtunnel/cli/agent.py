"""``rtunnel agent``: agents made by hand, without a token."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import uuid4

import click

from rtunnel.authority_files import load_authority
from rtunnel.cli.issuing import (
    AGENT_FILES,
    agent_config,
    agent_files,
    check_renewable,
    check_state,
    parse_agent_toml,
    public_key_lines,
)
from rtunnel.cli.options import (
    FILE,
    cluster_name,
    force_option,
    key_type_option,
    out_option,
    set_option,
    state_option,
    ttl_option,
)
from rtunnel.cli.preconditions import check_agent_cluster, check_public
from rtunnel.cli.printing import shell_path, steps, until
from rtunnel.config import load_proxy
from rtunnel.errors import ConfigError
from rtunnel.filling import check_fillable, fill
from rtunnel.state_directory import (
    AGENT_CA,
    AGENT_CONFIG,
    HOST_CA,
    HOST_KEY,
    PROXY_CONFIG,
    load_certificate,
    load_public_key,
    load_trust_anchors,
    public_path,
    write_public,
)
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.renewal import AGENT_VALIDITY
from rtunnel.wire.certificate import CertificateKind
from rtunnel.wire.keys import PrivateKey


@click.group()
def agent() -> None:
    """Make and renew agents."""


@agent.command()
@click.argument("cluster", type=cluster_name)
@state_option
@out_option("The state directory to make; copy it to the agent's machine.")
@key_type_option("--key-type", "the agent's key")
@ttl_option("certificates.agent_ttl")
@set_option
@force_option
def sign(
    cluster: str,
    state: Path,
    out: Path,
    key_type: bytes,
    ttl: int | None,
    settings: tuple[str, ...],
    force: bool,
) -> None:
    """Make the state directory of an agent of CLUSTER.

    It gets a key with its certificate, the host authority's public key, and
    agent.toml.
    """
    proxies = load_proxy(state / PROXY_CONFIG)
    check_agent_cluster(cluster, proxies)
    check_public(proxies)
    host_key = public_path(state / HOST_KEY)
    text = agent_config(
        cluster,
        proxies.ssh.public,
        load_public_key(host_key)[0] if host_key.exists() else None,
        settings,
    )
    config = parse_agent_toml(text)
    check_state(config, out)
    if config.cluster != cluster:
        raise ConfigError(
            [
                f'--set: cluster: found "{config.cluster}", expected "{cluster}", '
                "which is what the certificate will say"
            ]
        )
    authority = CertificateAuthority(load_authority(state, AGENT_CA), now=time.time)
    host_cas = load_trust_anchors(public_path(state / HOST_CA))
    check_fillable(out, AGENT_FILES, force=force)
    key = PrivateKey.generate(key_type)
    certificate = authority.sign_agent(
        key.public,
        cluster=cluster,
        instance=str(uuid4()),
        validity=ttl or proxies.certificates.agent_ttl,
    )
    anchors = public_key_lines(host_cas, f"rtunnel {HOST_CA} of {proxies.cluster}")
    fill(out, agent_files(key, certificate, anchors, text), force=force)
    command = f"twistd -n rtunnel-agent --config {shell_path(out / AGENT_CONFIG)}"
    click.echo(
        f"An agent of cluster {cluster} is ready in {shell_path(out)}, valid until "
        f"{until(certificate)}.\nIt renews itself while it runs and a proxy can sign; "
        "where none can, give --ttl 52w.\n\n"
        + steps(("Copy the directory to the agent's machine and start it:", command))
    )


@agent.command()
@state_option
@click.option(
    "--certificate",
    "path",
    required=True,
    type=FILE,
    metavar="FILE",
    help="The agent's certificate, agent_key-cert.pub, or a copy of it.",
)
@ttl_option("certificates.agent_ttl")
def renew(state: Path, path: Path, ttl: int | None) -> None:
    """Sign an agent's certificate again, for the same key and the same agent.

    It is replaced in place; no private key but the authority's is needed, so the file
    may be a copy from the agent's machine, to be copied back. A running agent takes
    the new certificate by itself. While it runs, and a proxy can sign, it renews its
    certificate itself.
    """
    ca = load_authority(state, AGENT_CA)
    old = load_certificate(path)
    check_renewable(
        path, old, CertificateKind.USER, state / AGENT_CA, "rtunnel agent sign"
    )
    new = CertificateAuthority(ca, now=time.time).sign_agent(
        old.key,
        cluster=old.principals[0],
        instance=old.key_id,
        validity=ttl or _default_ttl(state),
    )
    comment = f"rtunnel agent {new.key_id} of {new.principals[0]}"
    write_public(path, new.to_openssh(comment) + "\n", force=True)
    click.echo(f"Signed {shell_path(path)} again, valid until {until(new)}.")


def _default_ttl(state: Path) -> float:
    """As proxy.toml says; authorities may lie where there is none."""
    path = state / PROXY_CONFIG
    if not path.exists():
        return AGENT_VALIDITY
    return load_proxy(path).certificates.agent_ttl
