"""The ``proxy:`` subsystem's request: ``ssh -s HOST proxy:host:port@cluster``.

Pure. The habit comes from Teleport; ``ssh -W`` and ``-J`` do the same with less typing.
"""

from __future__ import annotations

import re

from rtunnel.errors import InvalidName
from rtunnel.naming import Target, check_cluster, parse_target, printable

_REQUEST = re.compile(
    r"proxy:(?P<host>\[[^\]]*\]|[^:@\[\]]*)(:(?P<port>[0-9]{1,5}))?(@(?P<cluster>.+))?",
    re.DOTALL,
)

#: TCP port meant when the request names none, or 0: that of SSH (RFC 4250).
DEFAULT_PORT = 22


def parse_subsystem(name: bytes) -> Target:
    """Read a subsystem name as a target.

    Without ``@cluster`` the last label of the host is the cluster, as everywhere else;
    with it and no host, the agent's own host is meant.

    :raises InvalidName: when it is not such a request; fit to be shown to the client.
    """
    try:
        text = name.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    match = _REQUEST.fullmatch(text)
    if match is None:
        raise InvalidName(
            f"{printable(name)!r} is not a subsystem of this proxy: "
            "ask for proxy:HOST:PORT@CLUSTER"
        )
    host = match["host"].strip("[]")
    port = int(match["port"] or 0) or DEFAULT_PORT
    cluster = match["cluster"]
    if cluster is None:
        return parse_target(host, port)
    check_cluster(cluster)
    return parse_target(f"{host}.{cluster}" if host else cluster, port)
