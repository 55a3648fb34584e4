"""An agent that says what it is told to, as a program.

``rogue_agent.py HOST PORT STATE SCRIPT``: logs in with the agent certificate in STATE,
opens ``control@rtunnel`` and sends the channel requests in the file SCRIPT, a JSON list
of pairs of name and payload. It prints what becomes of each, one line each, and ends
when the proxy hangs up or one second after the last answer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater, react

from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    ConnectionClosed,
    OpenRefused,
    RequestFailed,
)
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ClientFactory
from rtunnel.ssh.transport import ClientTransport
from rtunnel.state_directory import load_agent_credentials
from rtunnel.wire.certificate import Certificate


class Rogue:
    """The connection's owner, and the channel's receiver: it only tells."""

    def connection_started(self, connection: Connection) -> None:
        """See ConnectionHandler."""

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """See ConnectionHandler."""
        raise OpenRefused(OPEN_ADMINISTRATIVELY_PROHIBITED, "this is no agent")

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """See ConnectionHandler."""
        return None

    def connection_lost(self, reason: str) -> None:
        """See ConnectionHandler."""
        print(f"connection lost: {reason}", flush=True)

    def data_received(self, data: bytes) -> None:
        """See StreamReceiver."""

    def eof_received(self) -> None:
        """See StreamReceiver."""

    def closed(self, reason: str | None) -> None:
        """See StreamReceiver."""


async def misbehave(
    clock: IReactorTime, host: str, port: int, state: Path, requests: list[list[str]]
) -> None:
    """Log in, send everything, print what happens."""
    rogue = Rogue()
    agent = load_agent_credentials(state, "b", time.time())
    factory = ClientFactory(
        clock=clock,
        username="agent",
        key=agent.key,
        certificate=agent.certificate,
        check_host=lambda algorithm, blob: Certificate.from_blob(blob),
        handler=rogue,
    )
    endpoint = HostnameEndpoint(global_reactor, host, port)
    transport = cast(ClientTransport, await endpoint.connect(factory))
    connection = await transport.ready
    channel = await connection.open_channel(b"control@rtunnel")
    channel.start(rogue)
    for name, payload in requests:
        try:
            await channel.send_request(name.encode(), payload.encode())
        except (RequestFailed, ConnectionClosed) as error:
            print(f"{name}: {type(error).__name__}", flush=True)
        else:
            print(f"{name}: taken", flush=True)
    await deferLater(clock, 1)


def main() -> None:
    """Run it with the arguments of the command line."""
    host, port, state, script = sys.argv[1:]
    requests = json.loads(Path(script).read_text())

    def start(reactor: IReactorTime) -> Deferred[None]:
        return Deferred.fromCoroutine(
            misbehave(reactor, host, int(port), Path(state), requests)
        )

    react(start)


if __name__ == "__main__":
    main()
