"""Keys are renewed again and again, under load, and nothing is lost or stands still.

``make soak`` moves 200 MB each way, and keeps the figures.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IConsumer, IProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ClientFactory, ServerFactory
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.ssh.transport import ClientTransport, ServerTransport
from rtunnel.testing import RecordingHandler, RecordingReceiver
from rtunnel.trust.identity import Identity
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, Algorithms
from rtunnel.wire.data_types import string
from tests.interop import soak
from tests.interop.peers import require_peer
from tests.interop.processes import LOOPBACK, environment
from tests.interop.sshd import Sshd
from tests.ssh.listening import listen
from tests.ssh.test_openssh import write_key
from tests.ssh.transports import HOST_KEY, USER_KEY, believe, identity

# The module is typed as the module it replaces.
reactor: Any = global_reactor

MIB = 1024 * 1024

#: Bytes each way, and how often keys have to be renewed for them.
SIZE = 200_000_000 if soak.IS_SOAK else 24_000_000
REKEYS = 50 if soak.IS_SOAK else 12

#: Seconds without any data that are too long. A busy machine has more than one reason.
STALL = 0.5 if soak.IS_SOAK else 5.0

#: Both ends renew keys after each MiB.
LIMITS = TransportLimits(rekey_bytes=MIB)

#: The packet ciphers that have code of their own.
PROTECTIONS = {
    "gcm": Algorithms(ciphers=(b"aes128-gcm@openssh.com",)),
    "ctr and etm": Algorithms(
        ciphers=(b"aes128-ctr",), macs=(b"hmac-sha2-256-etm@openssh.com",)
    ),
    "chacha20": Algorithms(ciphers=(b"chacha20-poly1305@openssh.com",)),
}


class Timed(RecordingReceiver):
    """Keeps an eye on the time.

    :ivar longest: seconds, the longest time between two pieces of data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0.0
        self._last: float | None = None

    def data_received(self, data: bytes) -> None:
        """See StreamReceiver."""
        now = reactor.seconds()
        if self._last is not None:
            self.longest = max(self.longest, now - self._last)
        self._last = now


class Echo(Timed):
    """Sends everything back, no faster than it is taken."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel
        channel.registerProducer(cast(IProducer, channel), True)
        channel.start(self)

    def data_received(self, data: bytes) -> None:
        """See StreamReceiver."""
        super().data_received(data)
        self.channel.write(data)

    def eof_received(self) -> None:
        """See StreamReceiver."""
        self.channel.close()


class Collector(Timed):
    """Counts and hashes what comes.

    :ivar over: fires when the channel has closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hash = hashlib.sha256()
        self.size = 0
        self.over: Deferred[None] = Deferred()

    def data_received(self, data: bytes) -> None:
        """See StreamReceiver."""
        super().data_received(data)
        self.hash.update(data)
        self.size += len(data)

    def closed(self, reason: str | None) -> None:
        """See StreamReceiver."""
        self.over.callback(None)


class Source:
    """Writes a block to a channel, over and over, as fast as it is taken.

    :param count: how often.
    """

    def __init__(self, channel: Channel, block: bytes, count: int) -> None:
        self._channel = channel
        self._block = block
        self._left = count
        self._paused = False
        self._writing = False
        cast(IConsumer, channel).registerProducer(cast(IProducer, self), True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        """See IPushProducer."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See IPushProducer."""
        self._paused = False
        if self._writing:
            return
        self._writing = True
        while self._left and not self._paused:
            self._left -= 1
            self._channel.write(self._block)
        self._writing = False
        if not self._left:
            self._channel.write_eof()

    def stopProducing(self) -> None:
        """See IPushProducer."""
        self._left = 0


class _Ended(ProcessProtocol):
    """Tells how a process ended."""

    def __init__(self) -> None:
        self.code: Deferred[int | None] = Deferred()

    def processEnded(self, reason: Failure) -> None:
        self.code.callback(cast(Any, reason.value).exitCode)


class RekeyingTestCase(TestCase):
    """A server of ours, and what goes to it and comes back."""

    timeout = 600 if soak.IS_SOAK else 120

    def setUp(self) -> None:
        """A directory, and a block of data that is no multiple of anything."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.servers: list[ServerTransport] = []
        self.echoes: list[Echo] = []
        self.block = os.urandom(100_003)
        self.count = SIZE // len(self.block)
        whole = hashlib.sha256()
        for _ in range(self.count):
            whole.update(self.block)
        self.expected = (len(self.block) * self.count, whole.hexdigest())

    async def listen(
        self,
        limits: TransportLimits = LIMITS,
        algorithms: Algorithms = DEFAULT_ALGORITHMS,
    ) -> int:
        """Listen, and echo on every channel; the port."""

        async def opener(request: OpenRequest) -> Attach:
            return lambda channel: self.echoes.append(Echo(channel))

        def make_connection(handler: Any) -> Connection:
            return Connection(handler)

        factory = ServerFactory(
            clock=reactor,
            host_keys=[HostKey(HOST_KEY)],
            identify=lambda algorithm, blob, source: cast(Identity, identity()),
            make_handler=lambda who: RecordingHandler(opener),
            limits=limits,
            algorithms=algorithms,
            make_connection=make_connection,
        )
        return await listen(self, factory, self.servers)

    async def connect(
        self,
        port: int,
        limits: TransportLimits = LIMITS,
        algorithms: Algorithms = DEFAULT_ALGORITHMS,
        username: str = "alice",
    ) -> Connection:
        """Log in with our own client."""
        factory = ClientFactory(
            clock=reactor,
            username=username,
            key=USER_KEY,
            certificate=None,
            check_host=believe,
            handler=RecordingHandler(),
            algorithms=algorithms,
            limits=limits,
        )
        endpoint = TCP4ClientEndpoint(reactor, LOOPBACK, port)
        transport = cast(ClientTransport, await endpoint.connect(factory))
        connection = await transport.ready
        self.addCleanup(self.hang_up, connection)
        return connection

    async def hang_up(self, connection: Connection) -> None:
        """Close, and let both ends see it."""
        connection.close()
        await deferLater(reactor, 0.05)

    async def ssh(self, port: int, *options: str) -> tuple[int, str]:
        """Have a real ssh send everything; size and hash of what it gets back."""
        ssh = require_peer("ssh")
        key = write_key(self.directory / "id", USER_KEY)
        known_hosts = self.directory / "known_hosts"
        known_hosts.write_text(f"* {HOST_KEY.public.to_openssh()}\n")
        arguments = [ssh, "-F", "none", "-p", str(port), "-i", str(key)]
        for option in (
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            f"UserKnownHostsFile={known_hosts}",
            "GlobalKnownHostsFile=/dev/null",
            *options,
        ):
            arguments += ["-o", option]
        names = [self.directory / name for name in ("sent", "received", "errors")]
        with names[0].open("wb") as file:
            for _ in range(self.count):
                file.write(self.block)
        with (
            names[0].open("rb") as sent,
            names[1].open("wb") as received,
            names[2].open("wb") as errors,
        ):
            ended = _Ended()
            reactor.spawnProcess(
                ended,
                ssh,
                [*arguments, "-W", "echo:1", f"alice@{LOOPBACK}"],
                env=environment(),
                childFDs={0: sent.fileno(), 1: received.fileno(), 2: errors.fileno()},
            )
            code = await ended.code
        self.assertEqual(code, 0, names[2].read_text())
        data = names[1].read_bytes()
        return len(data), hashlib.sha256(data).hexdigest()


class OpenSSHTests(RekeyingTestCase):
    """The other end is a real ssh or sshd, and both ends renew keys after each MiB."""

    async def test_real_ssh(self) -> None:
        """With every packet cipher, both ways at once."""
        for name, algorithms in PROTECTIONS.items():
            self.servers.clear()
            self.echoes.clear()
            port = await self.listen(LIMITS, algorithms)
            begun = reactor.seconds()
            self.assertEqual(await self.ssh(port, "RekeyLimit=1M"), self.expected)
            rekeys = self.servers[0].exchanges.completed - 1
            soak.report(
                f"rekeying with a real ssh, {name}",
                {
                    "MB each way": SIZE / 1e6,
                    "seconds": reactor.seconds() - begun,
                    "rekeys": rekeys,
                    "longest gap s": self.echoes[0].longest,
                },
            )
            self.assertGreaterEqual(rekeys, REKEYS)
            self.assertLess(self.echoes[0].longest, STALL)

    async def test_real_sshd(self) -> None:
        """The same from the client's end: what a tunnel's agent is."""
        require_peer("sshd")
        (self.directory / "sshd").mkdir()
        sshd = Sshd(
            self.directory / "sshd",
            USER_KEY.public.to_openssh(),
            settings=["RekeyLimit 1M"],
        )
        self.addCleanup(sshd.process.kill)
        for name, algorithms in PROTECTIONS.items():
            connection = await self.connect(
                sshd.port, LIMITS, algorithms, username=sshd.user
            )
            channel = await connection.open_channel(b"session")
            collector = Collector()
            channel.start(collector)
            await channel.send_request(b"exec", string(b"cat"))
            begun = reactor.seconds()
            Source(channel, self.block, self.count)
            await collector.over
            found = (collector.size, collector.hash.hexdigest())
            self.assertEqual(found, self.expected)
            transport = cast(ClientTransport, connection.transport)
            rekeys = transport.exchanges.completed - 1
            soak.report(
                f"rekeying with a real sshd, {name}",
                {
                    "MB each way": SIZE / 1e6,
                    "seconds": reactor.seconds() - begun,
                    "rekeys": rekeys,
                    "longest gap s": collector.longest,
                },
            )
            self.assertGreaterEqual(rekeys, REKEYS)
            self.assertLess(collector.longest, STALL)

    async def test_our_counters_pass_the_wrap_beside_a_real_ssh(self) -> None:
        """With GCM nobody but us knows our packet numbers, so they may be any.

        After the wrap a key exchange under strict KEX starts them again.
        """
        port = await self.listen(DEFAULT_LIMITS, PROTECTIONS["gcm"])
        wrapped: list[tuple[int, int]] = []

        def begin() -> None:
            if not self.echoes:
                return
            watching.stop()
            server = self.servers[0]
            server._sealer.sequence = server._opener.sequence = 2**32 - 100

            def look() -> None:
                numbers = (server._sealer.sequence, server._opener.sequence)
                if max(numbers) < 2**31 and not wrapped:
                    wrapped.append(numbers)
                    server.exchanges.start()

            looking = LoopingCall(look)
            looking.start(0.001)
            self.addCleanup(looking.stop)

        watching = LoopingCall(begin)
        watching.start(0.0001)
        self.assertEqual(await self.ssh(port), self.expected)
        self.assertEqual(len(wrapped), 1)
        server = self.servers[0]
        self.assertTrue(server.exchanges.strict)
        self.assertEqual(server.exchanges.completed, 2)
        self.assertLess(server._sealer.sequence, 2**31)


class OwnEndsTests(RekeyingTestCase):
    """Both ends are ours, over real sockets."""

    async def test_both_start_at_once_a_thousand_times_under_load(self) -> None:
        """It is one exchange each time, and the data never notices."""
        connection = await self.connect(await self.listen(DEFAULT_LIMITS))
        client = cast(ClientTransport, connection.transport)
        server = self.servers[0]
        channel = await connection.open_channel(b"echo")
        collector = Collector()
        channel.start(collector)
        Source(channel, self.block, 10**9)
        times = 1000
        for number in range(times):
            client.exchanges.start()
            server.exchanges.start()
            while (
                client.exchanges.completed < number + 2
                or server.exchanges.completed < number + 2
            ):
                self.assertEqual(client.close_reason + server.close_reason, "")
                await deferLater(reactor, 0)
        self.assertEqual(server.exchanges.completed, times + 1)
        self.assertEqual(client.exchanges.completed, times + 1)
        # The data is right as far as it has come back.
        self.assertGreater(collector.size, 0)
        whole = hashlib.sha256()
        left = collector.size
        while left:
            whole.update(self.block[:left])
            left -= min(left, len(self.block))
        self.assertEqual(collector.hash.hexdigest(), whole.hexdigest())
        soak.report(
            "both start at once",
            {
                "times": times,
                "MB meanwhile": collector.size / 1e6,
                "longest gap s": collector.longest,
            },
        )
        self.assertLess(collector.longest, STALL)

    async def test_readers_paused_both_ways_in_a_key_exchange_go_on(self) -> None:
        """Whether the exchange begins or ends while they are, and whoever starts it."""
        # It is not about how often: hardly anything moves while readers are paused.
        limits = TransportLimits(exchange_burst=1000)
        connection = await self.connect(await self.listen(limits), limits)
        client = cast(ClientTransport, connection.transport)
        server = self.servers[0]
        channel = await connection.open_channel(b"echo")
        collector = Collector()
        channel.start(collector)
        Source(channel, self.block, 10**9)
        for number in range(30):
            far = self.echoes[0].channel
            before = collector.size
            for end in (channel, far):
                end.pauseProducing()
            if number % 3:
                # Until every window and queue on the way is full.
                await deferLater(reactor, 0.01)
            for transport in ((client,), (server,), (client, server))[number % 3]:
                transport.exchanges.start()
            if number % 2:
                await self.until(lambda n=number: client.exchanges.completed == n + 2)
            for end in (channel, far):
                end.resumeProducing()
            await self.until(
                lambda n=number, b=before: (
                    client.exchanges.completed == server.exchanges.completed == n + 2
                    and collector.size > b + MIB
                )
            )

    async def until(self, condition: Any) -> None:
        """Wait for something; the test's own deadline ends it."""
        while not condition():
            self.assertEqual([each.close_reason for each in self.servers], [""])
            await deferLater(reactor, 0)
