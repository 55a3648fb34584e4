"""Our own ends and the stock client, for tests that put something in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from rtunnel.errors import OpenRefused
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ClientFactory, ServerFactory
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.limits import TransportLimits
from rtunnel.ssh.transport import ClientTransport
from rtunnel.testing import RecordingHandler, RecordingReceiver
from rtunnel.trust.identity import Identity
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.certificate import Certificate, parse_public_key
from rtunnel.wire.keys import PrivateKey, PublicKey
from tests.interop.peers import require_peer
from tests.interop.processes import LOOPBACK, environment
from tests.interop.sshd import make_key
from tests.ssh.transports import identity

# The module is typed as the module it replaces.
reactor: Any = global_reactor

_WELCOME = "you are logged in"

#: Many at once from one address; whoever waits for what has been taken away does not
#: wait for long.
LIMITS = TransportLimits(
    login_grace=5.0, unauthenticated_per_source=100, unanswered_burst=100
)


class OurServer:
    """Our server, which lets everybody in.

    ``direct-tcpip`` it refuses with a sentence, every other channel it confirms.

    :param sends: what it sends on a channel.
    :ivar receivers: what has come on each.
    """

    def __init__(self, algorithms: Algorithms, sends: bytes = b"") -> None:
        self.receivers: list[RecordingReceiver] = []
        self.sends = sends
        self._factory = ServerFactory(
            clock=reactor,
            host_keys=[HostKey(PrivateKey.generate())],
            identify=lambda algorithm, blob, source: identity(),
            make_handler=self._make_handler,
            limits=LIMITS,
            algorithms=algorithms,
        )

    def _make_handler(self, who: Identity) -> RecordingHandler:
        return RecordingHandler(self._channel_requested)

    async def _channel_requested(self, request: OpenRequest) -> Attach:
        if request.kind == b"direct-tcpip":
            raise OpenRefused(2, _WELCOME)
        return self._attach

    async def listen(self, case: TestCase) -> int:
        """Listen until the test is over; the port."""
        endpoint = TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK)
        port = await endpoint.listen(self._factory)
        case.addCleanup(port.stopListening)
        return cast(int, cast(Any, port.getHost()).port)

    def _attach(self, channel: Channel) -> None:
        receiver = RecordingReceiver()
        self.receivers.append(receiver)
        channel.start(receiver)
        channel.write(self.sends)


def _believe(algorithm: bytes, blob: bytes) -> Certificate | PublicKey:
    return parse_public_key(algorithm, blob)


class OurClient:
    """Our client, which believes every server.

    :param key: file of what it logs in with.
    """

    def __init__(self, username: str, key: Path) -> None:
        self._username = username
        self._key = PrivateKey.from_openssh(key.read_bytes())

    async def connect(
        self, case: TestCase, port: int, algorithms: Algorithms
    ) -> Connection:
        """Log in, until the test is over.

        :raises RtunnelError: when that was not possible.
        """
        factory = ClientFactory(
            clock=reactor,
            username=self._username,
            key=self._key,
            certificate=None,
            check_host=_believe,
            handler=RecordingHandler(),
            limits=LIMITS,
            algorithms=algorithms,
        )
        endpoint = TCP4ClientEndpoint(reactor, LOOPBACK, port)
        transport = cast(ClientTransport, await endpoint.connect(factory))
        lost: Deferred[None] = Deferred()
        ended = transport.connectionLost

        def connection_lost(reason: Any = None) -> None:
            ended(reason)
            lost.callback(None)

        transport.connectionLost = connection_lost  # type: ignore[method-assign]
        case.addCleanup(lambda: lost)
        case.addCleanup(transport.loseConnection)
        return await transport.ready


class StockClient:
    """A stock ``ssh`` with a key of its own that believes every server.

    :param directory: of its files; made.
    """

    def __init__(self, directory: Path) -> None:
        self._ssh = require_peer("ssh")
        directory.mkdir()
        make_key(directory / "id")
        self._directory = directory

    async def logs_in(self, port: int, *options: str) -> bool:
        """Whether it gets as far as asking for a channel, at :class:`OurServer`."""
        words = ["-F", "none", "-p", str(port), "-i", str(self._directory / "id")]
        for option in (
            *("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no"),
            *("UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null"),
            *("ConnectTimeout=10", *options),
        ):
            words += ["-o", option]
        _, errors, code = await getProcessOutputAndValue(
            self._ssh, [*words, "-W", "nowhere:1", LOOPBACK], env=environment()
        )
        assert code == 255, errors
        return _WELCOME.encode() in errors
