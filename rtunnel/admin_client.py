"""What the ``rtunnel`` command asks of a running proxy, over its admin socket.

Blocking, on the standard library alone: a command that asks one question starts no
reactor. See :mod:`rtunnel.web.admin` for the other end.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from rtunnel.errors import RtunnelError
from rtunnel.socket_path import reachable

#: Where the authorities are; see :mod:`rtunnel.web.rotation`.
AUTHORITIES_PATH = "/v1/ca"

#: Seconds that the proxy may take to answer.
TIMEOUT = 10.0

#: Bytes in an answer; some hundred thousand tunnels.
MAX_ANSWER = 64 * 1024 * 1024


def get_status(path: Path) -> dict[str, Any]:
    """The status document of the proxy that serves the admin socket ``path``.

    :raises RtunnelError: when no proxy answers there, or it refuses.
    """
    return ask(path, "GET", "/v1/status")


def post_drain(path: Path) -> None:
    """Let the proxy that serves the admin socket ``path`` begin to drain.

    :raises RtunnelError: when no proxy answers there, or it refuses.
    """
    ask(path, "POST", "/v1/drain")


class ProxyNotRunning(RtunnelError):
    """No proxy serves the admin socket."""


def ask(
    path: Path, method: str, target: str, body: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Ask the proxy that serves the admin socket ``path`` anything.

    :param target: of the request, as ``/v1/tokens``.
    :param body: sent as JSON.
    :raises ProxyNotRunning: when no proxy answers there.
    :raises RtunnelError: when it refuses, with its sentence.
    """
    connection = _Connection(path)
    try:
        connection.request(method, target, None if body is None else json.dumps(body))
        response = connection.getresponse()
        answer = response.read(MAX_ANSWER + 1)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise ProxyNotRunning(
            f"is the proxy running? no admin socket at {path}"
            + (" answers" if isinstance(error, ConnectionRefusedError) else "")
            + "; start it, or name its directory with --state"
        ) from error
    except PermissionError as error:
        raise RtunnelError(
            f"{path}: not allowed to open the admin socket; run this as the user that "
            "runs the proxy"
        ) from error
    except TimeoutError as error:
        raise RtunnelError(
            f"{path}: the proxy does not answer within {TIMEOUT:g} seconds"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise RtunnelError(f"{path}: the proxy hung up: {error!r}") from error
    finally:
        connection.close()
    return _answer(path, response.status, answer)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        with reachable(self._path) as name:
            self.sock.connect(name)


def _answer(path: Path, status: int, body: bytes) -> dict[str, Any]:
    try:
        if len(body) > MAX_ANSWER:
            raise ValueError("too long")
        answer = json.loads(body)
    except ValueError as error:
        raise RtunnelError(f"{path}: the answer is not what a proxy says") from error
    if not isinstance(answer, dict):
        raise RtunnelError(f"{path}: the answer is not what a proxy says")
    if status >= 400:
        raise RtunnelError(f"the proxy refuses: {answer.get('error', status)}")
    return cast(dict[str, Any], answer)
