"""The JSON API of ``DIR/admin.sock``: how the ``rtunnel`` command speaks to a proxy.

Whoever may open the socket is the proxy's administrator; it is made for its owner only.

``GET /v1/status`` answers with the status document (docs/operations.md).
``POST /v1/drain`` begins to drain and answers 202 at once. The paths of other verbs are
in modules of their own beside this one.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure

from rtunnel.errors import RtunnelError
from rtunnel.socket_path import reachable
from rtunnel.web.server import Response, Routes, make_site


def admin_routes(
    status: Callable[[], Mapping[str, object]],
    drain: Callable[[], object],
    more: Routes = MappingProxyType({}),
) -> Routes:
    """The paths of the API.

    :param status: makes the status document.
    :param drain: begins to drain; called again for every request.
    :param more: further paths.
    """

    def get_status() -> Response:
        return Response(200, status())

    def post_drain() -> Response:
        drain()
        return Response(202, {"state": "draining"})

    return {
        "/v1/status": {"GET": get_status},
        "/v1/drain": {"POST": post_drain},
        **more,
    }


def listen_admin(
    reactor: Any,
    path: Path,
    *,
    status: Callable[[], Mapping[str, object]],
    drain: Callable[[], object],
    more: Routes = MappingProxyType({}),
) -> IListeningPort:
    """Serve the API on a Unix socket that only its owner can open.

    A socket that a dead process left is replaced.

    :param more: paths beside those of status and drain.
    :raises RtunnelError: when a process answers there already, or the socket cannot be
        made.
    """
    factory = make_site(admin_routes(status, drain, more), reactor)
    resources = ExitStack()
    try:
        with _only_one_at_a_time(path.parent), _new_files_private():
            name = resources.enter_context(reachable(path))
            _remove_stale(path, name)
            port = _AdminPort(name, factory, resources, reactor)
            port.startListening()
    except CannotListenError as error:
        resources.close()
        reason = getattr(error.socketError, "strerror", error.socketError)
        raise RtunnelError(f"{path}: cannot make the admin socket: {reason}") from error
    except OSError as error:
        resources.close()
        raise RtunnelError(
            f"{path}: cannot make the admin socket: {error.strerror or error}"
        ) from error
    except BaseException:
        resources.close()
        raise
    return port


class _AdminPort(unix.Port):
    """Removes its socket when it ends, unless that is another one by now.

    :param resources: what the name of the socket depends on.
    """

    def __init__(
        self, name: str, factory: Any, resources: ExitStack, reactor: Any
    ) -> None:
        super().__init__(os.fsencode(name), factory, mode=0o600, reactor=reactor)
        self._name = name
        self._resources = resources
        self._identity: tuple[int, int] | None = None

    def startListening(self) -> None:
        super().startListening()
        self._identity = _identity(self._name)

    def connectionLost(self, reason: Failure) -> None:
        with self._resources:
            if self._identity == _identity(self._name):
                super().connectionLost(reason)
            else:
                tcp.Port.connectionLost(self, reason)


def _identity(name: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(name)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _remove_stale(path: Path, name: str) -> None:
    try:
        status = os.lstat(name)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise RtunnelError(f"{path}: this is no socket; move it away")
    with socket.socket(socket.AF_UNIX) as probe:
        # A process with a full backlog is alive and must not make us wait.
        probe.setblocking(False)
        try:
            probe.connect(name)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except BlockingIOError:
            raise _in_use(path) from None
        else:
            raise _in_use(path)
    with suppress(FileNotFoundError):
        os.unlink(name)


def _in_use(path: Path) -> RtunnelError:
    return RtunnelError(f"{path}: a proxy is running in this state directory already")


@contextmanager
def _only_one_at_a_time(directory: Path) -> Iterator[None]:
    """Two that start at once must not both find the same stale socket."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise RtunnelError(
            f"{directory}: another proxy is starting in this state directory"
        ) from None
    finally:
        os.close(descriptor)


@contextmanager
def _new_files_private() -> Iterator[None]:
    """The socket is private from the first moment, not only after a chmod."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
