"""What may stand behind a key: strict types and ranges, one function for each.

A check takes what ``tomllib`` gave and returns our value, or raises :class:`BadValue`.
Nothing is coerced, but for a whole number where seconds are expected. The ``Annotated``
names are the types of the fields in :mod:`rtunnel.config.values`.
"""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import attrs

from rtunnel import naming
from rtunnel.config import addresses
from rtunnel.errors import InvalidName
from rtunnel.trust import hosts, policy, targets, times
from rtunnel.wire.source_address import Network, parse_network

T = TypeVar("T")

#: Shortest time that is not nothing, in seconds.
MIN_SECONDS = 0.01

#: Longest time that any key may hold, in seconds: 30 days.
MAX_SECONDS = 30 * 24 * 3600

#: Highest count that any key may hold.
MAX_COUNT = 1_000_000

_ENDPOINT = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]*:.+")
_ENDPOINT_PORT = re.compile(
    r"(?:haproxy:)?(?:tcp[46]?|ssl):(?:port=)?(?P<port>(?:\\.|[^:=\\])*)(?::|$)"
)
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")
_REGISTRY = re.compile(r"memory:|sqlite:.+")


class BadValue(Exception):
    """A value is not what its key needs.

    :param value: what was found.
    :param expected: what should have been there, to follow the word "expected".
    :param detail: what exactly is wrong, when that is not plain.
    """

    def __init__(self, value: object, expected: str, detail: str = "") -> None:
        super().__init__(expected)
        self.value = value
        self.expected = expected
        self.detail = detail


@attrs.frozen
class Check:
    """Marks a field's type with the function that reads its value.

    :param read: returns our value or raises :class:`BadValue`.
    :param expected: what the key needs, for when it is missing.
    """

    read: Callable[[object], Any]
    expected: str


@attrs.frozen
class _NonEmpty:
    """Marks a list that must not be empty."""


NON_EMPTY = _NonEmpty()

#: A list of at least one.
AtLeastOne = Annotated[tuple[T, ...], NON_EMPTY]


def is_proxy_name(text: str) -> bool:
    """Whether ``text`` can be the ``name`` of a proxy."""
    return _NAME.fullmatch(text) is not None


def text_check(expected: str, read: Callable[[str], T]) -> Check:
    """A check for a string that ``read`` takes, or raises :exc:`InvalidName`."""

    def check(value: object) -> T:
        if not isinstance(value, str) or not value:
            raise BadValue(value, expected)
        if any(unicodedata.category(c) in ("Cc", "Cs") for c in value):
            raise BadValue(value, expected, "it holds control characters")
        try:
            return read(value)
        except InvalidName as error:
            raise BadValue(value, expected, str(error)) from error

    return Check(check, expected)


def _endpoint(text: str) -> str:
    """A reader of server endpoint strings, as far as that goes without a reactor."""
    # Only those who read a config file wait for this import.
    from twisted.internet.endpoints import serverFromString

    port = _ENDPOINT_PORT.match(text)
    if _ENDPOINT.fullmatch(text) is None:
        raise InvalidName("")
    if port and not (port["port"].isdecimal() and int(port["port"]) <= 65535):
        raise InvalidName(f"{port['port']!r} is not a port (0 to 65535)")
    try:
        serverFromString(None, text)
    except (ValueError, TypeError) as error:
        raise InvalidName(str(error)) from None
    except (LookupError, OSError):
        # A socket that nobody passed, a file that is not there: not the text's fault.
        pass
    return text


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    """A reader that takes the strings that match ``pattern`` as a whole."""

    def read(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise InvalidName("")
        return text

    return read


def _registry_url(text: str) -> str:
    if text.startswith("etcd:"):
        raise InvalidName(
            "registries in etcd are not there yet: let all proxies of the cluster run "
            "on one machine, and share a file"
        )
    return _matching(_REGISTRY)(text)


def _number(kinds: tuple[type, ...], low: float, high: float, expected: str) -> Check:
    """A check for a finite number; ``low`` itself is in, ``True`` is no number."""

    def check(value: object) -> Any:
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise BadValue(value, expected)
        if not low <= value <= high:  # type: ignore[operator]
            raise BadValue(value, expected)
        return kinds[0](value)

    return Check(check, expected)


def _host_name(text: str) -> str:
    name = hosts.parse_host(text)
    if not isinstance(name, str):
        raise InvalidName("that is an address")
    return name


def _tunnels(value: object) -> Any:
    if value == "all":
        return value
    try:
        return _count.read(value)
    except BadValue:
        raise BadValue(value, _TUNNELS) from None


_TUNNELS = f'"all" or a whole number from 1 to {MAX_COUNT}'
_count = _number((int,), 1, MAX_COUNT, f"a whole number from 1 to {MAX_COUNT}")
_ADDRESS = 'an address such as "lb.example.com:3023" or "[2001:db8::1]:3023"'


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadValue(value, _FLAG)
    return value


def _network(text: str) -> Network:
    try:
        return parse_network(text)
    except ValueError as error:
        raise InvalidName(str(error)) from error


_FLAG = "true or false"

#: Yes or no.
Flag = Annotated[bool, Check(_flag, _FLAG)]

#: Where connections come from.
SourceNetwork = Annotated[
    Network,
    text_check(
        'an address or network such as "10.0.0.0/8" or "2001:db8::/32"', _network
    ),
]

#: A count, of connections, channels or heartbeats.
Count = Annotated[int, _count]

#: A time span.
Seconds = Annotated[
    float,
    _number(
        (float, int),
        MIN_SECONDS,
        MAX_SECONDS,
        f"a number of seconds from {MIN_SECONDS} to {MAX_SECONDS}",
    ),
]

#: A time span that may be nothing.
SecondsOrZero = Annotated[
    float,
    _number(
        (float, int), 0, MAX_SECONDS, f"a number of seconds from 0 to {MAX_SECONDS}"
    ),
]

#: See docs/architecture.md, "Words".
ClusterName = Annotated[
    str,
    text_check(
        "a cluster name",
        naming.check_cluster,
    ),
]

#: The name of a proxy, for people.
ProxyName = Annotated[
    str,
    text_check(
        "a name: 1 to 253 of letters, digits and '._-', not first or last '.' or '-'",
        _matching(_NAME),
    ),
]

#: A file or directory, not resolved yet.
FilePath = Annotated[Path, text_check("a path", Path)]

#: A Twisted server endpoint string; whether its port, socket or file can be had shows
#: when it is listened on.
Endpoint = Annotated[
    str,
    text_check('a Twisted server endpoint string such as "tcp:3023"', _endpoint),
]

#: An address to dial, SSH as it is or inside TLS.
DialAddress = Annotated[
    addresses.Address,
    text_check(f'{_ADDRESS}, or "tls:host:443"', addresses.Address.parse),
]

#: Where the registry is.
RegistryUrl = Annotated[
    str,
    text_check(
        '"sqlite:PATH", or "memory:" for a proxy that is alone',
        _registry_url,
    ),
]

#: An entry of an allow list.
Target = Annotated[
    targets.TargetPattern,
    text_check('a target pattern such as "host:22"', targets.TargetPattern.parse),
]

#: An entry of ``users`` in a rule.
UserPattern = Annotated[
    str,
    text_check('a principal, "*" for any characters', policy.check_user_pattern),
]

#: An entry of ``clusters`` in a rule.
ClusterPattern = Annotated[
    str,
    text_check('a cluster name, "*" for any characters', policy.check_cluster_pattern),
]

#: An entry of ``times`` in a rule.
RuleTimes = Annotated[
    times.TimesOfWeek,
    text_check(
        'times such as "mon-fri 08:00-18:00" or "sat,sun 22:00-06:00 Europe/Berlin"',
        times.TimesOfWeek.parse,
    ),
]

#: A name in an agent's resolve table, in lower case.
PinnedName = Annotated[str, text_check("a host name", _host_name)]

#: What such a name stands for.
PinnedAddress = Annotated[
    str,
    text_check("an IP address", lambda text: str(hosts.parse_address(text))),
]

#: How many tunnels an agent holds.
Tunnels = Annotated[Literal["all"] | int, Check(_tunnels, _TUNNELS)]
