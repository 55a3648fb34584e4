"""What a host text means: :mod:`rtunnel.trust.hosts`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import InvalidName
from rtunnel.trust.hosts import (
    parse_address,
    parse_host,
    special_range,
    unmapped,
)


def loose_spellings(address: IPv4Address) -> list[str]:
    """The ways in which ``inet_aton`` also reads ``address``."""
    number = int(address)
    a, b, c, d = address.packed
    return [
        f"{number}",
        f"{number:#x}",
        f"{number:#X}",
        f"0{number:o}",
        f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{c << 8 | d}",
        f"{a:#x}.{b}.{c}.{d}",
        f"0{a:o}.{b}.{c}.{d}",
        f"{a:#x}.{b:#x}.{c:#x}.{d:#x}",
        f"{a}.{b}.{c}.0{d}",
        f"{a}.{b}.{c}.{d:#x}.",
        f"{a}.{b}.{c}.{d}.{d}",
    ]


class ParseHostTests(SynchronousTestCase):
    """A name, or one address, or a refusal."""

    def test_names_lose_case_and_trailing_dot(self) -> None:
        """They are compared as DNS compares them."""
        for text, name in [
            ("web1", "web1"),
            ("WEB1.Lan.", "web1.lan"),
            ("_srv.x-1.lan", "_srv.x-1.lan"),
            ("localhost", "localhost"),
            ("", "localhost"),
            ("1.web", "1.web"),
            ("0x7f.web", "0x7f.web"),
            ("3com", "3com"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ]:
            self.assertEqual(parse_host(text), name)

    def test_addresses_are_read_strictly(self) -> None:
        """Dotted quads and IPv6 in any of its spellings, IPv4-mapped ones as IPv4."""
        for text, address in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1.", "10.0.0.1"),
            ("FD00:0::1", "fd00::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::FFFF:a00:1", "10.0.0.1"),
            ("0:0:0:0:0:ffff:0a00:0001", "10.0.0.1"),
        ]:
            self.assertEqual(parse_host(text), ip_address(address))

    @settings(deadline=None, max_examples=100)
    @given(st.ip_addresses(v=4))
    def test_loose_ipv4_spellings_are_refused(self, address: IPv4Address) -> None:
        """Decimal, hexadecimal, octal and short forms: refused by name, with why."""
        for text in loose_spellings(address):
            error = self.assertRaises(InvalidName, parse_host, text)
            self.assertIn("looks like an IPv4 address", str(error))

    def test_everything_else_is_refused(self) -> None:
        """Nothing is repaired and nothing is guessed, IDNA included."""
        for text in [
            ".",
            "..",
            "web1..lan",
            ".lan",
            "-web",
            "web-",
            "a" * 64,
            "a." * 127 + "aa",
            "bücher.example",
            "lo\u212aal",
            "\uff11\uff12\uff17.0.0.1",
            "127.0.0.\uff11",
            "web1 ",
            "web1\n",
            "we\0b",
            "*",
            "*.lan",
            "web1/24",
            "a@b",
            "a%b",
            "[::1]",
            "fe80::1%eth0",
            "::1%25",
            "1::2::3",
            "web1:22",
            "0",
            "0x",
            "1.2.3.256",
            "1.2.3",
        ]:
            self.assertRaises(InvalidName, parse_host, text)

    @settings(deadline=None, max_examples=200)
    @given(st.text(max_size=40))
    def test_any_text_is_a_host_or_refused(self, text: str) -> None:
        """Nothing but InvalidName, and the outcome reads back as itself."""
        try:
            host = parse_host(text)
        except InvalidName as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertEqual(parse_host(str(host)), host)


class ParseAddressTests(SynchronousTestCase):
    """What a resolver may hand back."""

    def test_names_and_zones_are_no_addresses(self) -> None:
        """A zone would make the address mean something else on each interface."""
        for text in ["", "localhost", "fe80::1%eth0", "127.1", "010.0.0.1", "1 "]:
            self.assertRaises(InvalidName, parse_address, text)


class SpecialRangeTests(SynchronousTestCase):
    """Which addresses are not "a host out there"."""

    def test_special_addresses_are_known_with_their_narrowest_range(self) -> None:
        """One example of each."""
        for text, network in [
            ("0.0.0.0", "0.0.0.0/8"),
            ("127.255.0.1", "127.0.0.0/8"),
            ("169.254.1.1", "169.254.0.0/16"),
            ("169.254.169.254", "169.254.169.254/32"),
            ("100.100.100.200", "100.100.100.200/32"),
            ("224.0.0.1", "224.0.0.0/4"),
            ("250.0.0.1", "240.0.0.0/4"),
            ("255.255.255.255", "255.255.255.255/32"),
            ("::", "::/128"),
            ("::1", "::1/128"),
            ("::127.0.0.1", "::/96"),
            ("::ffff:127.0.0.1", "127.0.0.0/8"),
            ("::ffff:0:127.0.0.1", "::ffff:0:0:0/96"),
            ("64:ff9b::127.0.0.1", "64:ff9b::7f00:1/128"),
            ("64:ff9b:1::10.0.0.1", "64:ff9b:1::/48"),
            ("2002:7f00:1::", "2002:7f00:1::/128"),
            ("2001:0:1::1", "2001::/32"),
            ("2001:db8::5efe:127.0.0.1", "2001:db8::5efe:7f00:1/128"),
            ("2001:db8::200:5efe:169.254.169.254", "2001:db8::200:5efe:a9fe:a9fe/128"),
            ("fe80::1", "fe80::/10"),
            ("ff02::1", "ff00::/8"),
            ("fd00:ec2::254", "fd00:ec2::254/128"),
        ]:
            found = special_range(ip_address(text))
            self.assertIsNotNone(found, text)
            assert found is not None
            self.assertEqual(str(found.network), network, text)

    def test_ordinary_addresses_are_not_special(self) -> None:
        """Private networks are what rtunnel is for, through a translator too."""
        for text in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "128.0.0.1",
            "223.255.255.255",
            "fd00::1",
            "2001:db8::1",
            "2600::1",
            "64:ff9b::10.0.0.1",
            "2002:0a00:1::",
            "::ffff:10.0.0.1",
        ]:
            self.assertIsNone(special_range(ip_address(text)), text)

    @settings(deadline=None, max_examples=100)
    @given(st.ip_addresses(v=4))
    def test_mapped_form_is_as_special_as_the_address(
        self, address: IPv4Address
    ) -> None:
        """The kernel connects to the IPv4 address."""
        mapped = IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
        self.assertEqual(unmapped(mapped), address)
        self.assertEqual(special_range(mapped), special_range(address))
