"""Addresses to dial: :mod:`rtunnel.config.addresses`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.config.addresses import Address
from rtunnel.errors import InvalidName

HOSTS = (
    st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True)
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6, network="2000::/3").map(str)
)


class AddressTests(SynchronousTestCase):
    """``host:port`` in its spellings."""

    def test_spellings(self) -> None:
        """Ports have defaults, names lose case and trailing dot, IPv6 its brackets."""
        for text, address in [
            ("lb.example.com", Address("lb.example.com", 3023)),
            ("LB.Example.com.:22", Address("lb.example.com", 22)),
            ("10.0.0.1:65535", Address("10.0.0.1", 65535)),
            ("[::1]", Address("::1", 3023)),
            ("[2001:DB8:0::1]:22", Address("2001:db8::1", 22)),
            ("tls:lb", Address("lb", 443, tls=True)),
            ("tls:[::1]:8443", Address("::1", 8443, tls=True)),
        ]:
            self.assertEqual(Address.parse(text), address, text)

    def test_malformed_texts_are_refused(self) -> None:
        """Everything else is InvalidName, and the sentence shows the text."""
        for text in [
            "",
            ":3023",
            "lb:",
            "lb:ssh",
            "lb:0",
            "lb:65536",
            "lb:+22",
            "lb:٢٢",
            "::1",
            "::1:22",
            "[::1",
            "[lb]:22",
            "[10.0.0.1]:22",
            "[fe80::1%eth0]:22",
            "tls:",
            "tcp:lb:22",
            "ssh://lb:22",
            "0x7f.1:22",
            "l b:22",
            "lb:22\n",
        ]:
            error = self.assertRaises(InvalidName, Address.parse, text)
            self.assertTrue(str(error).isprintable())

    def test_bare_ipv6_is_told_about_brackets(self) -> None:
        """The likeliest mistake gets its own hint."""
        error = self.assertRaises(InvalidName, Address.parse, "2001:db8::1:3023")
        self.assertIn("brackets", str(error))

    @settings(deadline=None, max_examples=100)
    @given(HOSTS, st.integers(1, 65535), st.booleans())
    def test_text_of_an_address_reads_back_as_it_was(
        self, host: str, port: int, tls: bool
    ) -> None:
        """``str()`` and ``parse()`` are inverse."""
        address = Address(host, port, tls)
        self.assertEqual(Address.parse(str(address)), address)
