"""``rtunnel access``: what the rules say, without anybody having to try."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs
import click

from rtunnel.cli.options import (
    json_option,
    principal_option,
    state_option,
    user_name,
)
from rtunnel.config import ProxyConfig, load_proxy
from rtunnel.errors import InvalidName
from rtunnel.naming import Target, parse_target
from rtunnel.state_directory import PROXY_CONFIG
from rtunnel.trust.policy import Allow, Policy

#: The port of a target that names none.
DEFAULT_PORT = 22

_HEADER = re.compile(r"\s*\[\[\s*(?:allow|\"allow\"|'allow')\s*\]\]\s*(?:#.*)?")
_PORT = re.compile(r"[0-9]{1,5}")


@attrs.frozen
class _Person:
    """Somebody with these principals; whether they can log in is not asked."""

    name: str
    principals: tuple[str, ...]


@click.group()
def access() -> None:
    """Say who may reach what."""


def _target(text: str) -> Target:
    name, _, port = text.rpartition(":")
    if _PORT.fullmatch(port) is None:
        name, port = text, str(DEFAULT_PORT)
    try:
        return parse_target(name, int(port))
    except InvalidName as error:
        raise click.BadParameter(str(error)) from None


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no time: give 2026-11-23T09:00, in UTC unless it says "
            "otherwise"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@access.command()
@click.argument("user", type=user_name)
@click.argument("target", type=_target)
@state_option
@principal_option("What the person's certificate lists besides USER.")
@click.option(
    "--at",
    "when",
    type=_moment,
    metavar="TIME",
    help="When: 2026-11-23T09:00, in UTC unless it says otherwise. Default: now.",
)
@json_option
def check(
    user: str,
    target: Target,
    state: Path,
    principals: tuple[str, ...],
    when: float | None,
    as_json: bool,
) -> int:
    """Say whether the rules let USER reach TARGET, and which one.

    TARGET: HOST.CLUSTER:PORT, as ssh would ask for it; port 22 if it has none.

    Reads the [[allow]] rules in proxy.toml as they are now, whether or not the running
    proxy has read them again. Whether USER can log in is not asked, and an agent's own
    list has the last word. Exit code: 0 for yes, 1 for no.
    """
    config = load_proxy(state / PROXY_CONFIG)
    person = _Person(user, tuple(dict.fromkeys((user, *principals))))
    now = time.time() if when is None else when
    decision = Policy(config.allow).decide(
        person, target.cluster, target.host, target.port, now
    )
    if isinstance(decision, Allow):
        rule: int | None = decision.rule + 1
        line = _line(config, decision.rule)
        reason = f"[[allow]] rule {rule} of {config.path}"
        reason += "" if line is None else f", line {line}"
        allowed = True
        if target.cluster == config.cluster:
            verdict = config.local.allow.allows_name(target.host, target.port)
            if not verdict:
                allowed = False
                reason = f"{reason}, but [local] allow does not: {verdict.reason}"
    else:
        allowed, rule, line, reason = False, None, None, decision.reason
    if as_json:
        document = {"allowed": allowed, "rule": rule, "line": line, "reason": reason}
        click.echo(json.dumps(document))
    else:
        click.echo(f"{'yes' if allowed else 'no'}: {reason}")
    return 0 if allowed else 1


def _line(config: ProxyConfig, index: int) -> int | None:
    """The line of the file at which a rule begins; None when that cannot be told."""
    try:
        lines = config.path.read_text("utf-8").split("\n")
    except OSError:
        return None
    headers = _headers(lines)
    # Rules may be written as one inline array, too.
    return headers[index] if len(headers) == len(config.allow) else None


def _headers(lines: Sequence[str]) -> list[int]:
    return [number for number, line in enumerate(lines, 1) if _HEADER.fullmatch(line)]
