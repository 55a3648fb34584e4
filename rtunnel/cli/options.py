"""Options and arguments that several verbs take."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from rtunnel.config.addresses import Address
from rtunnel.config.checks import is_proxy_name
from rtunnel.errors import InvalidName
from rtunnel.naming import check_cluster, check_user
from rtunnel.wire.keys import KEY_TYPES, NEW_RSA_BITS

_Command = TypeVar("_Command", bound=Callable[..., Any])
_T = TypeVar("_T")

#: Seconds in each unit of a duration.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

#: Seconds in the longest duration that is taken: ten years.
MAX_DURATION = 520 * UNITS["w"]

_DURATION = re.compile(r"(?:[0-9]{1,9}[smhdw])+")
_PART = re.compile(r"([0-9]+)([smhdw])")


def duration(text: str) -> int:
    """``90s``, ``8h``, ``1d12h`` in seconds, from 1 to :data:`MAX_DURATION`.

    As ``ssh-keygen`` takes them, but the unit has to be there.

    :raises BadParameter: when it is none.
    """
    if _DURATION.fullmatch(text) is None:
        raise click.BadParameter(
            f"{text!r} is not a duration: give a number and one of s, m, h, d, w, as "
            "in 8h"
        )
    seconds = sum(int(n) * UNITS[unit] for n, unit in _PART.findall(text))
    if not 1 <= seconds <= MAX_DURATION:
        raise click.BadParameter(f"{text!r} is not between 1s and 520w")
    return seconds


def cluster_name(text: str) -> str:
    """A cluster name.

    :raises BadParameter: when it is none.
    """
    return _checked(check_cluster, text)


def proxy_name(text: str) -> str:
    """A proxy's name.

    :raises BadParameter: when it is none.
    """
    if not is_proxy_name(text):
        raise click.BadParameter(
            f"{text!r} is not a proxy's name: letters, digits and '._-', at most 253"
        )
    return text


def user_name(text: str) -> str:
    """A person's name, or a principal.

    :raises BadParameter: when it is none.
    """
    return _checked(check_user, text)


def dial_address(text: str) -> Address:
    """Where to reach proxies: ``HOST:PORT``, or ``tls:HOST:PORT``.

    :raises BadParameter: when it is none.
    """
    return _checked(Address.parse, text)


def _checked(check: Callable[[str], _T], text: str) -> _T:
    try:
        return check(text)
    except InvalidName as error:
        raise click.BadParameter(str(error)) from None


class NamedPath(click.Path):
    """A path that was given.

    An empty one would be the working directory, and comes of a variable of a script
    that is not set.
    """

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """See :class:`click.Path`."""
        if value == "":
            self.fail("the path is empty; . is the current directory", param, ctx)
        return super().convert(value, param, ctx)


# Not asked whether it can be read: whoever opens a file of it knows what to advise.
DIRECTORY = NamedPath(file_okay=False, readable=False, path_type=Path)

#: A file, which need not be there.
FILE = NamedPath(dir_okay=False, path_type=Path)

state_option = click.option(
    "--state",
    type=DIRECTORY,
    envvar="RTUNNEL_STATE",
    default=".",
    metavar="DIR",
    help="State directory. Default: $RTUNNEL_STATE, else the current directory.",
)


def out_option(help: str) -> Callable[[_Command], _Command]:
    """``--out``: the state directory to make.

    :param help: what to say of it.
    """
    return click.option(
        "--out", required=True, type=DIRECTORY, metavar="DIR", help=help
    )


def principal_option(help: str) -> Callable[[_Command], _Command]:
    """``--principal``, any number of times.

    :param help: what it is, to precede "May be repeated."
    """
    return click.option(
        "--principal",
        "principals",
        type=user_name,
        multiple=True,
        metavar="NAME",
        help=f"{help} May be repeated.",
    )


set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the config file that is written; VALUE in TOML, as in "
    "'tunnel.heartbeat=2'. May be repeated.",
)

force_option = click.option(
    "--force", is_flag=True, help="Overwrite files that are there already."
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for programs."
)


def key_type_option(name: str, what: str) -> Callable[[_Command], _Command]:
    """An option for the type of a new key; its value is that type's name on the wire.

    :param name: of the option.
    :param what: whose type, to follow "The type of".
    """
    return click.option(
        name,
        type=click.Choice(list(KEY_TYPES)),
        callback=lambda context, parameter, value: KEY_TYPES[value],
        default=next(iter(KEY_TYPES)),
        show_default=True,
        help=f"The type of {what}; ecdsa is P-256, rsa has {NEW_RSA_BITS} bits.",
    )


def ttl_option(default: str) -> Callable[[_Command], _Command]:
    """``--ttl``: how long a new certificate is valid.

    :param default: a duration, or a key of ``proxy.toml``; for that the value is None.
    """
    is_key = "." in default
    return click.option(
        "--ttl",
        type=duration,
        default=None if is_key else default,
        show_default=f"{default} of proxy.toml" if is_key else True,
        metavar="TIME",
        help="How long the certificate is valid: 30m, 8h, 7d, 52w.",
    )
