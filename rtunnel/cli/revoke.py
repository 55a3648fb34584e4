"""``rtunnel revoke``: what is trusted no longer, on every proxy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from rtunnel.admin_client import ask
from rtunnel.cli.direct_registry import ask_or_use
from rtunnel.cli.options import duration, json_option, state_option
from rtunnel.cli.printing import shell_path
from rtunnel.errors import InvalidName
from rtunnel.naming import printable
from rtunnel.proxy.host_revoking import HostRevoking
from rtunnel.proxy.revoking import Revoking
from rtunnel.state_directory import load_public_key
from rtunnel.status_text import table
from rtunnel.timestamps import rfc3339
from rtunnel.trust.revocation import Revocation, RevocationKind
from rtunnel.trust.revoked_hosts import may_be_host
from rtunnel.web.revocations import PATH

_T = TypeVar("_T")
_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Seconds after which every proxy has applied what was revoked.
WITHIN = 10


def _fingerprint(text: str) -> str:
    """A fingerprint as it is, or that of the key in a file."""
    if text.startswith("SHA256:"):
        return text
    key, _ = load_public_key(Path(text))
    return key.fingerprint


def _option(name: str, metavar: str, help: str) -> Callable[[_Command], _Command]:
    return click.option(f"--{name}", metavar=metavar, help=help)


@click.command()
@state_option
@_option("serial", "N", "The certificate with this serial number.")
@_option(
    "ca",
    "FILE.pub|FINGERPRINT",
    "With --serial: only of this authority. Default: of any.",
)
@_option(
    "key",
    "FILE.pub|FINGERPRINT",
    "Whoever has this key. That of an authority: all that it signed.",
)
@_option("key-id", "ID", "Certificates with this key id: of a person, agent or proxy.")
@_option("user", "NAME", "A person, by whatever certificate or key.")
@_option("agent", "UUID", "An agent, by its instance id.")
@_option("cluster", "NAME", "All agents of a cluster.")
@_option("reason", "TEXT", "Why, for the audit log; who is revoked does not hear it.")
@click.option(
    "--for",
    "lifetime",
    type=duration,
    metavar="TIME",
    help="Until when: 8h, 7d. Default: until it is removed.",
)
@click.option("--list", "listing", is_flag=True, help="Show what is revoked.")
@click.option("--remove", metavar="ID", help="Trust it again. IDs are in --list.")
@json_option
def revoke(
    state: Path,
    reason: str | None,
    ca: str | None,
    lifetime: int | None,
    listing: bool,
    remove: str | None,
    as_json: bool,
    **targets: str | None,
) -> None:
    """Lock out a certificate, key, person, agent or cluster.

    Within 10 seconds no proxy of the cluster lets in what is revoked, and those that
    are logged in are disconnected. Asks the running proxy of the state directory, or
    else writes to its registry.
    """
    given = [
        (kind, value)
        for kind in RevocationKind
        if (value := targets[kind.value]) is not None
    ]
    if len(given) + listing + (remove is not None) != 1:
        kinds = ", ".join(f"--{kind.value}" for kind in RevocationKind)
        raise click.UsageError(
            f"give one of {kinds.replace('_', '-')}, --list and --remove"
        )
    if not given and (reason is not None or ca is not None or lifetime is not None):
        raise click.UsageError("--reason, --ca and --for belong to what is revoked")
    if listing:
        _list(_records(state), as_json)
        return
    if remove is not None:
        record = _remove(state, remove)
        said = f"{_shown(record)} is trusted again."
    else:
        record = _make(*given[0], reason, ca, lifetime)
        untold = _add(state, record)
        if untold is not None:
            click.echo(f"rtunnel: agents are not told: {untold}", err=True)
        who = "Every proxy"
        if untold is None and may_be_host(record):
            who += ", and every agent should it be a proxy's,"
        said = (
            f"Revoked {_shown(record)}. {who} applies it within {WITHIN} seconds.\n"
            f"To take it back:  rtunnel revoke --remove {record.id} "
            f"--state {shell_path(state)}"
        )
    click.echo(json.dumps(_document(record)) if as_json else said)


def _make(
    kind: RevocationKind,
    value: str,
    reason: str | None,
    ca: str | None,
    lifetime: int | None,
) -> Revocation:
    if ca is not None and kind is not RevocationKind.SERIAL:
        raise click.UsageError("--ca belongs to --serial")
    now = time.time()
    try:
        return Revocation.make(
            kind,
            _fingerprint(value) if kind is RevocationKind.KEY else value,
            reason="no reason given" if reason is None else reason,
            created=now,
            until=None if lifetime is None else now + lifetime,
            ca=None if ca is None else _fingerprint(ca),
        )
    except InvalidName as error:
        raise click.UsageError(str(error)) from None


def _add(state: Path, record: Revocation) -> str | None:
    """Revoke it, and return why agents are not told."""
    body: Mapping[str, object] = json.loads(record.to_json())
    return _asked(
        state,
        lambda socket: ask(socket, "POST", PATH, body).get("agents_not_told"),
        lambda revoking: revoking.add(record),
    )


def _remove(state: Path, id: str) -> Revocation:
    return _asked(
        state,
        lambda socket: _read(ask(socket, "DELETE", PATH, {"id": id})),
        lambda revoking: revoking.remove(id),
    )


def _records(state: Path) -> Sequence[Revocation]:
    return _asked(
        state,
        lambda socket: tuple(map(_read, ask(socket, "GET", PATH)["revocations"])),
        lambda revoking: revoking.list(),
    )


def _read(document: Mapping[str, Any]) -> Revocation:
    return Revocation.from_json(json.dumps(document))


def _asked(
    state: Path,
    ask_proxy: Callable[[Path], _T],
    directly: Callable[[Revoking], Coroutine[Any, Any, _T]],
) -> _T:
    return ask_or_use(
        state,
        ask_proxy,
        lambda here: directly(
            Revoking(
                here.registry,
                here.record,
                here.proxy_id,
                HostRevoking(here.registry, here.directory, time.time),
            )
        ),
    )


def _list(records: Sequence[Revocation], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_document(record) for record in records], indent=2))
        return
    if not records:
        click.echo("Nothing is revoked.")
        return
    rows = [
        (
            record.id,
            record.kind.value.replace("_", "-"),
            printable(record.value),
            rfc3339(record.created, "seconds"),
            "-" if record.until is None else rfc3339(record.until, "seconds"),
            printable(record.reason),
        )
        for record in records
    ]
    click.echo(
        table(("ID", "KIND", "WHAT", "SINCE", "UNTIL", "REASON"), rows), nl=False
    )


def _document(record: Revocation) -> dict[str, Any]:
    return {
        "id": record.id,
        "kind": record.kind.value,
        "value": record.value,
        "ca": record.ca,
        "reason": record.reason,
        "created": rfc3339(record.created, "seconds"),
        "until": None if record.until is None else rfc3339(record.until, "seconds"),
    }


def _shown(record: Revocation) -> str:
    return f"{record.kind.value.replace('_', ' ')} {printable(record.value)}"
