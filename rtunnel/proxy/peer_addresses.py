"""Where other proxies can reach this one, when ``[peer] advertise`` does not say.

Then it is where this proxy really listens. A listener on all addresses is named by the
loopback address while the registry is one that only processes of this machine can share
(``sqlite:``, ``memory:``), and by the address that this host has towards others when it
is ``etcd:``. A wrong address is no danger, for only the host certificate tells who
answers there; it only means that connections cannot be passed on.

Whoever connects to an address of the same host comes from that address. So where it is
a balancer's (``ssh.proxy_protocol_from``) as well, the listener wants a PROXY header,
which other proxies do not send, and only one of ``[peer] listen`` is for them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress

from rtunnel.config import Address, ProxyConfig
from rtunnel.wire.source_address import in_networks, parse_address

#: Endpoints that speak SSH and nothing around it, such as TLS or the PROXY protocol.
PLAIN_ENDPOINTS: Final = ("tcp:", "tcp6:", "systemd:")

#: Where a datagram would go that leaves this host (RFC 5737); none is sent.
_ELSEWHERE: Final = ("192.0.2.1", 9)

_WILDCARDS: Final = ("0.0.0.0", "::", "")


def primary_address() -> str:
    """The address of this host that others see, or else its name.

    It is the source address that the system would choose for the default route.
    """
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(_ELSEWHERE)
            address: str = probe.getsockname()[0]
        except OSError:
            return socket.gethostname()
    return address


def peer_addresses(
    config: ProxyConfig,
    listening: Iterable[tuple[str, IAddress]],
    primary: Callable[[], str] = primary_address,
) -> tuple[str, ...]:
    """What to publish in the registry.

    :param listening: the endpoint string and the address of each listener that serves
        peers.
    :param primary: see :func:`primary_address`.
    :returns: each once; none when only the operator can know.
    """
    if config.peer.advertise:
        return tuple(map(str, config.peer.advertise))
    if config.ssh.advertise and not config.peer.listen:
        return tuple(map(str, config.ssh.advertise))
    shared = config.registry.url.startswith("etcd:")
    found: dict[str, None] = {}
    for description, address in listening:
        if not description.startswith(PLAIN_ENDPOINTS) or not isinstance(
            address, IPv4Address | IPv6Address
        ):
            continue
        host = address.host
        if host in _WILDCARDS:
            loopback = "127.0.0.1" if isinstance(address, IPv4Address) else "::1"
            host = primary() if shared else loopback
        if not _wants_header(config, host):
            found[str(Address(host, address.port))] = None
    return tuple(found)


def unreachable(config: ProxyConfig, addresses: Sequence[str]) -> str | None:
    """Why no other proxy can use what is published, and what to do; None if one may.

    :param addresses: see :func:`peer_addresses`.
    """
    if config.registry.url == "memory:":
        # There is no other proxy.
        return None
    hosts = (Address.parse(each).host for each in addresses)
    if not all(_wants_header(config, host) for host in hosts):
        return None
    if config.ssh.proxy_protocol_from and not config.peer.listen:
        return (
            "they would come from an address in ssh.proxy_protocol_from, where the "
            "PROXY header is missing that balancers send; give them a listener of "
            'their own, as in peer.listen = ["tcp:3024:interface=127.0.0.1"]'
        )
    return "set peer.advertise, or give them a listener of their own in peer.listen"


def _wants_header(config: ProxyConfig, host: str) -> bool:
    """Whether who connects to this address of ours is taken for a balancer."""
    if config.peer.listen:
        return False
    try:
        address = parse_address(host)
    except ValueError:
        return False
    return in_networks(address, config.ssh.proxy_protocol_from)
