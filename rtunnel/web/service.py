"""A proxy and its two side doors: the listener for balancers, and the admin socket.

They open before the proxy is ready and close after it has drained, so that a balancer
is told "starting" and "draining" in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from rtunnel.config import ProxyConfig
from rtunnel.proxy.service import ProxyService
from rtunnel.state_directory import ADMIN_SOCKET
from rtunnel.web.admin import listen_admin
from rtunnel.web.health import health_routes
from rtunnel.web.revocations import revocation_routes
from rtunnel.web.rotation import rotation_routes
from rtunnel.web.server import listen
from rtunnel.web.tokens import token_routes


class ServedProxy(Service):
    """A proxy with its web listener and its admin socket.

    :param reactor: listens; its ``stop`` is what ``rtunnel drain`` calls.
    :ivar started: fires when everything is open; fails when something cannot be.
    """

    _log = Logger()

    def __init__(self, config: ProxyConfig, proxy: ProxyService, reactor: Any) -> None:
        self._config = config
        self._proxy = proxy
        self._reactor = reactor
        self._ports: list[IListeningPort] = []
        self.started: Deferred[None] = Deferred()

    def startService(self) -> None:
        """Begin to start; :attr:`started` tells how it went."""
        super().startService()
        Deferred.fromCoroutine(self._start()).chainDeferred(self.started)

    async def _start(self) -> None:
        # The admin socket first: it tells a second proxy in this directory apart from
        # a restarted one.
        self._ports.append(
            listen_admin(
                self._reactor,
                self._config.state / ADMIN_SOCKET,
                status=self._proxy.status,
                drain=self._drain,
                more={
                    **revocation_routes(self._proxy.revoking),
                    **token_routes(self._proxy.tokens),
                    **rotation_routes(self._proxy.rotation),
                },
            )
        )
        routes = health_routes(self._reasons)
        for description in self._config.web.listen:
            self._ports.append(await listen(self._reactor, description, routes))
        self._proxy.startService()
        await self._proxy.started

    def _reasons(self) -> Sequence[str]:
        reason = self._proxy.not_ready()
        return [] if reason is None else [reason]

    def _drain(self) -> None:
        self._log.info("asked to drain over the admin socket: stopping in order")
        self._reactor.callLater(0, self._stop_reactor)

    def _stop_reactor(self) -> None:
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            self._log.info("stopping already")

    def reload(self) -> None:
        """See :meth:`ProxyService.reload`."""
        self._proxy.reload()

    def stopService(self) -> Deferred[None]:
        """Drain the proxy, then close the side doors."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._proxy.running:
            await self._proxy.stopService()
        closing, self._ports = self._ports, []
        for port in closing:
            await maybeDeferred(port.stopListening)
