"""What every system that is compared offers to the measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from benchmarks.place import Place


@attrs.frozen
class Way:
    """One way to the target.

    :param port: of 127.0.0.1, where the load connects.
    :param processes: what is paid for it: the part's name and its process.
    """

    port: int
    processes: Mapping[str, int]


@attrs.frozen
class Login:
    """How to log in at a system's proxy with our own client.

    :param kex: the best key exchange that the system has.
    """

    port: int
    user: str
    key: Path
    certificate: Path | None
    kex: str


class System(Protocol):
    """A proxy, an agent that has dialled it, and a client, all running.

    :ivar name: for tables.
    :ivar ways: by shape. ``tunnel``: a port at the proxy leads through the agent's
        connection, as with ``ssh -R``. ``relay``: a stock ``ssh -L`` to the proxy, and
        on through the tunnel. ``jump``: ``ssh -J`` through both to an sshd beside the
        target, and ``-L`` in there. A system has not all of them.
    :ivar login: at the proxy.
    :ivar proxy: the process that ``login`` leads to.
    :ivar jump_command: ``ssh -J`` that logs in, runs ``true`` and ends; None if there
        is none.
    """

    name: str
    ways: Mapping[str, Way]
    login: Login
    proxy: int
    jump_command: Sequence[str] | None

    def __init__(self, place: Place) -> None:
        """Start everything."""
