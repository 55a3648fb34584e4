"""``rtunnel demo``."""

from __future__ import annotations

from typing import Any

import click
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react
from twisted.logger import globalLogBeginner

from rtunnel.cli.demo.story import Demo
from rtunnel.errors import RtunnelError


@click.command()
@click.option("--once", is_flag=True, help="Exit when it has been shown.")
def demo(once: bool) -> None:
    """Show stock ssh reaching a server behind a firewall, on this machine alone.

    Needs no root and no free port, and leaves nothing behind.
    """
    # The children's logs tell the story; this process has nothing to add to it.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    react(_run, [once])


def _run(reactor: Any, once: bool) -> Deferred[None]:
    running = Deferred.fromCoroutine(_show(Demo(reactor, click.echo), once))
    cleaned_up: Deferred[None] = Deferred()

    def interrupted() -> Deferred[None]:
        # Ctrl-C: the reactor waits until every child is gone.
        running.cancel()
        return cleaned_up

    reactor.addSystemEventTrigger("before", "shutdown", interrupted)

    def finished(result: Any) -> Any:
        cleaned_up.callback(None)
        return result

    return running.addBoth(finished)


async def _show(show: Demo, once: bool) -> None:
    try:
        await show.run()
        if not once:
            click.echo("\nTry it from another terminal; Ctrl-C here ends everything:\n")
            click.echo(f"  {show.ssh_line}\n")
            await Deferred()
    except CancelledError:
        click.echo("\nStopping ...")
    except RtunnelError as error:
        click.echo(f"rtunnel demo: {error}", err=True)
        raise SystemExit(1) from None
    finally:
        await show.clean_up()
