"""The ``rtunnel`` command: its verbs, how errors are said, exit codes.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted. An error is
one line on standard error that says what to do; a config file with several problems
gives one line for each.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

import click

from rtunnel import __version__
from rtunnel.cli.entry import INTERRUPTED
from rtunnel.errors import ConfigError, RtunnelError

#: Each verb: where its command is, and what ``rtunnel --help`` says of it. A module is
#: imported when its verb is used, so that the others do not wait for it.
VERBS = {
    "init": ("rtunnel.cli.init:init", "Make a cluster and its first proxy."),
    "proxy": ("rtunnel.cli.proxy:proxy", "Make and renew further proxies."),
    "agent": ("rtunnel.cli.agent:agent", "Make and renew agents."),
    "token": ("rtunnel.cli.token:token", "Let other machines join with one line."),
    "join": ("rtunnel.cli.join:join", "Join with the line that a token is in."),
    "user": ("rtunnel.cli.user:user", "Sign people's keys."),
    "ca": ("rtunnel.cli.ca:ca", "Show and exchange the authorities."),
    "ssh-config": (
        "rtunnel.cli.ssh_config:ssh_config",
        "Print a block for ~/.ssh/config and a line for ~/.ssh/known_hosts.",
    ),
    "ls": ("rtunnel.cli.status:ls", "List the clusters that can be reached."),
    "status": ("rtunnel.cli.status:status", "Show proxies, clusters and tunnels."),
    "revoke": (
        "rtunnel.cli.revoke:revoke",
        "Lock out a certificate, key, person, agent or cluster.",
    ),
    "access": ("rtunnel.cli.access:access", "Say who may reach what."),
    "audit": ("rtunnel.cli.audit:audit", "Check the audit file."),
    "drain": ("rtunnel.cli.drain:drain", "Let the running proxy leave."),
    "demo": ("rtunnel.cli.demo.command:demo", "Show it all at work on this machine."),
}


class LazyGroup(click.Group):
    """A group of :data:`VERBS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order in which they are first needed."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        if cmd_name in VERBS:
            module, _, attribute = VERBS[cmd_name][0].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        if not cmd_name.startswith("-"):
            close = difflib.get_close_matches(cmd_name, VERBS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            ctx.fail(f"there is no verb {cmd_name!r}{hint}")
        return None

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """The table in ``--help``, without importing any verb."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(
    cls=LazyGroup,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="rtunnel", message="%(prog)s %(version)s")
def rtunnel() -> None:
    """Stock SSH to machines behind somebody else's firewall.

    `rtunnel VERB --help` says more about a verb. Proxies and agents themselves run
    under twistd: `twistd -n rtunnel-proxy --help`, `twistd -n rtunnel-agent --help`.
    """


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line.

    :param arguments: without the program's name.
    :return: the exit code.
    """
    try:
        result = rtunnel.main(
            args=list(arguments), prog_name="rtunnel", standalone_mode=False
        )
    except click.UsageError as error:
        return _wrong_usage(error)
    except click.ClickException as error:
        return _failed(error.format_message())
    except click.Abort:
        _failed("interrupted")
        return INTERRUPTED
    except ConfigError as error:
        return _failed(*error.problems)
    except RtunnelError as error:
        return _failed(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno == errno.ENOSPC and not where:
            where = "standard output cannot be written: "
            _drop_output()
        return _failed(f"{where}{error.strerror or error}")
    return result if isinstance(result, int) else 0


def main() -> None:
    """The console script."""
    if sys.stdout is None:
        # Nothing has been done yet: who cannot see a token should not have made it.
        sys.exit(_failed("standard output is closed; /dev/null takes what is not read"))
    sys.exit(run(sys.argv[1:]))


def _drop_output() -> None:
    """What cannot be written must not be tried again.

    The interpreter would, when it ends, and complain in its own words.
    """
    with open(os.devnull, "wb") as nowhere, contextlib.suppress(OSError):
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _wrong_usage(error: click.UsageError) -> int:
    message = error.format_message()
    if "\n" in message:
        # A verb that needs another verb was given alone: the message is its help.
        click.echo(message, err=True)
        return 2
    path = error.ctx.command_path if error.ctx else "rtunnel"
    click.echo(f"rtunnel: {message.rstrip('.')} (see `{path} --help`)", err=True)
    return 2


def _failed(*problems: str) -> int:
    for problem in problems:
        click.echo(f"rtunnel: {problem}", err=True)
    return 1


if __name__ == "__main__":
    main()
