"""Addresses and networks that a certificate or key is bound to."""

from __future__ import annotations

import ipaddress

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.wire.source_address import (
    in_networks,
    parse_address,
    parse_network,
    parse_networks,
)


class SourceAddressTests(SynchronousTestCase):
    """OpenSSH's CIDR lists."""

    def holds(self, networks: str, address: str) -> bool:
        """Whether the list holds the address."""
        return in_networks(parse_address(address), parse_networks(networks))

    def test_a_list_holds_what_any_of_its_networks_holds(self) -> None:
        """Single addresses and networks, of both families."""
        networks = "192.0.2.7,10.0.0.0/8,2001:db8::/32,::1"
        for address in ("192.0.2.7", "10.255.0.1", "2001:db8:1::2", "::1"):
            self.assertTrue(self.holds(networks, address), address)
        for address in ("192.0.2.8", "11.0.0.1", "2001:db9::1", "::2"):
            self.assertFalse(self.holds(networks, address), address)

    def test_an_ipv4_address_inside_ipv6_is_that_ipv4_address(self) -> None:
        """As the source, as a listed address, and as a listed network."""
        self.assertTrue(self.holds("10.0.0.0/8", "::ffff:10.1.2.3"))
        self.assertTrue(self.holds("::ffff:10.1.2.3", "10.1.2.3"))
        self.assertTrue(self.holds("::ffff:10.0.0.0/104", "10.1.2.3"))
        self.assertFalse(self.holds("::ffff:10.0.0.0/104", "11.1.2.3"))
        self.assertFalse(self.holds("10.0.0.0/8", "::ffff:11.1.2.3"))

    def test_all_of_ipv6_does_not_hold_ipv4_nor_the_reverse(self) -> None:
        """The families are apart."""
        self.assertFalse(self.holds("::/0", "10.1.2.3"))
        self.assertFalse(self.holds("::/0", "::ffff:10.1.2.3"))
        self.assertFalse(self.holds("0.0.0.0/0", "2001:db8::1"))

    def test_the_scope_of_a_source_is_dropped(self) -> None:
        """What interface a link-local peer came in by is not in any list."""
        self.assertTrue(self.holds("fe80::/10", "fe80::1%eth0"))

    def test_malformed_networks_are_refused(self) -> None:
        """Among them what Python takes and OpenSSH does not."""
        for text in (
            "",
            "*",
            "localhost",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/0.255.255.255",
            "10.0.0",
            "010.0.0.1",
            " 10.0.0.1",
            "10.0.0.1\n",
            "!10.0.0.1",
            "fe80::1%eth0",
            "2001:db8::1/32",
        ):
            with self.assertRaises(ValueError):
                parse_network(text)

    def test_one_malformed_network_spoils_the_list(self) -> None:
        """A list that is only half understood lets nobody in."""
        for text in ("", ",", "10.0.0.0/8,", ",10.0.0.0/8", "10.0.0.0/8, ::1"):
            with self.assertRaises(ValueError):
                parse_networks(text)

    @given(st.ip_addresses(), st.ip_addresses(), st.data())
    @settings(deadline=None, max_examples=100)
    def test_a_network_holds_what_begins_with_its_bits(
        self,
        address: ipaddress.IPv4Address | ipaddress.IPv6Address,
        other: ipaddress.IPv4Address | ipaddress.IPv6Address,
        data: st.DataObject,
    ) -> None:
        """Of any length; and the other family never."""
        assume(all(str(parse_address(str(a))) == str(a) for a in (address, other)))
        length = data.draw(st.integers(0, address.max_prefixlen))
        network = ipaddress.ip_network((address, length), strict=False)
        self.assertTrue(self.holds(str(network), str(address)))
        shift = address.max_prefixlen - length
        self.assertIs(
            self.holds(str(network), str(other)),
            address.version == other.version
            and int(address) >> shift == int(other) >> shift,
        )
