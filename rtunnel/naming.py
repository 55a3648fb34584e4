"""Names at the door: clusters, targets, and text from peers made safe to print.

Pure. The last label of what a client asks for is the cluster, the rest is the host as
that cluster's agent resolves it: docs/protocol.md, "What clients may do".
"""

from __future__ import annotations

import re

import attrs

from rtunnel.errors import InvalidName

#: Bytes in a host name that a client may ask for (RFC 1035 section 2.3.4).
MAX_HOST_LENGTH = 255

#: Characters of a peer's text that reach a log or audit line.
MAX_PRINTED = 256

_CLUSTER = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9_:]([A-Za-z0-9._:-]*[A-Za-z0-9_:])?")


@attrs.frozen
class Target:
    """What a client wants to reach: ``host:port`` inside a cluster.

    ``host`` is empty when the client named the cluster alone, which means the host
    that the agent itself runs on.
    """

    host: str
    cluster: str
    port: int

    def __str__(self) -> str:
        name = f"{self.host}.{self.cluster}" if self.host else self.cluster
        return f"{name}:{self.port}"


def check_cluster(name: str) -> str:
    """Return ``name`` if it is a cluster name.

    :raises InvalidName: when it is not; the sentence says what is allowed.
    """
    if _CLUSTER.fullmatch(name) is None:
        raise InvalidName(
            f"{printable(name)!r} is not a cluster name: 1 to 63 of a-z, 0-9 and '-', "
            "not first or last '-', and no dots"
        )
    return name


def check_user(name: str) -> str:
    """Return ``name`` if it can be a person's name (key id, principal, comment).

    '%' never can: ssh expands it.

    :raises InvalidName: when it is not well-formed.
    """
    if _USER.fullmatch(name) is None:
        raise InvalidName(
            f"{printable(name)!r} is not a user name: 1 to 128 of letters, digits and "
            "'._@+-', starting with a letter, digit or '_'"
        )
    return name


def parse_target(name: str, port: int) -> Target:
    """Split ``host.cluster`` into a target.

    :param name: as the client's ssh sent it, one trailing dot allowed.
    :param port: TCP port, 1 to 65535.
    :raises InvalidName: when the name or the port cannot be a target; the sentence is
        fit to be shown to the client.
    """
    if len(name) > MAX_HOST_LENGTH:
        raise InvalidName(
            f"the host name is {len(name)} characters long; "
            f"{MAX_HOST_LENGTH} is the limit"
        )
    if not 1 <= port <= 65535:
        raise InvalidName(f"{port} is not a TCP port (1 to 65535)")
    bare = name[:-1] if name.endswith(".") else name
    host, dot, cluster = bare.rpartition(".")
    cluster = cluster.lower()
    if _CLUSTER.fullmatch(cluster) is None or (
        dot and (_HOST.fullmatch(host) is None or ".." in host)
    ):
        raise InvalidName(
            f"{printable(name)!r} is not a target: ask for HOST.CLUSTER or CLUSTER"
        )
    return Target(host, cluster, port)


def printable(text: str | bytes, limit: int = MAX_PRINTED) -> str:
    """Text from a peer, safe for one line of a log: escaped, and cut.

    :param text: anything; bytes are read as UTF-8, wrong ones shown as ``\\xNN``.
    :param limit: characters kept; what is cut is shown as "...".
    """
    if isinstance(text, str):
        if len(text) <= limit and text.isprintable():
            return text
    else:
        text = text[: limit * 4].decode("utf-8", "backslashreplace")
    cut = text[:limit] + ("..." if len(text) > limit else "")
    if cut.isprintable():
        return cut
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
        for c in cut
    )
