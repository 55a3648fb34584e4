"""The two ends of a reverse tunnel in asyncssh, each a process.

python -m benchmarks.systems.asyncssh_ends server PORT HOST_KEY AUTHORIZED_KEYS
python -m benchmarks.systems.asyncssh_ends agent PORT KEY LISTEN_PORT TARGET_PORT
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

import asyncssh

try:
    run: Any = importlib.import_module("uvloop").run
except ImportError:
    run = asyncio.run

_OPTIONS: dict[str, Any] = {
    "encryption_algs": ["aes128-gcm@openssh.com"],
    "compression_algs": None,
}


class _Server(asyncssh.SSHServer):
    def connection_requested(self, *arguments: object) -> bool:
        return True

    def server_requested(self, *arguments: object) -> bool:
        return True


async def serve(port: str, host_key: str, authorized_keys: str) -> None:
    """Be the proxy."""
    await asyncssh.create_server(
        _Server,
        "127.0.0.1",
        int(port),
        server_host_keys=[host_key],
        authorized_client_keys=authorized_keys,
        backlog=4096,
        login_timeout=120,
        **_OPTIONS,
    )
    await asyncio.Event().wait()


async def agent(port: str, key: str, listen_port: str, target_port: str) -> None:
    """Dial the proxy and forward one of its ports to the target."""
    connection = await asyncssh.connect(
        "127.0.0.1",
        int(port),
        username="bench",
        client_keys=[key],
        known_hosts=None,
        config=None,
        **_OPTIONS,
    )
    await connection.forward_remote_port(
        "127.0.0.1", int(listen_port), "127.0.0.1", int(target_port)
    )
    await connection.wait_closed()


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    run(serve(*rest) if what == "server" else agent(*rest))
