"""Channels, streams and splices over real SSH transports and real sockets."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import (
    IPushProducer,
    IReactorTCP,
    IReactorTime,
)
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from rtunnel.errors import OpenRefused
from rtunnel.splice import SpliceReport, Stream, splice
from rtunnel.ssh import factory as ssh
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.limits import TransportLimits
from rtunnel.ssh.transport import ClientTransport
from rtunnel.tcp_stream import TcpStream, connect_tcp
from rtunnel.testing import RecordingHandler, RecordingReceiver
from rtunnel.trust.identity import UserIdentity
from rtunnel.wire.keys import PrivateKey, PublicKey

MIB = 2**20
KEY = PrivateKey.generate()
HOST_KEY = PrivateKey.generate()
clock = cast(IReactorTime, reactor)
tcp = cast(IReactorTCP, reactor)


class Waiting(RecordingReceiver):
    """Counts and digests what comes, and can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.digest = hashlib.sha256()
        self.ended: Deferred[None] = Deferred()
        self.gone: Deferred[str | None] = Deferred()

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        self.digest.update(data)

    def eof_received(self) -> None:
        super().eof_received()
        self.ended.callback(None)

    def closed(self, reason: str | None) -> None:
        super().closed(reason)
        self.gone.callback(reason)


@implementer(IPushProducer)
class Source:
    """Writes so many bytes to a stream, as fast as it is let, then end of data."""

    def __init__(self, stream: Stream, count: int) -> None:
        self.stream = stream
        self.left = count
        self.digest = hashlib.sha256()
        self._number = 0
        self._running = False
        self._paused = False
        stream.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._paused = True
        self.left = 0

    def resumeProducing(self) -> None:
        self._paused = False
        if self._running:
            return
        self._running = True
        while self.left and not self._paused:
            self._number += 1
            data = self._number.to_bytes(8, "big") * 8192
            data = data[: self.left]
            self.left -= len(data)
            self.digest.update(data)
            self.stream.write(data)
        self._running = False
        if not self.left:
            self.stream.unregisterProducer()
            self.stream.write_eof()


class ChannelsTestCase(TestCase):
    """An SSH server and a client connected to it, both ours."""

    timeout = 60
    limits = TransportLimits()

    async def asyncSetUp(self) -> None:
        """Listen, connect and log in."""
        self.server_handler = RecordingHandler(self.serve)
        self.client_handler = RecordingHandler()
        self.reports: list[SpliceReport] = []
        self.serving: list[Channel] = []
        self.server_receivers: list[Waiting] = []
        self.server_factory = ssh.ServerFactory(
            clock=clock,
            host_keys=[HostKey(HOST_KEY, None)],
            identify=lambda algorithm, blob, source: UserIdentity(
                "alice", ("alice",), "alice", "SHA256:x", source, None, None
            ),
            make_handler=lambda identity: self.server_handler,
            limits=self.limits,
        )
        self.server_port = tcp.listenTCP(
            0,
            self.server_factory,  # type: ignore[arg-type]
            interface="127.0.0.1",
        )
        self.addCleanup(self.server_port.stopListening)
        client_factory = ssh.ClientFactory(
            clock=clock,
            username="alice",
            key=KEY,
            certificate=None,
            check_host=lambda algorithm, blob: PublicKey.from_blob(blob),
            handler=self.client_handler,
            limits=self.limits,
        )
        self.client_transport = cast(
            ClientTransport,
            await TCP4ClientEndpoint(tcp, "127.0.0.1", self.port()).connect(
                client_factory
            ),
        )
        self.client: Connection = await self.client_transport.ready
        assert self.server_handler.connection is not None
        self.server = self.server_handler.connection
        self.addCleanup(self.hang_up)

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        """See :meth:`asyncSetUp`."""
        return Deferred.fromCoroutine(self.asyncSetUp())

    def port(self) -> int:
        """Where the SSH server listens."""
        return int(cast(Any, self.server_port.getHost()).port)

    async def hang_up(self) -> None:
        """End both connections, and let their sockets go."""
        self.client.close("done")
        await pause(0.05)

    async def serve(self, request: OpenRequest) -> Attach:
        """What the server does with a channel, by its type."""
        if request.kind == b"tcp":
            stream = await connect_tcp(tcp, "127.0.0.1", int(request.data), 5.0)
            return lambda channel: cast(
                None, splice(channel, stream, clock, self.reports.append)
            )

        def attach(channel: Channel) -> None:
            self.serving.append(channel)
            if request.kind == b"keep":
                receiver = Waiting()
                self.server_receivers.append(receiver)
                channel.start(receiver)
            elif request.kind == b"echo":
                channel.start(Echo(channel))

        return attach

    async def target(
        self, behave: Callable[[TcpStream], object]
    ) -> tuple[int, list[TcpStream]]:
        """A TCP server whose connections do as told; its port."""
        accepted: list[TcpStream] = []

        class Target(ServerFactory):
            noisy = False

            def buildProtocol(self, addr: object) -> TcpStream:
                stream = TcpStream()
                accepted.append(stream)
                clock.callLater(0, behave, stream)
                return stream

        port = tcp.listenTCP(0, Target(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)

        def let_go() -> None:
            for stream in accepted:
                stream.abort()

        self.addCleanup(let_go)
        return int(cast(Any, port.getHost()).port), accepted


class Echo(RecordingReceiver):
    """Sends back what comes, with back-pressure."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream
        stream.registerProducer(cast(IPushProducer, stream), True)

    def data_received(self, data: bytes) -> None:
        self._stream.write(data)

    def eof_received(self) -> None:
        self._stream.write_eof()


async def pause(seconds: float) -> None:
    """Let the reactor run for a while."""
    await deferLater(clock, seconds, lambda: None)


def soon(result: Deferred[Any]) -> Awaitable[Any]:
    """Wait no longer than a test should."""
    return result.addTimeout(30, clock)


class TargetTests(ChannelsTestCase):
    """A channel to a TCP target."""

    async def test_half_close(self) -> None:
        """100,000 bytes and EOF in, 200,011 bytes and EOF back, twenty times."""
        received: list[int] = []

        def behave(stream: TcpStream) -> None:
            receiver = Waiting()

            def reply(_: None) -> None:
                received.append(receiver.count)
                stream.write(b"r" * 200_011)
                stream.close()

            receiver.ended.addCallback(reply)
            stream.start(receiver)

        port, _ = await self.target(behave)
        for _ in range(20):
            channel = await self.client.open_channel(b"tcp", b"%d" % port)
            receiver = Waiting()
            channel.start(receiver)
            channel.write(bytes(100_000))
            channel.write_eof()
            await soon(receiver.ended)
            self.assertEqual(receiver.count, 200_011)
            channel.close()
            self.assertIs(await soon(receiver.gone), None)
        self.assertEqual(received, [100_000] * 20)
        await pause(0.05)
        self.assertEqual(
            {(r.bytes_in, r.bytes_out, r.reason) for r in self.reports},
            {(100_000, 200_011, "")},
        )
        self.assertEqual(self.client.open_channels, 0)
        self.assertEqual(self.server.open_channels, 0)

    async def test_a_closed_port_refuses_the_channel(self) -> None:
        """The refusal comes instead of a confirmation, and says what failed."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        with self.assertRaises(OpenRefused) as raised:
            await self.client.open_channel(b"tcp", b"%d" % port)
        self.assertEqual(raised.exception.reason_code, 2)
        self.assertEqual(
            raised.exception.text, f"connection to 127.0.0.1:{port} refused"
        )

    async def test_a_target_that_never_reads(self) -> None:
        """The sender is stopped with little held at each end; others go on."""
        port, _ = await self.target(lambda stream: None)
        stalled = await self.client.open_channel(b"tcp", b"%d" % port)
        stalled.start(Waiting())
        source = Source(stalled, 200 * MIB)
        before = -1
        while before != source.left:
            before = source.left
            await pause(0.3)
        # What left is in the kernel's buffers and in one window.
        self.assertGreater(source.left, 150 * MIB)
        self.assertLessEqual(stalled.queued, 256 * 1024)
        channel = await self.client.open_channel(b"echo")
        receiver = Waiting()
        channel.start(receiver)
        echoed = Source(channel, 5 * MIB)
        await soon(receiver.ended)
        self.assertEqual(receiver.digest.digest(), echoed.digest.digest())
        stalled.abort()

    async def test_a_client_that_is_gone(self) -> None:
        """The target's connection is reset when the SSH connection breaks."""
        receiver = Waiting()
        port, _ = await self.target(lambda stream: stream.start(receiver))
        channel = await self.client.open_channel(b"tcp", b"%d" % port)
        channel.write(b"hello")
        await pause(0.1)
        cast(Any, self.client_transport.transport).abortConnection()
        self.assertEqual(await soon(receiver.gone), "connection reset")
        self.assertEqual(receiver.count, 5)
        self.assertEqual(len(self.server_handler.lost), 1)


class BulkTests(ChannelsTestCase):
    """Much data over one connection."""

    async def test_a_reader_that_stops_reading_tcp(self) -> None:
        """Thirty channels with endless sources hold little while TCP is full."""
        channels = [await self.client.open_channel(b"x") for _ in range(30)]
        receivers = []
        for channel in channels:
            receivers.append(Waiting())
            channel.start(receivers[-1])
        gate = cast(IPushProducer, self.client_transport.transport)
        gate.pauseProducing()
        sources = [Source(channel, 3 * MIB) for channel in self.serving]
        await pause(0.5)
        queued = sum(channel.queued for channel in self.serving)
        self.assertLessEqual(queued, 30 * 128 * 1024)
        self.assertTrue(all(source.left for source in sources[5:]))
        gate.resumeProducing()
        await soon(gatherResults([receiver.ended for receiver in receivers]))
        self.assertEqual(
            [receiver.digest.digest() for receiver in receivers],
            [source.digest.digest() for source in sources],
        )

    async def test_a_stalled_channel_among_many(self) -> None:
        """One paused receiver does not keep 100 other channels from finishing."""
        channels = [await self.client.open_channel(b"keep") for _ in range(101)]
        self.serving[50].pauseProducing()
        sources = [Source(channel, MIB) for channel in channels]
        others = [r for i, r in enumerate(self.server_receivers) if i != 50]
        await soon(gatherResults([receiver.ended for receiver in others]))
        self.assertEqual({receiver.count for receiver in others}, {MIB})
        self.assertFalse(self.server_receivers[50].ended.called)
        self.serving[50].resumeProducing()
        await soon(self.server_receivers[50].ended)
        self.assertEqual(
            self.server_receivers[50].digest.digest(), sources[50].digest.digest()
        )


class RekeyTests(ChannelsTestCase):
    """Key exchanges while data flows."""

    limits = TransportLimits(rekey_bytes=MIB)

    async def test_nothing_is_lost_when_keys_change_under_load(self) -> None:
        """Data both ways on three channels, one reader pausing, keys every MiB."""
        exchanges_before = self.client_transport.exchanges.completed
        channels = [await self.client.open_channel(b"echo") for _ in range(3)]
        receivers = []
        for channel in channels:
            receivers.append(Waiting())
            channel.start(receivers[-1])
        sources = [Source(channel, 8 * MIB) for channel in channels]
        while not receivers[0].ended.called:
            channels[0].pauseProducing()
            await pause(0.02)
            channels[0].resumeProducing()
            await pause(0.02)
        await soon(gatherResults([receiver.ended for receiver in receivers]))
        self.assertEqual(
            [receiver.digest.digest() for receiver in receivers],
            [source.digest.digest() for source in sources],
        )
        exchanges = self.client_transport.exchanges.completed - exchanges_before
        self.assertGreater(exchanges, 10)
