"""``rtunnel ssh-config``: what people's stock ssh needs to know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from rtunnel.cli.options import cluster_name, state_option
from rtunnel.config import Address, ProxyConfig, load_proxy
from rtunnel.errors import RtunnelError
from rtunnel.state_directory import (
    HOST_CA,
    PROXY_CONFIG,
    load_trust_anchors,
    public_path,
)
from rtunnel.wire.keys import PublicKey

#: Seconds between the probes with which ssh notices a dead connection.
SERVER_ALIVE_INTERVAL = 15


@click.command("ssh-config")
@state_option
@click.option(
    "--cluster",
    "clusters",
    type=cluster_name,
    multiple=True,
    metavar="NAME",
    help="A cluster behind agents, to be reached as HOST.NAME. May be repeated.",
)
@click.option(
    "--only",
    type=click.Choice(["config", "known-hosts"]),
    help="Print one of the two parts, without comments between them.",
)
def ssh_config(state: Path, clusters: tuple[str, ...], only: str | None) -> None:
    """Print a block for ~/.ssh/config and a line for ~/.ssh/known_hosts.

    The line makes ssh believe every proxy of the cluster, now and later. It is all
    that `ssh -J PROXY HOST.CLUSTER` needs; with the block, `ssh HOST.CLUSTER` does.
    """
    config = load_proxy(state / PROXY_CONFIG)
    block = config_block(config, clusters)
    lines = known_hosts_lines(config, load_trust_anchors(public_path(state / HOST_CA)))
    if only == "config":
        click.echo(block, nl=False)
    elif only == "known-hosts":
        click.echo(lines, nl=False)
    else:
        click.echo("# ----- for ~/.ssh/config, above any `Host *` -----")
        click.echo(block, nl=False)
        click.echo("\n# ----- for ~/.ssh/known_hosts, one line -----")
        click.echo(lines, nl=False)


def config_block(config: ProxyConfig, clusters: Sequence[str]) -> str:
    """A ``Host`` block for the proxies, and one for the hosts behind them.

    :param clusters: besides the proxies' own.
    :raises RtunnelError: when no public address speaks plain SSH.
    """
    jump = f"rtunnel-{config.cluster}"
    address = _ssh_addresses(config)[0]
    names = [*dict.fromkeys((config.cluster, *clusters))]
    # A cluster's bare name is the host that its agent runs on.
    patterns = [f"*.{name}" for name in names] + names[1:]
    # A proxy whose own name ends like a cluster's must not be reached through itself.
    patterns += [
        f"!{each.host}"
        for each in config.ssh.public
        if each.host.rpartition(".")[2] in names
    ]
    lines = [
        f"# The proxies of cluster {config.cluster}.",
        f"Host {jump}",
        f"    HostName {address.host}",
        f"    Port {address.port}",
        f"    ServerAliveInterval {SERVER_ALIVE_INTERVAL}",
        "",
        "# HOST.CLUSTER goes through them. For each cluster behind an agent there has",
        "# to be a pattern here; rtunnel ssh-config --cluster NAME adds it.",
        f"Host {' '.join(patterns)}",
        f"    ProxyJump {jump}",
    ]
    return "".join(f"{line}\n" for line in lines)


def known_hosts_lines(config: ProxyConfig, host_cas: Iterable[PublicKey]) -> str:
    """One ``@cert-authority`` line per key of the host authority: one, but while it is
    being rotated."""
    # ssh looks a host on another port than 22 up as [host]:port.
    patterns = dict.fromkeys(
        pattern
        for each in (*_ssh_addresses(config), *config.ssh.advertise)
        for pattern in (each.host, f"[{each.host}]:{each.port}")
        if not each.tls
    )
    comment = f"rtunnel-{HOST_CA}-{config.cluster}"
    return "".join(
        f"@cert-authority {','.join(patterns)} {key.to_openssh(comment)}\n"
        for key in host_cas
    )


def _ssh_addresses(config: ProxyConfig) -> list[Address]:
    found = [address for address in config.ssh.public if not address.tls]
    if not found:
        raise RtunnelError(
            f"{config.path}: ssh.public names no address that speaks plain SSH, which "
            'is all that ssh can; add one, as in ["lb.example.com:3023"]'
        )
    return found
