"""``rtunnel ls`` and ``rtunnel status``: what the running proxy knows."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from rtunnel.admin_client import get_status
from rtunnel.cli.options import json_option, state_option
from rtunnel.state_directory import ADMIN_SOCKET
from rtunnel.status_text import clusters_text, status_text

#: Seconds from one look to the next with ``--watch``.
WATCH_INTERVAL = 2.0

#: What makes a terminal forget its screen and start at the top.
_CLEAR = "\x1b[2J\x1b[H"


@click.command()
@state_option
@json_option
def ls(state: Path, as_json: bool) -> None:
    """List the clusters that can be reached.

    Asks the running proxy of the state directory.
    """
    _show(get_status(state / ADMIN_SOCKET), clusters_text, as_json)


@click.command()
@state_option
@json_option
@click.option(
    "--watch",
    is_flag=True,
    help=f"Look again every {WATCH_INTERVAL:g} seconds, until interrupted. With --json "
    "each look is one line.",
)
def status(state: Path, as_json: bool, watch: bool) -> None:
    """Show proxies, clusters and tunnels.

    Asks the running proxy of the state directory, which knows of all proxies.
    """
    socket = state / ADMIN_SOCKET
    if not watch:
        _show(get_status(socket), status_text, as_json)
        return
    try:
        while True:
            document = get_status(socket)
            if as_json:
                click.echo(json.dumps(document))
            else:
                if sys.stdout.isatty():
                    click.echo(_CLEAR, nl=False)
                _show(document, status_text, as_json)
            time.sleep(WATCH_INTERVAL)
    except KeyboardInterrupt:
        # That is how one leaves; it is no failure.
        return


def _show(
    document: Mapping[str, Any],
    as_text: Callable[[Mapping[str, Any]], str],
    as_json: bool,
) -> None:
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    text = as_text(document)
    if sys.stdout.isatty():
        # A wrapped table is worse than one that is cut.
        width = shutil.get_terminal_size().columns
        text = "".join(f"{line[:width]}\n" for line in text.splitlines())
    click.echo(text, nl=False)
