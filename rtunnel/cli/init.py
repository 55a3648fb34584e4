"""``rtunnel init``: a new cluster, and the state directory of its first proxy."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import click

from rtunnel.cli.issuing import (
    CAS,
    PROXY_FILES,
    check_state,
    parse_proxy_toml,
    proxy_files,
    sign_host_key,
)
from rtunnel.cli.options import (
    cluster_name,
    dial_address,
    force_option,
    key_type_option,
    set_option,
    state_option,
    ttl_option,
)
from rtunnel.cli.printing import shell_path, steps
from rtunnel.config import Address, ProxyConfig, proxy_toml
from rtunnel.filling import NewFile, check_fillable, fill
from rtunnel.state_directory import AUTHORIZED_KEYS, HOST_CA, PROXY_CONFIG
from rtunnel.wire.keys import PrivateKey

FIRST_AUTHORIZED_KEYS = """\
# People who may log in with a plain key, one a line, as in OpenSSH's authorized_keys.
# The comment is the person's name, which [[allow]] rules in proxy.toml speak of:
#
#   ssh-ed25519 AAAA... alice
#   from="192.0.2.0/24",expiry-time="20301231" ssh-ed25519 AAAA... bob
#
# People with a certificate from `rtunnel user sign` need no line here.
"""


@click.command()
@state_option
@click.option(
    "--cluster",
    type=cluster_name,
    required=True,
    metavar="NAME",
    help="The name of the proxies' own cluster.",
)
@click.option(
    "--public",
    type=dial_address,
    multiple=True,
    required=True,
    metavar="HOST:PORT",
    help="Where agents and clients reach the proxies: the load balancer, or the one "
    "proxy. May be repeated.",
)
@key_type_option("--host-key-type", "the host key")
@key_type_option("--ca-key-type", "the three authorities' keys")
@ttl_option("certificates.proxy_ttl")
@set_option
@force_option
def init(
    state: Path,
    cluster: str,
    public: tuple[Address, ...],
    host_key_type: bytes,
    ca_key_type: bytes,
    ttl: int | None,
    settings: tuple[str, ...],
    force: bool,
) -> None:
    """Make a cluster and its first proxy.

    Writes three authorities (for proxies, agents and people), a host key with its
    certificate, and proxy.toml into the state directory.
    """
    text = proxy_toml({"cluster": cluster, "ssh": {"public": public}}, settings)
    config = parse_proxy_toml(text)
    check_state(config, state)
    # People's keys that are there stay, with --force as well.
    names = [
        *CAS,
        *(name for name in PROXY_FILES if name != AUTHORIZED_KEYS),
    ]
    check_fillable(state, names, force=force)
    host_ca = PrivateKey.generate(ca_key_type)
    host_key = PrivateKey.generate(host_key_type)
    certificate = sign_host_key(
        host_ca, host_key.public, str(uuid4()), config, config, ttl, [config.name]
    )
    authorities = {
        name: host_ca if name == HOST_CA else PrivateKey.generate(ca_key_type)
        for name in CAS
    }
    trusted = {
        name: key.public.to_openssh(f"rtunnel {name} of {config.cluster}") + "\n"
        for name, key in authorities.items()
    }
    files = [
        *(NewFile(name, key.to_openssh(), True) for name, key in authorities.items()),
        *proxy_files(host_key, certificate, trusted, FIRST_AUTHORIZED_KEYS, text),
    ]
    if (state / AUTHORIZED_KEYS).exists():
        files = [file for file in files if file.name in names]
    fill(state, files, force=force)
    click.echo(_next_steps(state, config))


def _next_steps(state: Path, config: ProxyConfig) -> str:
    where = shell_path(state)
    config_file = shell_path(state / PROXY_CONFIG)
    jump = config.ssh.public[0] if config.ssh.public else "PROXY"
    return f"Cluster {config.cluster} is ready in {where}.\n\n" + steps(
        ("Start the proxy:", f"twistd -n rtunnel-proxy --config {config_file}"),
        (
            "Get a line that lets the agent of a cluster b join:",
            f"rtunnel token add b --state {where}",
        ),
        ("paste it on the agent's machine:", "rtunnel join 'LINE' --state agent-b"),
        ("and start it there:", "twistd -n rtunnel-agent --config agent-b/agent.toml"),
        (
            "Let a person in:",
            f"rtunnel user sign alice --state {where} --key ~/.ssh/id_ed25519.pub",
        ),
        (
            "Tell people's ssh which proxies to believe:",
            f"rtunnel ssh-config --state {where}",
        ),
        ("Then:", f"ssh -J {jump} root@b"),
    )
