"""``rtunnel proxy``: further proxies of a cluster."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import click

from rtunnel.authority_files import load_authority
from rtunnel.cli.init import FIRST_AUTHORIZED_KEYS
from rtunnel.cli.issuing import (
    CAS,
    PROXY_FILES,
    check_renewable,
    check_state,
    host_certificate_line,
    parse_proxy_toml,
    proxy_files,
    public_key_lines,
    sign_host_key,
)
from rtunnel.cli.options import (
    FILE,
    force_option,
    key_type_option,
    out_option,
    proxy_name,
    set_option,
    state_option,
    ttl_option,
)
from rtunnel.cli.preconditions import check_shareable
from rtunnel.cli.printing import host_key_note, shell_path, steps, until
from rtunnel.config import ProxyConfig, load_proxy, proxy_toml
from rtunnel.config.common_settings import common_settings
from rtunnel.errors import ConfigError, RtunnelError
from rtunnel.filling import check_fillable, fill
from rtunnel.state_directory import (
    HOST_CA,
    HOST_KEY,
    PROXY_CONFIG,
    certificate_path,
    load_certificate,
    load_trust_anchors,
    public_path,
    write_public,
)
from rtunnel.wire.certificate import CertificateKind
from rtunnel.wire.keys import PrivateKey


@click.group()
def proxy() -> None:
    """Make and renew further proxies."""


@proxy.command()
@click.argument("name", type=proxy_name)
@state_option
@out_option("The state directory to make.")
@key_type_option("--host-key-type", "the host key")
@ttl_option("certificates.proxy_ttl")
@set_option
@force_option
def sign(
    name: str,
    state: Path,
    out: Path,
    host_key_type: bytes,
    ttl: int | None,
    settings: tuple[str, ...],
    force: bool,
) -> None:
    """Make the state directory of another proxy, called NAME.

    It gets a host key and certificate of its own, the authorities' public keys, the
    same registry, and the settings of the first proxy but those that speak of that
    proxy alone.
    """
    first = load_proxy(state / PROXY_CONFIG)
    text = proxy_toml(common_settings(first) | {"name": name}, settings)
    config = parse_proxy_toml(text)
    check_state(config, out)
    _check_shared(first, config)
    if out.resolve() == state.resolve():
        raise RtunnelError(
            f"--out {shell_path(out)}: is the first proxy's own directory; name "
            "another, or sign its certificate again with `rtunnel proxy renew`"
        )
    host_ca = load_authority(state, HOST_CA)
    people = FIRST_AUTHORIZED_KEYS
    if first.ssh.authorized_keys.exists():
        people = first.ssh.authorized_keys.read_text("utf-8")
    authorities = {
        ca: public_key_lines(
            load_trust_anchors(public_path(state / ca)),
            f"rtunnel {ca} of {config.cluster}",
        )
        for ca in CAS
    }
    check_fillable(out, PROXY_FILES, force=force)
    key = PrivateKey.generate(host_key_type)
    certificate = sign_host_key(
        host_ca, key.public, str(uuid4()), config, first, ttl, [config.name]
    )
    files = proxy_files(key, certificate, authorities, people, text)
    fill(out, files, force=force)
    click.echo(_next_steps(first, config, out, host_key_note(key.public)))


@proxy.command()
@state_option
@click.option(
    "--certificate",
    "path",
    type=FILE,
    metavar="FILE",
    help="The host certificate to renew. Default: the one in the state directory.",
)
@ttl_option("certificates.proxy_ttl")
def renew(state: Path, path: Path | None, ttl: int | None) -> None:
    """Sign a host certificate again, for the same key and the same proxy.

    It is replaced in place; no private key but the authority's is needed, so the
    certificate of another proxy may be a copy, to be copied back. Names that
    ssh.public of proxy.toml has gained since are added. A proxy takes a new
    certificate at its next start, or on SIGHUP. While it runs, and a proxy can sign, it
    renews its certificate itself.
    """
    config = load_proxy(state / PROXY_CONFIG)
    path = path or certificate_path(state / HOST_KEY)
    old = load_certificate(path)
    host_ca = load_authority(state, HOST_CA)
    check_renewable(
        path, old, CertificateKind.HOST, state / HOST_CA, "rtunnel proxy sign"
    )
    proxy_id, _, *names = old.principals
    new = sign_host_key(host_ca, old.key, proxy_id, config, config, ttl, names)
    write_public(path, host_certificate_line(new), force=True)
    click.echo(f"Signed {shell_path(path)} again, valid until {until(new)}.")


def _check_shared(first: ProxyConfig, config: ProxyConfig) -> None:
    """Both proxies have to be of one cluster, and could see one registry."""
    if config.cluster != first.cluster:
        raise ConfigError(
            [
                f'--set: cluster: found "{config.cluster}", expected '
                f'"{first.cluster}"; another cluster is made with `rtunnel init`'
            ]
        )
    same = config.registry.url == first.registry.url
    check_shareable(config, first.path if same else "--set")
    if config.name == first.name:
        raise ConfigError([f"{first.path}: the first proxy is called {first.name} too"])


def _registry_file(config: ProxyConfig, directory: Path) -> Path:
    """Where the registry of a proxy in ``directory`` lies."""
    return (directory / config.registry.url.removeprefix("sqlite:")).resolve()


def _next_steps(first: ProxyConfig, config: ProxyConfig, out: Path, note: str) -> str:
    lines = [f"Proxy {config.name} of cluster {config.cluster} is ready in "]
    lines[0] += f"{shell_path(out)}."
    shared, own = _registry_file(first, first.state), _registry_file(config, out)
    if own != shared:
        lines.append(
            f"It has a registry of its own, sqlite:{own}, and {first.name} has "
            f"sqlite:{shared}: neither knows of the other. If they should, leave out "
            "--set registry.url."
        )
    else:
        lines.append(
            f"It shares the registry {config.registry.url} and so has to run on this "
            "machine."
        )
        busy = [each for each in config.ssh.listen if each in first.ssh.listen]
        busy += [each for each in config.web.listen if each in first.web.listen]
        if busy:
            lines.append(
                f"{first.name} listens on {', '.join(busy)} too: on one machine each "
                "proxy needs its own; change ssh.listen and web.listen."
            )
    if note:
        lines.append(note.rstrip())
    command = f"twistd -n rtunnel-proxy --config {shell_path(out / PROXY_CONFIG)}"
    return "\n".join(lines) + "\n\n" + steps(("Start it:", command))
