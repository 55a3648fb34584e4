"""``rtunnel drain``: the running proxy leaves, and loses nothing."""

from __future__ import annotations

from pathlib import Path

import click

from rtunnel.admin_client import post_drain
from rtunnel.cli.options import state_option
from rtunnel.state_directory import ADMIN_SOCKET


@click.command()
@state_option
def drain(state: Path) -> None:
    """Let the running proxy leave.

    Asks the proxy of the state directory. It takes no new connections, sends its
    agents elsewhere, gives open connections drain.timeout seconds, and ends.
    """
    post_drain(state / ADMIN_SOCKET)
    click.echo("The proxy is draining; `rtunnel status` tells as long as it runs.")
