"""Tests for :mod:`rtunnel.wire.proxy_protocol`."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ProtocolError
from rtunnel.wire.proxy_protocol import (
    MAX_V1,
    MAX_V2,
    V2_SIGNATURE,
    ProxyHeaderReader,
    looks_like_header,
)

V1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 40000 3023\r\n"


def v2(
    addresses: bytes,
    *,
    command: int = 0x21,
    family: int = 0x11,
    length: int | None = None,
) -> bytes:
    """A header of version 2."""
    size = len(addresses) if length is None else length
    return V2_SIGNATURE + struct.pack(">BBH", command, family, size) + addresses


def v2_tcp(source: str, extensions: bytes = b"") -> bytes:
    """A header of version 2 that names a source."""
    address = ipaddress.ip_address(source)
    other = address.packed
    family = 0x11 if address.version == 4 else 0x21
    ports = struct.pack(">HH", 40000, 3023)
    return v2(address.packed + other + ports + extensions, family=family)


def read(data: bytes, cuts: Iterable[int] = ()) -> tuple[str | None, bytes]:
    """Source and rest of a whole header that comes in pieces."""
    reader = ProxyHeaderReader()
    pieces = []
    start = 0
    for cut in sorted(set(cuts)):
        pieces.append(data[start:cut])
        start = cut
    pieces.append(data[start:])
    rest: bytes | None = None
    for piece in pieces:
        if rest is None:
            rest = reader.feed(piece)
        else:
            rest += piece
    assert rest is not None, data
    return reader.source, rest


addresses = st.ip_addresses().map(str)


class ReaderTests(SynchronousTestCase):
    """:class:`ProxyHeaderReader`."""

    def refused(self, data: bytes) -> str:
        """The sentence that a header is refused with."""
        with self.assertRaises(ProtocolError) as caught:
            ProxyHeaderReader().feed(data)
        return str(caught.exception)

    def test_version_1_names_the_source(self) -> None:
        """IPv4 and IPv6; what follows belongs to the peer."""
        self.assertEqual(read(V1 + b"SSH-2.0-x"), ("198.51.100.7", b"SSH-2.0-x"))
        line = b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n"
        self.assertEqual(read(line), ("2001:db8::7", b""))

    def test_version_2_names_the_source(self) -> None:
        """IPv4 and IPv6, with extensions that are passed over."""
        self.assertEqual(read(v2_tcp("198.51.100.7") + b"S"), ("198.51.100.7", b"S"))
        extension = b"\x03\x00\x04abcd"
        header = v2_tcp("2001:db8::7", extension)
        self.assertEqual(read(header + b"S"), ("2001:db8::7", b"S"))

    def test_ipv4_in_ipv6_is_ipv4(self) -> None:
        """So that limits and certificates see the same address either way."""
        line = b"PROXY TCP6 ::ffff:198.51.100.7 ::1 1 2\r\n"
        self.assertEqual(read(line)[0], "198.51.100.7")
        self.assertEqual(read(v2_tcp("::ffff:198.51.100.7"))[0], "198.51.100.7")

    def test_health_checks_name_nobody(self) -> None:
        """UNKNOWN, LOCAL, and a PROXY command without or with UNIX addresses."""
        for header in (
            b"PROXY UNKNOWN\r\n",
            b"PROXY UNKNOWN ffff::1 ffff::1 1 2\r\n",
            v2(b"", command=0x20, family=0x00),
            v2(bytes(12), command=0x20, family=0x11),
            v2(b"", command=0x21, family=0x00),
            v2(bytes(216), command=0x21, family=0x31),
        ):
            self.assertEqual(read(header + b"x"), (None, b"x"))

    def test_headers_have_a_longest_size(self) -> None:
        """107 bytes and 536, and not one more is waited for."""
        longest = b"PROXY UNKNOWN ".ljust(MAX_V1 - 2, b"x") + b"\r\n"
        self.assertEqual(read(longest), (None, b""))
        self.assertIn("over 107", self.refused(longest[:-2] + b"x\r\n"))
        self.assertIn("over 107", self.refused(b"PROXY TCP4 ".ljust(MAX_V1, b"1")))
        self.assertEqual(read(v2_tcp("192.0.2.1", bytes(MAX_V2 - 28)))[1], b"")
        head = v2(b"", length=MAX_V2 - 16 + 1)
        self.assertIn("over 536", self.refused(head))

    def test_malformed_headers(self) -> None:
        """Every one ends the connection."""
        for header in (
            b"SSH-2.0-x\r\n",
            b"PROXY \r\n",
            b"PROXY TCP4\r\n",
            b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
            b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 \xff 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n" + bytes(80),
            v2(bytes(11)),
            v2(bytes(35), family=0x21),
            v2(bytes(12), command=0x31),
            v2(bytes(12), command=0x22),
            v2(bytes(12), family=0x12),
            v2(bytes(12), family=0x41),
        ):
            self.refused(header)

    def test_what_is_no_header_is_seen_at_once(self) -> None:
        """A few bytes are enough; a beginning of one is waited for."""
        self.assertIn("no PROXY header", self.refused(b"S"))
        self.assertIn("no PROXY header", self.refused(b"PROXX"))
        self.assertIn("no PROXY header", self.refused(b"\r\n\r\nX"))
        for header in (V1, v2_tcp("192.0.2.1")):
            for size in range(len(header)):
                self.assertIsNone(ProxyHeaderReader().feed(header[:size]))

    @settings(deadline=None, max_examples=200)
    @given(
        addresses,
        st.booleans(),
        st.binary(max_size=40),
        st.lists(st.integers(1, 60), max_size=5),
    )
    def test_however_it_is_cut(
        self, source: str, binary: bool, rest: bytes, cuts: list[int]
    ) -> None:
        """One byte at a time or all at once, together with what follows."""
        kind = b"TCP6" if ":" in source else b"TCP4"
        text = source.encode()
        header = (
            v2_tcp(source) if binary else b"PROXY %b %b %b 1 2\r\n" % (kind, text, text)
        )
        data = header + rest
        inside = [cut for cut in cuts if cut < len(data)]
        expected = ipaddress.ip_address(source)
        mapped = getattr(expected, "ipv4_mapped", None)
        self.assertEqual(read(data, inside), (str(mapped or expected), rest))

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=600), st.sampled_from([b"", b"PROXY ", V2_SIGNATURE]))
    @example(bytes(600), V2_SIGNATURE + b"\x21\x11\x02\x09")
    def test_any_bytes_at_all(self, data: bytes, prefix: bytes) -> None:
        """Nothing but ProtocolError, and never more kept than the longest header."""
        reader = ProxyHeaderReader()
        kept = 0
        try:
            for byte in prefix + data:
                if reader.feed(bytes([byte])) is not None:
                    break
                kept += 1
                self.assertLess(kept, MAX_V2)
        except ProtocolError:
            pass

    @settings(deadline=None, max_examples=100)
    @given(addresses)
    def test_twisted_s_parsers_agree(self, source: str) -> None:
        """On the source of every whole header."""
        kind = b"TCP6" if ":" in source else b"TCP4"
        text = source.encode()
        line = b"PROXY %b %b %b 1 2\r\n" % (kind, text, text)
        theirs, _ = V1Parser().feed(line)
        assert theirs is not None
        self.agree(theirs.source, read(line)[0])
        header = v2_tcp(source)
        found, _ = V2Parser().feed(header)
        assert found is not None
        self.agree(found.source, read(header)[0])

    def agree(self, theirs: object, ours: str | None) -> None:
        """Assert that two addresses are the same."""
        assert isinstance(theirs, IPv4Address | IPv6Address)
        address = ipaddress.ip_address(theirs.host)
        mapped = getattr(address, "ipv4_mapped", None)
        self.assertEqual(str(mapped or address), ours)


class PrefixTests(SynchronousTestCase):
    """:func:`looks_like_header`."""

    def test_both_versions_are_known_by_their_beginning(self) -> None:
        """SSH is not."""
        self.assertTrue(looks_like_header(V1))
        self.assertTrue(looks_like_header(v2_tcp("192.0.2.1")))
        self.assertFalse(looks_like_header(b"SSH-2.0-PROXY "))
        self.assertFalse(looks_like_header(b""))
