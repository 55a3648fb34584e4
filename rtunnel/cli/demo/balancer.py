"""A small TCP load balancer for the demo: round robin, dead backends passed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from rtunnel.errors import OpenRefused
from rtunnel.splice import splice
from rtunnel.tcp_stream import TcpStream, connect_tcp

#: Seconds that a backend has to accept.
CONNECT_TIMEOUT = 2.0


class Balancer(Factory[TcpStream]):
    """Spreads connections over backends, each in its turn.

    :param ports: TCP ports of the backends on 127.0.0.1; may be changed.
    :param chosen: told the port of the backend that took a connection.
    """

    _log = Logger()
    noisy = False

    def __init__(
        self, reactor: Any, ports: list[int], chosen: Callable[[int], None]
    ) -> None:
        self._reactor = reactor
        self.ports = ports
        self._chosen = chosen
        self._next = 0

    def listen(self) -> Deferred[IListeningPort]:
        """Listen on a free port of 127.0.0.1."""
        endpoint = TCP4ServerEndpoint(self._reactor, 0, interface="127.0.0.1")
        listening: Deferred[IListeningPort] = endpoint.listen(self)
        return listening

    def buildProtocol(self, addr: object) -> TcpStream:
        """One more connection to be passed on."""
        stream = TcpStream()
        passing = Deferred.fromCoroutine(self._pass_on(stream))
        passing.addErrback(lambda f: self._log.failure("cannot pass it on", f))
        return stream

    async def _pass_on(self, stream: TcpStream) -> None:
        for _ in self.ports:
            port = self.ports[self._next % len(self.ports)]
            self._next += 1
            try:
                backend = await connect_tcp(
                    self._reactor, "127.0.0.1", port, CONNECT_TIMEOUT
                )
            except OpenRefused:
                continue
            self._chosen(port)
            splice(stream, backend, self._reactor, lambda report: None)
            return
        stream.abort()
