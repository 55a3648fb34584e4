"""Addresses that a certificate or key may be used from.

Source: the ``source-address`` option of draft-miller-ssh-cert and OpenSSH's
``addr_match_cidr_list``: comma-separated addresses and networks in CIDR form. An IPv4
address inside IPv6 (``::ffff:10.0.0.1``) is that IPv4 address, on both sides.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_NETWORK = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")
_MAPPED_BITS = 96


def parse_address(text: str) -> Address:
    """An IP address; a scope (``%eth0``) is dropped.

    :raises ValueError: when it is none.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_network(text: str) -> Network:
    """An address, or a network in CIDR form whose host bits are zero.

    :raises ValueError: when it is neither.
    """
    # ip_network also takes net masks and scopes, which OpenSSH does not.
    if _NETWORK.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not an address or network")
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= _MAPPED_BITS:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def parse_networks(text: str) -> tuple[Network, ...]:
    """Comma-separated networks; none at all is an error, not "everywhere".

    :raises ValueError: when any of them is malformed, or there is none.
    """
    return tuple(parse_network(part) for part in text.split(","))


def in_networks(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of the networks holds the address; IPv4 is never in an IPv6 one."""
    return any(
        address.version == network.version and address in network
        for network in networks
    )
