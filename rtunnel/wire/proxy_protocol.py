"""The header with which a load balancer says whom a connection is really from.

Source: "The PROXY protocol, versions 1 & 2" (haproxy.org, proxy-protocol.txt). Pure.
What follows the header in the same segment is the peer's and is handed back untouched.
The header is no proof of anything: whether its sender may be believed is decided by
who uses this.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from rtunnel.errors import ProtocolError
from rtunnel.wire.source_address import Address, parse_address

#: Bytes in a header of version 1, its end included (section 2.1).
MAX_V1 = 107

#: Bytes in a header of version 2 that we read, 16 of them before its addresses.
MAX_V2 = 536

V1_PREFIX = b"PROXY "
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

_V2_FIXED = 16
_V2_LOCAL, _V2_PROXY = 0x20, 0x21
_V2_TCP4, _V2_TCP6 = 0x11, 0x21
#: Address families and transports that are neither: the sender does not say.
_V2_UNSPECIFIED = frozenset([0x00, 0x31])
#: Family: what its addresses are, bytes in one, bytes in two and their ports.
_ADDRESSES: dict[int, tuple[type[Address], int, int]] = {
    _V2_TCP4: (IPv4Address, 4, 12),
    _V2_TCP6: (IPv6Address, 16, 36),
}
_V1_TCP: dict[bytes, type[Address]] = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_MAX_PORT = 65535


def looks_like_header(data: bytes) -> bool:
    """Whether a peer's first bytes begin with a whole prefix of either version."""
    return data.startswith((V1_PREFIX, V2_SIGNATURE))


class ProxyHeaderReader:
    """Waits for one header of either version.

    ``source`` is the IP address that it names, an IPv4 one never in IPv6 form; None
    when the balancer speaks for itself, as in a health check (LOCAL and UNKNOWN), or
    when the header is not there yet.
    """

    def __init__(self) -> None:
        self.source: str | None = None
        self._data = b""

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes from the balancer.

        :return: what follows the header, None while that is not complete.
        :raises ProtocolError: malformed, too long, or no header at all.
        """
        data = self._data + data
        if data.startswith(V2_SIGNATURE):
            size = self._read_v2(data)
        elif data.startswith(V1_PREFIX):
            size = self._read_v1(data)
        elif V2_SIGNATURE.startswith(data) or V1_PREFIX.startswith(data):
            size = 0
        else:
            raise ProtocolError("no PROXY header from a balancer that has to send one")
        if not size:
            self._data = data
            return None
        self._data = b""
        return data[size:]

    def _read_v1(self, data: bytes) -> int:
        """Read ``PROXY TCP4 SOURCE DESTINATION PORT PORT``; its size, 0 for "more"."""
        line, end, _ = data[:MAX_V1].partition(b"\r\n")
        if not end:
            if len(data) >= MAX_V1:
                raise ProtocolError(f"a PROXY header of over {MAX_V1} bytes")
            return 0
        words = line.split(b" ")
        if words[1] != b"UNKNOWN":
            self.source = _v1_source(words)
        return len(line) + len(end)

    def _read_v2(self, data: bytes) -> int:
        """Read the binary header; its size, 0 for "more"."""
        if len(data) < _V2_FIXED:
            return 0
        command, family = data[12], data[13]
        size = _V2_FIXED + int.from_bytes(data[14:16])
        if command not in (_V2_LOCAL, _V2_PROXY):
            raise ProtocolError("a PROXY header of an unknown version or command")
        if size > MAX_V2:
            raise ProtocolError(f"a PROXY header of over {MAX_V2} bytes")
        if len(data) < size:
            return 0
        if command == _V2_PROXY and family not in _V2_UNSPECIFIED:
            self.source = _v2_source(family, data[_V2_FIXED:size])
        return size


def _v1_source(words: list[bytes]) -> str:
    if len(words) != 6 or words[1] not in _V1_TCP:
        raise _malformed()
    kind = _V1_TCP[words[1]]
    try:
        source, _ = (kind(word.decode("ascii")) for word in words[2:4])
    except ValueError:
        raise _malformed() from None
    if any(not _PORT.fullmatch(port) or int(port) > _MAX_PORT for port in words[4:]):
        raise _malformed()
    return _plain(source)


def _v2_source(family: int, addresses: bytes) -> str:
    if family not in _ADDRESSES:
        raise ProtocolError("a PROXY header that speaks of no TCP connection")
    kind, length, needed = _ADDRESSES[family]
    if len(addresses) < needed:
        raise _malformed()
    return _plain(kind(addresses[:length]))


def _plain(address: Address) -> str:
    return str(parse_address(str(address)))


def _malformed() -> ProtocolError:
    return ProtocolError("a malformed PROXY header")
