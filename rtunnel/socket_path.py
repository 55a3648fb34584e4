"""Paths of Unix sockets that may be longer than the system takes. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rtunnel.errors import RtunnelError

#: Bytes in the path of a Unix socket: 108 with the final zero in unix(7), 104 on BSDs.
MAX_SOCKET_PATH = 103


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A path to bind or connect a Unix socket by, while the context lasts.

    It is ``path`` itself when that is short enough, else another name of it.

    :raises RtunnelError: when it is too long and there is no other name.
    :raises OSError: when its directory cannot be opened.
    """
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        yield str(path)
        return
    if not os.path.isdir("/proc/self/fd"):
        raise RtunnelError(
            f"{path}: the path of a socket has at most {MAX_SOCKET_PATH} bytes; use a "
            "state directory with a shorter name"
        )
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
