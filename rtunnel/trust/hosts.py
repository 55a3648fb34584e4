"""What a host text means before anybody resolves it: a name, or one IP address.

Pure. The rule is the one of URLs (WHATWG "ends in a number"): a host whose last label
is a number is an IPv4 address or nothing. ``inet_aton`` and many resolvers read
``127.1``, ``0x7f.1``, ``0177.0.0.1`` and ``2130706433`` as 127.0.0.1, which would
walk around every check made on the text; here they are refused.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import attrs

from rtunnel.errors import InvalidName
from rtunnel.naming import printable

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

#: The name of the host that the resolver itself runs on.
LOCALHOST = "localhost"

#: Characters in a DNS name, without the trailing dot (RFC 1035 section 2.3.4).
MAX_NAME_LENGTH = 253

#: Hosts and addresses of which is remembered what they are: many are asked for again
#: and again, and for each connection several times.
_REMEMBERED = 1024

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# IPv4 inside IPv6 where the address says so and a translator may act on it.
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1
_ISATAP_IDENTIFIERS = (0x00005EFE, 0x02005EFE)  # RFC 5214 section 6.1


@attrs.frozen
class SpecialRange:
    """Addresses that a wildcard never covers, because they are not "a host out there".

    :param network: what a pattern has to lie in to list an address of the range.
    :param meaning: what the range is, as in "127.0.0.1 is a loopback address".
    """

    network: IPNetwork
    meaning: str


def _ranges(*pairs: tuple[str, str]) -> tuple[SpecialRange, ...]:
    """The ranges, narrowest first, so that the first hit is the most specific."""
    ranges = [SpecialRange(ipaddress.ip_network(net), what) for net, what in pairs]
    return tuple(sorted(ranges, key=lambda r: -r.network.prefixlen))


_METADATA = "a cloud metadata address"

# IANA special-purpose registries (RFC 6890), and what clouds answer on.
_SPECIAL_IPV4 = _ranges(
    ("0.0.0.0/8", "an address of this very host"),
    ("127.0.0.0/8", "a loopback address"),
    ("169.254.0.0/16", "a link-local address"),
    ("169.254.169.254/32", _METADATA),
    ("169.254.170.2/32", _METADATA),
    ("169.254.170.23/32", _METADATA),
    ("100.100.100.200/32", _METADATA),
    ("168.63.129.16/32", _METADATA),
    ("192.0.0.192/32", _METADATA),
    ("224.0.0.0/4", "a multicast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("255.255.255.255/32", "the broadcast address"),
)
_SPECIAL_IPV6 = _ranges(
    ("::/128", "the unspecified address"),
    ("::1/128", "a loopback address"),
    ("::/96", "an IPv4-compatible address"),
    ("::ffff:0:0:0/96", "an IPv4-translated address"),
    ("64:ff9b:1::/48", "an address of a local IPv4 translator"),
    ("2001::/32", "a Teredo address"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a site-local address"),
    ("ff00::/8", "a multicast address"),
    ("fd00:ec2::254/128", _METADATA),
    ("fd00:ec2::23/128", _METADATA),
    ("fd20:ce::254/128", _METADATA),
)


def parse_address(text: str) -> IPAddress:
    """One IP address, strictly spelled; an IPv4-mapped one comes back as IPv4.

    :param text: dotted quad without leading zeros, or IPv6 without brackets or zone.
    :raises InvalidName: for everything else.
    """
    try:
        if not text.isascii() or "%" in text:
            raise ValueError
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidName(f"{printable(text)!r} is not an IP address") from None
    return unmapped(address)


def unmapped(address: IPAddress) -> IPAddress:
    """The IPv4 address in ``::ffff:a.b.c.d`` (the kernel connects to it); else as is.

    :param address: any address; a zone is not looked at.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=_REMEMBERED)
def parse_host(host: str) -> str | IPAddress:
    """What ``host`` means: an address, or a name in lower case without trailing dot.

    :param host: as asked for; "" is :data:`LOCALHOST`, the resolver's own host. IPv6
        without brackets.
    :raises InvalidName: when it is neither; the sentence says why. Names are ASCII:
        IDNA is the asker's business.
    """
    if not host:
        return LOCALHOST
    bare = host[:-1] if host.endswith(".") else host
    if ":" in bare:
        return parse_address(bare)
    name = bare.lower()
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]) is not None:
        try:
            return IPv4Address(name)
        except ValueError:
            raise InvalidName(
                f"{printable(host)!r} looks like an IPv4 address in a short, octal, "
                "decimal or hexadecimal spelling; write it as four decimal numbers"
            ) from None
    # Asked of the text as it came: lower() turns the Kelvin sign into an ASCII "k".
    if not (
        host.isascii()
        and len(name) <= MAX_NAME_LENGTH
        and all(map(_LABEL.fullmatch, labels))
    ):
        raise InvalidName(f"{printable(host)!r} is not a host name or IP address")
    return name


@lru_cache(maxsize=_REMEMBERED)
def special_range(address: IPAddress) -> SpecialRange | None:
    """The narrowest special range that holds ``address``, if any does.

    An IPv6 address that carries a special IPv4 address for a translator (NAT64, 6to4,
    ISATAP) is a special range of its own.

    :param address: taken as it is after :func:`unmapped`.
    """
    address = unmapped(address)
    table = _SPECIAL_IPV4 if isinstance(address, IPv4Address) else _SPECIAL_IPV6
    for candidate in table:
        if address in candidate.network:
            return candidate
    if isinstance(address, IPv6Address):
        carried = _translated(address)
        inner = None if carried is None else special_range(carried)
        if inner is not None:
            return SpecialRange(
                IPv6Network((int(address), 128)),
                f"a translated form of {carried}, {inner.meaning}",
            )
    return None


def _translated(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a translator would connect to for ``address``."""
    if address.sixtofour is not None:
        return address.sixtofour
    bits = int(address)
    if address in _NAT64 or (bits >> 32) & 0xFFFFFFFF in _ISATAP_IDENTIFIERS:
        return IPv4Address(bits & 0xFFFFFFFF)
    return None
