"""``rtunnel token``: what lets another machine join, as an agent or as a proxy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from rtunnel.admin_client import ask
from rtunnel.cli.direct_registry import ask_or_use
from rtunnel.cli.options import (
    cluster_name,
    duration,
    json_option,
    proxy_name,
    state_option,
)
from rtunnel.cli.preconditions import (
    check_agent_cluster,
    check_public,
    check_shareable,
)
from rtunnel.config import ProxyConfig, load_proxy
from rtunnel.errors import InvalidName
from rtunnel.naming import printable
from rtunnel.proxy.tokens import Tokens
from rtunnel.state_directory import (
    HOST_CA,
    PROXY_CONFIG,
    load_trust_anchors,
    public_path,
)
from rtunnel.status_text import table
from rtunnel.timestamps import rfc3339
from rtunnel.trust.join_token import (
    MAX_ADDRESSES,
    MAX_LIFETIME,
    MAX_USES,
    JoinLine,
    TokenRecord,
    hash_of,
    new_token,
)
from rtunnel.trust.signing_role import Role
from rtunnel.web.tokens import PATH, read_document, token_document

_T = TypeVar("_T")

#: How long a token is good unless told otherwise.
DEFAULT_LIFETIME = "1h"


@click.group()
def token() -> None:
    """Let other machines join with one line."""


@token.command()
@click.argument("cluster", type=cluster_name, required=False)
@state_option
@click.option("--proxy", "for_proxy", is_flag=True, help="For another proxy instead.")
@click.option(
    "--name",
    type=proxy_name,
    metavar="NAME",
    help="With --proxy: what the proxy is called, which its certificate then says.",
)
@click.option(
    "--ttl",
    type=duration,
    default=DEFAULT_LIFETIME,
    show_default=True,
    metavar="TIME",
    help="How long the token is good: 10m, 1h, 7d.",
)
@click.option(
    "--uses",
    type=click.IntRange(1, MAX_USES),
    default=1,
    show_default=True,
    metavar="N",
    help="How many machines may join with it.",
)
@click.option("--label", default="", metavar="TEXT", help="A note for `token ls`.")
def add(
    cluster: str | None,
    state: Path,
    for_proxy: bool,
    name: str | None,
    ttl: int,
    uses: int,
    label: str,
) -> None:
    """Print a line that lets another machine join.

    As an agent of CLUSTER, or, with --proxy, as another proxy. Paste the line there:
    `rtunnel join 'LINE' --state DIR`. Whoever has it can join, so treat it as a
    password; it is good once and for an hour, unless told otherwise.
    """
    if (cluster is None) != for_proxy:
        both = ", not both" if for_proxy else ""
        raise click.UsageError(f"name the cluster of the agent, or give --proxy{both}")
    if name is not None and not for_proxy:
        raise click.UsageError("--name belongs to --proxy")
    if ttl > MAX_LIFETIME:
        raise click.UsageError("a token is good for a year at most")
    config = load_proxy(state / PROXY_CONFIG)
    if cluster is not None:
        check_agent_cluster(cluster, config, ", or give --proxy")
    if for_proxy:
        check_shareable(config, config.path)
    secret = new_token()
    line = _line(config, secret, "proxy" if for_proxy else "agent", cluster)
    now = time.time()
    try:
        record = TokenRecord.make(
            hash_of(secret),
            {
                "kind": line.kind,
                "cluster": line.cluster,
                "uses": uses,
                "created": now,
                "expires": now + ttl,
                "label": label,
                "names": [] if name is None else [name],
            },
        )
    except InvalidName as error:
        raise click.UsageError(str(error)) from None
    _asked(
        state,
        lambda socket: ask(socket, "POST", PATH, token_document(record)),
        lambda tokens: tokens.add(record),
    )
    click.echo(str(line))


@token.command("ls")
@state_option
@json_option
def list_tokens(state: Path, as_json: bool) -> None:
    """Show the tokens that are good at the moment.

    Tokens that were used up, have expired or were withdrawn are not among them; they
    are in the audit file. Nothing shows a token again.
    """
    records = _asked(
        state,
        lambda socket: tuple(map(read_document, ask(socket, "GET", PATH)["tokens"])),
        lambda tokens: tokens.list(),
    )
    if as_json:
        click.echo(json.dumps([_shown(record) for record in records], indent=2))
    elif not records:
        click.echo("No token is good at the moment.")
    else:
        click.echo(_table(records), nl=False)


@token.command("rm")
@click.argument("token_id", metavar="ID")
@state_option
def remove(token_id: str, state: Path) -> None:
    """Withdraw a token.

    ID is shown by `rtunnel token ls`; its beginning will do. What has joined with the
    token already stays.
    """
    removed = _asked(
        state,
        lambda socket: read_document(ask(socket, "DELETE", PATH, {"id": token_id})),
        lambda tokens: tokens.remove(token_id),
    )
    click.echo(f"Token {removed.id} is withdrawn.")


def _line(
    config: ProxyConfig, secret: str, kind: Role, cluster: str | None
) -> JoinLine:
    check_public(config)
    anchors = load_trust_anchors(public_path(config.state / HOST_CA))
    return JoinLine(
        kind=kind,
        cluster=config.cluster if cluster is None else cluster,
        addresses=tuple(map(str, config.ssh.public[:MAX_ADDRESSES])),
        host_cas=tuple(key.fingerprint for key in anchors),
        token=secret,
    )


def _asked(
    state: Path,
    ask_proxy: Callable[[Path], _T],
    directly: Callable[[Tokens], Coroutine[Any, Any, _T]],
) -> _T:
    """Ask the running proxy, or do it with its registry when it is not running."""
    return ask_or_use(
        state,
        ask_proxy,
        lambda here: directly(
            Tokens(here.registry, time.time, record=here.record, proxy_id=here.proxy_id)
        ),
    )


def _table(records: Sequence[TokenRecord]) -> str:
    head = ("ID", "KIND", "CLUSTER", "USES", "EXPIRES", "LABEL")
    rows = [
        (
            record.id,
            record.kind,
            record.cluster,
            str(record.uses),
            rfc3339(record.expires, "seconds"),
            printable(record.label),
        )
        for record in records
    ]
    return table(head, rows)


def _shown(record: TokenRecord) -> Mapping[str, object]:
    return {
        "id": record.id,
        "kind": record.kind,
        "cluster": record.cluster,
        "uses": record.uses,
        "created": rfc3339(record.created, "seconds"),
        "expires": rfc3339(record.expires, "seconds"),
        "label": record.label,
        "names": list(record.names),
    }
