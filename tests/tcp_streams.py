"""TCP streams on real sockets, and who listens to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTCP, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from rtunnel.tcp_stream import TcpStream, connect_tcp
from rtunnel.testing import RecordingReceiver

TIMEOUT = 10.0


clock = cast(IReactorTime, reactor)


tcp = cast(IReactorTCP, reactor)


class Collector(RecordingReceiver):
    """A receiver whose tests wait for what it is told."""

    def __init__(self, on_data: Callable[[bytes], None] | None = None) -> None:
        super().__init__(on_data)
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def eof_received(self) -> None:
        super().eof_received()
        self._look()

    def closed(self, reason: str | None) -> None:
        super().closed(reason)
        self._look()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds after something was told."""
        if not condition():
            waiting: Deferred[None] = Deferred()
            self._waiting.append((condition, waiting))
            await waiting.addTimeout(TIMEOUT, clock)

    async def until_closed(self) -> str | None:
        """Wait for ``closed``; its reason."""
        await self.until(lambda: self.is_closed)
        return self.reasons[0]

    def _look(self) -> None:
        for waiting in list(self._waiting):
            if waiting[0]() and waiting in self._waiting:
                self._waiting.remove(waiting)
                waiting[1].callback(None)


async def pause(seconds: float = 0.05) -> None:
    """Let the reactor run for a while."""
    await deferLater(clock, seconds, lambda: None)


class TcpStreamTestCase(TestCase):
    """Makes pairs of streams over the loopback."""

    timeout = 30

    def setUp(self) -> None:
        """Nothing is open yet."""
        self.streams: list[TcpStream] = []

    async def listen(self) -> tuple[int, Deferred[TcpStream]]:
        """A port that accepts streams; the first of them."""
        accepted: Deferred[TcpStream] = Deferred()
        test = self

        class Accepting(ServerFactory):
            noisy = False

            def buildProtocol(self, addr: object) -> TcpStream:
                stream = TcpStream()
                test.streams.append(stream)
                clock.callLater(0, accepted.callback, stream)
                return stream

        port = tcp.listenTCP(0, Accepting(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return port.getHost().port, accepted  # type: ignore[attr-defined]

    async def pair(self) -> tuple[TcpStream, TcpStream]:
        """Two ends of one TCP connection, neither started."""
        port, accepted = await self.listen()
        near = await connect_tcp(tcp, "127.0.0.1", port, TIMEOUT)
        self.streams.append(near)
        self.addCleanup(self.let_go)
        return near, await accepted

    async def started(
        self,
    ) -> tuple[TcpStream, Collector, TcpStream, Collector]:
        """Two started ends, and what each is told."""
        near, far = await self.pair()
        near_receiver, far_receiver = Collector(), Collector()
        near.start(near_receiver)
        far.start(far_receiver)
        return near, near_receiver, far, far_receiver

    async def let_go(self) -> None:
        """Close whatever a test left open."""
        for stream in self.streams:
            stream.abort()
        await pause(0.01)
