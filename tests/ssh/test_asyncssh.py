"""Our two ends against asyncssh, which also has the hybrid key exchange."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from rtunnel.ssh.factory import ClientFactory, ServerFactory
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.transport import ClientTransport
from rtunnel.testing import RecordingHandler
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, Algorithms
from tests.interop.peers import require_module
from tests.interop.processes import LOOPBACK, environment
from tests.ssh.transports import HOST_KEY, USER_KEY, believe, identity

# The module is typed as the module it replaces.
reactor: Any = global_reactor

_CLIENT = """\
import asyncio, asyncssh, sys
key, port, *names = sys.argv[1:]
async def main():
    for name in names:
        async with asyncssh.connect(
            "127.0.0.1", int(port), username="alice", client_keys=[key],
            known_hosts=None, config=None, kex_algs=[name],
        ):
            print(name)
asyncio.run(main())
"""

_SERVER = """\
import asyncio, asyncssh, sys
names = sys.argv[1:]
class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return True
    def public_key_auth_supported(self):
        return True
    def validate_public_key(self, username, key):
        return True
async def main():
    server = await asyncssh.create_server(
        Server, "127.0.0.1", 0, kex_algs=names,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""


class _Server(ProcessProtocol):
    """Waits for the port that the server prints."""

    def __init__(self) -> None:
        self.port: Deferred[int] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.output = b""
        self.errors = b""

    def outReceived(self, data: bytes) -> None:
        """The port, and the end of its line, which may come apart."""
        self.output += data
        if self.output.endswith(b"\n") and not self.port.called:
            self.port.callback(int(self.output))

    def errReceived(self, data: bytes) -> None:
        """For the failure, if there is one."""
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        """Tell."""
        if not self.port.called:
            self.port.errback(AssertionError(self.errors))
        self.ended.callback(None)


class AsyncSSHTests(TestCase):
    """Every key exchange, the hybrid one above all, with somebody else's code."""

    timeout = 60
    names = tuple(name.decode() for name in DEFAULT_ALGORITHMS.key_exchanges)

    def setUp(self) -> None:
        """It is not here where only the program is installed."""
        require_module("asyncssh")

    async def test_its_client_at_our_server(self) -> None:
        """Logs in with each."""
        factory = ServerFactory(
            clock=reactor,
            host_keys=[HostKey(HOST_KEY)],
            identify=lambda algorithm, blob, source: identity(),
            make_handler=lambda who: RecordingHandler(),
        )
        endpoint = TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK)
        port = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        key = Path(self.mktemp())
        key.write_bytes(USER_KEY.to_openssh())
        key.chmod(0o600)
        number = cast(Any, port.getHost()).port
        out, err, code = await getProcessOutputAndValue(
            sys.executable,
            ["-c", _CLIENT, str(key), str(number), *self.names],
            env=environment(),
        )
        self.assertEqual((out.decode().split(), code), (list(self.names), 0), err)

    async def test_our_client_at_its_server(self) -> None:
        """Logs in with each."""
        server = _Server()
        process = reactor.spawnProcess(
            server,
            sys.executable,
            [sys.executable, "-c", _SERVER, *self.names],
            env=environment(),
        )

        def stop() -> Deferred[None]:
            if process.pid is not None:
                process.signalProcess("KILL")
            return server.ended

        self.addCleanup(stop)
        port = await server.port
        for name in DEFAULT_ALGORITHMS.key_exchanges:
            factory = ClientFactory(
                clock=reactor,
                username="alice",
                key=USER_KEY,
                certificate=None,
                check_host=believe,
                handler=RecordingHandler(),
                algorithms=Algorithms(key_exchanges=(name,)),
            )
            endpoint = TCP4ClientEndpoint(reactor, LOOPBACK, port)
            transport = cast(ClientTransport, await endpoint.connect(factory))
            connection = await transport.ready
            connection.close()
