"""Addresses that agents, clients and proxies dial: ``host:port`` as a value."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

import attrs

from rtunnel.errors import InvalidName
from rtunnel.naming import printable
from rtunnel.trust.hosts import parse_address, parse_host

#: Where proxies listen for agents and clients unless told otherwise.
DEFAULT_PORT = 3023

#: Where SSH inside TLS is expected unless told otherwise.
DEFAULT_TLS_PORT = 443

_ADDRESS = re.compile(r"(?P<host>\[[^\]]*\]|[^\[\]:]*)(:(?P<port>[0-9]{1,5}))?")


@attrs.frozen
class Address:
    """Where to connect to. ``str()`` gives the text that :meth:`parse` reads.

    :param host: DNS name in lower case, or IP address, IPv6 without brackets.
    :param port: TCP port, 1 to 65535.
    :param tls: SSH inside TLS.
    """

    host: str
    port: int = DEFAULT_PORT
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host``, ``host:port``, ``[v6]``, ``[v6]:port`` or ``tls:`` and one
        of these.

        :param text: without a port it is 3023, after ``tls:`` 443.
        :raises InvalidName: when it is none of these; the sentence says why.
        """
        tls = text.startswith("tls:")
        found = _ADDRESS.fullmatch(text.removeprefix("tls:"))
        if found is None or not found["host"]:
            hint = "; IPv6 needs brackets" if text.count(":") > 1 else ""
            raise InvalidName(f"{printable(text)!r} is not host:port{hint}")
        host = found["host"]
        in_brackets = host.startswith("[")
        parsed = parse_address(host[1:-1]) if in_brackets else parse_host(host)
        if in_brackets and not isinstance(parsed, IPv6Address):
            raise InvalidName(f"{printable(text)!r}: brackets are for IPv6 only")
        default = DEFAULT_TLS_PORT if tls else DEFAULT_PORT
        port = default if found["port"] is None else int(found["port"])
        if not 1 <= port <= 65535:
            raise InvalidName(f"{printable(text)!r}: {port} is not a port (1 to 65535)")
        return cls(str(parsed), port, tls)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls:' if self.tls else ''}{host}:{self.port}"
