"""From an address to a connection that SSH can be spoken over.

Names are resolved anew for every dial, and all their A and AAAA records are used: dials
that follow each other begin with another one each. ``tls:`` addresses are wrapped in
TLS, with the name checked; ``HTTPS_PROXY`` and ``NO_PROXY`` are honoured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from rtunnel.agent.http_connect import HttpConnectEndpoint, http_proxy_for
from rtunnel.agent.tls import TlsEndpoint
from rtunnel.config import Address
from rtunnel.errors import ConnectionFailed
from rtunnel.happy_eyeballs import first_success
from rtunnel.resolution import interleaved, resolve
from rtunnel.target_dialer import IDialingReactor

#: Seconds for one TCP connection; the whole dial has a deadline of its own.
TCP_TIMEOUT: Final = 10.0


class Connector:
    """Connects to proxies.

    :param environ: the environment variables, for ``HTTPS_PROXY`` and ``NO_PROXY``.
    :param trust_root: the TLS authorities that count, see
        :func:`rtunnel.agent.tls.load_authorities`; ``None``: those of the system.
    """

    def __init__(
        self,
        reactor: IDialingReactor,
        environ: Mapping[str, str],
        trust_root: Any | None = None,
    ) -> None:
        self._reactor = reactor
        self._environ = environ
        self._trust_root = trust_root

    async def connect(
        self, address: Address, rotation: int, factory: IProtocolFactory
    ) -> IProtocol:
        """Connect to an address; cancelling gives up.

        :param rotation: which of the addresses behind its name to begin with, counted
            round and round.
        :returns: the protocol, on a transport that is connected; under ``tls:`` the
            host has proven its name.
        :raises ConnectionFailed: the name does not resolve, the HTTP proxy refuses, or
            TLS fails.
        :raises ConnectError: when no address takes the connection.
        """
        proxy = http_proxy_for(address, self._environ)
        host, port = (
            (address.host, address.port) if proxy is None else (proxy.host, proxy.port)
        )
        found = interleaved(await resolve(self._reactor, host), rotation)
        if not found:
            whose = "" if proxy is None else "the HTTP proxy "
            raise ConnectionFailed(f"{whose}{host} does not resolve")
        endpoint: IStreamClientEndpoint = _AnyOf(self._reactor, found, port)
        if proxy is not None:
            endpoint = HttpConnectEndpoint(endpoint, proxy, address)
        if address.tls:
            inside = TlsEndpoint(
                endpoint, address.host, self._trust_root, self._reactor
            )
            return await inside.connect(factory)
        return await endpoint.connect(factory)

    def trust(self, trust_root: Any | None) -> None:
        """From the next dial on, these are the TLS authorities that count."""
        self._trust_root = trust_root


@implementer(IStreamClientEndpoint)
class _AnyOf:
    """Connects to whichever of several addresses of one host answers first."""

    def __init__(
        self, reactor: IDialingReactor, addresses: Sequence[str], port: int
    ) -> None:
        self._reactor = reactor
        self._endpoints: list[IStreamClientEndpoint] = []
        for address in addresses:
            kind = TCP6ClientEndpoint if isIPv6Address(address) else TCP4ClientEndpoint
            self._endpoints.append(kind(reactor, address, port, TCP_TIMEOUT))

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``."""
        attempts = [partial(e.connect, protocolFactory) for e in self._endpoints]
        return first_success(attempts, self._reactor)
