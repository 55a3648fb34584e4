"""``rtunnel user``: people's certificates."""

from __future__ import annotations

import time
from pathlib import Path

import click

from rtunnel.authority_files import load_authority
from rtunnel.cli.options import (
    FILE,
    force_option,
    principal_option,
    state_option,
    ttl_option,
    user_name,
)
from rtunnel.cli.printing import shell_path, until
from rtunnel.state_directory import (
    USER_CA,
    certificate_path,
    load_public_key,
    write_public,
)
from rtunnel.trust.authority import CertificateAuthority


@click.group()
def user() -> None:
    """Sign people's keys."""


@user.command()
@click.argument("name", type=user_name)
@state_option
@click.option(
    "--key",
    required=True,
    metavar="FILE.pub",
    type=FILE,
    help="The person's public key.",
)
@principal_option("What [[allow]] rules may call this person besides NAME.")
@ttl_option("8h")
@click.option(
    "--out",
    metavar="FILE",
    type=FILE,
    help="Where to write the certificate. Default: FILE-cert.pub beside FILE.pub, "
    "where ssh finds it.",
)
@force_option
def sign(
    name: str,
    state: Path,
    key: Path,
    principals: tuple[str, ...],
    ttl: int,
    out: Path | None,
    force: bool,
) -> None:
    """Sign the public key of the person NAME.

    The certificate lets its owner log in at the proxies, as NAME, until it expires.
    """
    public, comment = load_public_key(key)
    authority = CertificateAuthority(load_authority(state, USER_CA), now=time.time)
    certificate = authority.sign_user(public, name=name, principals=principals, ttl=ttl)
    out = out or certificate_path(key)
    write_public(out, certificate.to_openssh(comment) + "\n", force=force)
    click.echo(
        f"Signed {shell_path(out)} for {', '.join(certificate.principals)}, "
        f"valid until {until(certificate)}."
    )
