"""A hundred streams that must not notice what goes on beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from rtunnel.ssh.connection import Connection
from rtunnel.ssh.factory import ClientFactory
from rtunnel.ssh.transport import ClientTransport
from rtunnel.testing import RecordingHandler
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey
from tests.interop.deployment import USER, Layout
from tests.interop.processes import LOOPBACK
from tests.interop.sharing import shared
from tests.interop.witnesses import Witnesses

# The module is typed as the module it replaces.
reactor: Any = global_reactor

#: Streams that must not notice anything.
STREAMS = 100
#: Seconds that anything here may take.
PATIENCE = 30.0


class WitnessCase(TestCase):
    """Streams that are watched while something else goes wrong."""

    timeout = 120

    def last_words(self) -> str:
        """What to show when something takes too long."""
        return ""

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait while the streams go on."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), deadline, self.last_words())
            await deferLater(reactor, 0.01)

    async def assert_go_on(self, streams: Witnesses) -> None:
        """Each of them gets on."""
        before = streams.rounds()

        def got_on() -> bool:
            streams.raise_if_any_ended()
            return all(
                now > then for now, then in zip(streams.rounds(), before, strict=True)
            )

        await self.until(got_on)


class IsolationCase(WitnessCase):
    """A deployment, and a client with a hundred streams through its agent."""

    async def setUp(self) -> None:  # type: ignore[override]
        """Log in and open the streams."""
        self.deployment = shared(Layout(proxies=1))
        (self.proxy,) = self.deployment.proxies
        person = self.deployment.directory / USER
        self.key = PrivateKey.from_openssh((person / "id").read_bytes())
        line = (person / "id-cert.pub").read_text()
        self.certificate, _ = Certificate.from_openssh(line)
        self.logged = len(self.proxy.process.output())
        self.echo = self.deployment.target("echo")
        self.connection = await self.log_in()
        self.streams = await Witnesses.open(
            self.connection, "web1.b", self.echo, STREAMS
        )

    async def log_in(self) -> Connection:
        """A connection of our own client."""
        factory = ClientFactory(
            clock=reactor,
            username="alice",
            key=self.key,
            certificate=self.certificate,
            check_host=lambda algorithm, blob: Certificate.from_blob(blob),
            handler=RecordingHandler(),
        )
        endpoint = TCP4ClientEndpoint(reactor, LOOPBACK, self.proxy.port)
        transport = cast(ClientTransport, await endpoint.connect(factory))
        connection = await transport.ready
        self.addCleanup(self.hang_up, connection)
        return connection

    async def hang_up(self, connection: Connection) -> None:
        """Wait for the end of a connection, too."""
        transport = cast(Any, connection.transport)
        connection.close()
        await self.until(lambda: transport._lost)

    def assert_quiet_log(self) -> None:
        """No traceback, and the proxy is there."""
        self.assertTrue(self.proxy.process.is_alive)
        said = self.proxy.process.output()[self.logged :]
        self.assertNotIn("Traceback", said)
        self.assertNotIn("Unhandled", said)
