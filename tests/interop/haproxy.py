"""A real HAProxy in TCP mode, which checks the health of the proxies behind it."""

from __future__ import annotations

import csv
import socket
from collections.abc import Sequence
from pathlib import Path

import attrs

from tests.interop.peers import require_peer
from tests.interop.processes import Process, wait_until

_CONFIG = """\
global
    stats socket {directory}/haproxy.sock mode 600 level admin
defaults
    mode tcp
    retries 2
    option redispatch 1
    timeout connect 2s
    timeout check 2s
    timeout client 1h
    timeout server 1h
frontend lb
    bind {address}:{port}
    default_backend proxies
backend proxies
    balance {balance}
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter 250ms fall 2 rise 1
"""


@attrs.frozen
class Server:
    """One proxy as the balancer sees it.

    :param port: where clients and agents are sent.
    :param web_port: where ``/readyz`` is.
    :param enabled: whether it is in rotation from the start.
    """

    name: str
    port: int
    web_port: int
    enabled: bool = True


class HAProxy:
    """HAProxy on one port.

    :param directory: where its files go; made if need be.
    :param balance: ``roundrobin``, ``random``, ``source`` …
    :param servers: every server there will ever be; those that are not enabled come
        into rotation by :meth:`add`.
    :param port: where it listens.
    :param address: where it listens, and where the servers do.
    :param send_proxy: ``send-proxy`` or ``send-proxy-v2``, to say whom connections are
        from; "" for nothing.
    """

    def __init__(
        self,
        directory: Path,
        balance: str,
        servers: Sequence[Server],
        *,
        port: int,
        address: str,
        send_proxy: str = "",
    ) -> None:
        directory.mkdir(exist_ok=True)
        self._socket = directory / "haproxy.sock"
        config = directory / "haproxy.cfg"
        config.write_text(
            _CONFIG.format(
                directory=directory, address=address, port=port, balance=balance
            )
            + "".join(
                f"    server {server.name} {address}:{server.port} "
                f"port {server.web_port} {send_proxy}"
                f"{'' if server.enabled else ' disabled'}\n"
                for server in servers
            )
        )
        self.process = Process(
            "haproxy", [require_peer("haproxy"), "-db", "-f", config], directory
        )
        wait_until(self._socket.exists, 10, lambda: self.process.tail())

    def add(self, name: str) -> None:
        """Put a server into rotation."""
        self._command(f"set server proxies/{name} state ready")

    def remove(self, name: str) -> None:
        """Take a server out of rotation and cut what goes through it."""
        self._command(f"set server proxies/{name} state maint")
        self._command(f"shutdown sessions server proxies/{name}")

    def up(self) -> set[str]:
        """Return the names of the servers that new connections may go to."""
        table = self._command("show stat proxies 4 -1").lstrip("# ")
        return {
            row["svname"]
            for row in csv.DictReader(table.splitlines())
            if row["status"].startswith(("UP", "no check"))
            # A server counts as up before its first check.
            and row["check_status"] not in ("", "INI")
        }

    def wait_up(self, names: set[str], seconds: float = 10) -> None:
        """Wait until exactly these servers are in rotation and healthy."""
        wait_until(
            lambda: self.up() == names,
            seconds,
            lambda: f"{names} up behind HAProxy, which has {self.up()}",
        )

    def sessions(self, name: str) -> int:
        """Return how many connections were ever sent to a server."""
        table = self._command("show stat proxies 4 -1").lstrip("# ")
        for row in csv.DictReader(table.splitlines()):
            if row["svname"] == name:
                return int(row["stot"])
        raise AssertionError(f"HAProxy knows no {name}")

    def _command(self, text: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self._socket))
            connection.sendall(text.encode() + b"\n")
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts).decode()
