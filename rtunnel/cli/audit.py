"""``rtunnel audit``: whether the audit file is as it was written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from rtunnel.audit.file import AuditPath
from rtunnel.audit.verification import verify as verify_sources
from rtunnel.cli.options import FILE, state_option
from rtunnel.config import load_proxy
from rtunnel.counting import counted
from rtunnel.state_directory import PROXY_CONFIG

_VALUE = re.compile(r"[0-9a-f]{64}")


@click.group()
def audit() -> None:
    """Check the audit file."""


def _chain_values(
    context: click.Context, parameter: click.Parameter, texts: Sequence[str]
) -> Sequence[str]:
    for text in texts:
        if _VALUE.fullmatch(text) is None:
            raise click.BadParameter(f"{text!r} is no chain value: 64 of 0-9 and a-f")
    return texts


@audit.command()
@state_option
@click.argument(
    "files",
    nargs=-1,
    type=FILE,
    metavar="[FILE]...",
)
@click.option(
    "--expect",
    "expected",
    multiple=True,
    callback=_chain_values,
    metavar="HASH",
    help="A head that was printed before: the lines up to it have to be there still. "
    "May be repeated.",
)
def verify(state: Path, files: Sequence[Path], expected: Sequence[str]) -> None:
    """Check that no audit line was changed, removed, inserted or moved.

    FILE: one or more, the oldest first; `.gz` files are read as they are. Default: the
    audit file of the state directory.

    Lines that are missing at the end show only with --expect: keep the head that is
    printed somewhere else, and give it the next time.
    """
    paths = files or [load_proxy(state / PROXY_CONFIG).audit.path]
    report = verify_sources([AuditPath(path) for path in paths], expected)
    for note in report.notes:
        click.echo(note)
    click.echo(f"OK: {counted(report.lines, 'line')}")
    click.echo(f"head: {report.head}")
