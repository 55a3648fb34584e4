"""The ports of a proxy: opened from endpoint strings, told to others, closed."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

from rtunnel.config import ProxyConfig
from rtunnel.errors import ConfigError
from rtunnel.proxy.peer_addresses import peer_addresses

#: TCP connections that wait in the kernel to be accepted; Twisted has 50.
BACKLOG = 1024


class Listeners:
    """What a proxy listens on, for everybody and for peers alone.

    :param reactor: what endpoints are made for.
    """

    def __init__(self, config: ProxyConfig, reactor: Any) -> None:
        self._config = config
        self._reactor = reactor
        self._ports: list[IListeningPort] = []
        self._peer_ports: list[IListeningPort] = []

    async def open(
        self, factory: IProtocolFactory, peer_factory: IProtocolFactory
    ) -> None:
        """Open every one of them.

        :param factory: of those in ``[ssh]``.
        :param peer_factory: of those in ``[peer]``.
        :raises ConfigError: when one is not an endpoint string.
        :raises CannotListenError: when one cannot be opened; close the others.
        """
        for description in self._config.ssh.listen:
            self._ports.append(await self._listen(description, factory))
        for description in self._config.peer.listen:
            port = await self._listen(description, peer_factory)
            self._peer_ports.append(port)

    @property
    def addresses(self) -> list[str]:
        """Where agents and clients are listened for, as text."""
        return [_address(port) for port in self._ports]

    @property
    def ports(self) -> tuple[IListeningPort, ...]:
        """Those of agents and clients."""
        return tuple(self._ports)

    @property
    def peer_ports(self) -> tuple[IListeningPort, ...]:
        """Those of peers alone."""
        return tuple(self._peer_ports)

    def peer_addresses(self) -> tuple[str, ...]:
        """Where other proxies can reach this one."""
        config = self._config
        descriptions, ports = config.peer.listen, self._peer_ports
        if not descriptions:
            descriptions, ports = config.ssh.listen, self._ports
        return peer_addresses(
            config,
            [
                (description, port.getHost())
                for description, port in zip(descriptions, ports, strict=True)
            ],
        )

    async def close(self) -> None:
        """Take no more connections; those that are there stay."""
        closing = [*self._ports, *self._peer_ports]
        self._ports, self._peer_ports = [], []
        for port in closing:
            await maybeDeferred(port.stopListening)

    async def _listen(self, description: str, factory: Any) -> IListeningPort:
        try:
            endpoint = serverFromString(self._reactor, _with_backlog(description))
        except ValueError as error:
            raise ConfigError(
                [f"{self._config.path}: {description!r} is no endpoint: {error}"]
            ) from None
        port: IListeningPort = await endpoint.listen(factory)
        return port


def _with_backlog(description: str) -> str:
    """An endpoint string with room for a flood to queue in, unless it says how much.

    Where the kernel's queue is full, everybody's connection takes seconds longer.
    """
    kind, *arguments = description.removeprefix("haproxy:").split(":")
    takes_it = kind in ("tcp", "tcp6", "ssl")
    if not takes_it or any(each.startswith("backlog=") for each in arguments):
        return description
    return f"{description}:backlog={BACKLOG}"


def _address(port: IListeningPort) -> str:
    address = port.getHost()
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    return str(address)
