"""Where a proxy can be dialled: ``host:port``, ``[IPv6]:port`` or ``tls:host:port``.

The same form in an agent's config file, in a proxy's ``public`` and ``advertise``, and
in discovery requests. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import attrs

from rtunnel.errors import InvalidName
from rtunnel.naming import MAX_HOST_LENGTH, printable

_TLS: Final = "tls:"
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")


@attrs.frozen
class Address:
    """One way to a proxy, or to a balancer in front of several.

    :param host: name or IP address, without brackets.
    :param port: TCP port, 1 to 65535.
    :param tls: SSH is spoken inside TLS, for networks that let nothing else out.
    """

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_TLS if self.tls else ''}{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read an address.

    :raises InvalidName: when it is none; the sentence says what an address looks like.
    """
    rest = text.removeprefix(_TLS)
    host, colon, port = rest.rpartition(":")
    if colon and port.isascii() and port.isdecimal() and len(port) <= 5:
        number = int(port)
        if 1 <= number <= 65535 and _is_host(host):
            return Address(host.strip("[]"), number, tls=rest != text)
    raise InvalidName(
        f"{printable(text, 80)!r} is not an address: HOST:PORT, [IPV6]:PORT or "
        "tls:HOST:PORT"
    )


def _is_host(host: str) -> bool:
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
        # A zone ("%eth0") means something on one machine only.
        return "%" not in host
    return len(host) <= MAX_HOST_LENGTH and _HOST.fullmatch(host) is not None
