"""SSH logins as a load: our own client, against any server.

``rate`` logs in ``COUNT`` times, ``--in-flight`` at once, hanging up each time.
``storm`` logs in ``COUNT`` times at once and holds every connection; ``tunnels`` does
the same as agents, opening the control channel and answering heartbeats. Both then
print and hold until standard input ends. What is printed is one line of JSON.

    python -m benchmarks.ssh_load rate 500 --port 2222 --key id --user root
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from rtunnel.control import ControlChannel
from rtunnel.discovery.liveness import Liveness
from rtunnel.discovery.messages import Hello
from rtunnel.errors import OpenRefused
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ClientFactory
from rtunnel.ssh.limits import TransportLimits
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey, PublicKey

reactor: Any = global_reactor

#: Logins before the clock starts: both ends load modules and fill caches.
WARM_UP = 10

#: A slow server is to be measured, not given up.
_LIMITS = TransportLimits(login_grace=120.0)

#: What stays open until the end.
HELD: list[object] = []


class Handler:
    """Wants nothing of the connection."""

    def connection_started(self, connection: Connection) -> None:
        """Nothing to do."""

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """Refuse."""
        raise OpenRefused(1, "a load opens no channels")

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """Refuse."""
        return None

    def connection_lost(self, reason: str) -> None:
        """Nothing to do."""

    def message_received(self, message: object) -> bool:
        """Take any control message."""
        return True

    def peer_dead(self, reason: str) -> None:
        """Nothing to do."""


def trust(algorithm: bytes, blob: bytes) -> PublicKey | Certificate:
    """Believe any host: it is ours."""
    if b"-cert-" in algorithm:
        return Certificate.from_blob(blob)
    return PublicKey.from_blob(blob)


async def log_in(
    options: argparse.Namespace, key: PrivateKey, certificate: Certificate | None
) -> Connection:
    """One whole connection, from TCP to the running service."""
    factory = ClientFactory(
        clock=reactor,
        username=options.user,
        key=key,
        certificate=certificate,
        check_host=trust,
        handler=Handler(),
        limits=_LIMITS,
        algorithms=Algorithms(
            key_exchanges=(options.kex.encode(),),
            ciphers=(b"aes128-gcm@openssh.com",),
        ),
    )
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", options.port, timeout=60)
    protocol: Any = await endpoint.connect(factory)
    connection: Connection = await protocol.ready
    return connection


async def as_agent(options: argparse.Namespace, authority: PrivateKey) -> Connection:
    """One tunnel in service, of an agent of its own."""
    key, instance = PrivateKey.generate(), str(uuid.uuid4())
    certificate = CertificateAuthority(authority, now=time.time).sign_agent(
        key.public, cluster="b", instance=instance, validity=3600
    )
    connection = await log_in(options, key, certificate)
    channel = await connection.open_channel(b"control@rtunnel")
    control = ControlChannel(
        channel,
        reactor,
        Liveness(60.0, 3),
        Handler(),
    )
    await control.send(Hello("bench", instance, (), {}))
    HELD.append(control)
    return connection


async def repeat(
    work: Callable[[], Awaitable[Connection]], count: int, in_flight: int, hold: bool
) -> float:
    """Do ``work`` ``count`` times, ``in_flight`` at once; seconds."""
    gate = DeferredSemaphore(in_flight)

    async def one() -> None:
        connection = await work()
        if hold:
            HELD.append(connection)
        else:
            connection.close("done")

    def begin_one() -> Deferred[None]:
        return Deferred.fromCoroutine(one())

    begun = time.perf_counter()
    await gatherResults([gate.run(begin_one) for _ in range(count)], consumeErrors=True)
    return time.perf_counter() - begun


async def run(options: argparse.Namespace) -> None:
    """What the command line asks for."""
    key = PrivateKey.from_openssh(options.key.read_bytes())
    certificate = None
    if options.certificate is not None:
        certificate, _ = Certificate.from_openssh(options.certificate.read_text())

    def log_in_once() -> Awaitable[Connection]:
        return log_in(options, key, certificate)

    def agent_once() -> Awaitable[Connection]:
        return as_agent(options, key)

    work = agent_once if options.what == "tunnels" else log_in_once
    hold = options.what != "rate"
    if not hold:
        await repeat(work, WARM_UP, options.in_flight, hold)
    seconds = await repeat(work, options.count, options.in_flight, hold)
    print(json.dumps({"seconds": seconds, "count": options.count}), flush=True)
    if hold:
        await deferToThread(sys.stdin.read)


def main() -> None:
    """Run to the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("rate", "storm", "tunnels"))
    parser.add_argument("count", type=int)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", default="bench")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--kex", default="mlkem768x25519-sha256")
    parser.add_argument("--in-flight", type=int, default=8)
    options = parser.parse_args()
    failed: list[Failure] = []

    def begin() -> None:
        running = Deferred.fromCoroutine(run(options))
        running.addErrback(failed.append)
        running.addBoth(lambda result: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    if failed:
        print(failed[0].getErrorMessage(), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
