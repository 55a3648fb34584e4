"""Allow lists: :mod:`rtunnel.trust.targets`."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import InvalidName
from rtunnel.trust.hosts import IPAddress
from rtunnel.trust.targets import TargetPattern, TargetPatterns
from tests.trust.test_hosts import loose_spellings

SPECIAL_IPV4 = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "169.254.169.254/32",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
]
SPECIAL_IPV6 = ["::/128", "::1/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128"]

#: Everything that is wider than a special range, names and all.
WILDCARDS = TargetPatterns.parse(
    [
        "*:*",
        "*:22",
        "*.com:*",
        "rebind.example.com:*",
        "0.0.0.0/0:*",
        "0.0.0.0/7:*",
        "126.0.0.0/7:*",
        "169.254.0.0/15:*",
        "168.0.0.0/5:*",
        "192.0.0.0/2:*",
        "100.64.0.0/10:*",
        "[::/0]:*",
        "[::/8]:*",
        "[fc00::/6]:*",
        "[fe00::/7]:*",
        "[fd00::/8]:*",
        "[::ffff:0:0/96]:*",
        "[64:ff9b::/96]:*",
        "[2002::/16]:*",
    ]
)


def patterns(*texts: str) -> TargetPatterns:
    """An allow list."""
    return TargetPatterns.parse(texts)


def within(network: str) -> st.SearchStrategy[IPAddress]:
    """Addresses of a network."""
    return st.ip_addresses(network=network)


def translated(address: IPv4Address, prefix: int) -> list[IPv6Address]:
    """The IPv6 addresses that some translator takes for ``address``.

    :param prefix: 64 bits for the forms that have a prefix of their own.
    """
    number = int(address)
    return [
        IPv6Address(0xFFFF << 32 | number),  # IPv4-mapped
        IPv6Address(number),  # IPv4-compatible
        IPv6Address(0xFFFF << 48 | number),  # IPv4-translated
        IPv6Address(0x64FF9B << 96 | number),  # NAT64
        IPv6Address(0x64FF9B0001 << 80 | number),  # NAT64, local use
        IPv6Address(0x2002 << 112 | number << 80 | prefix),  # 6to4
        IPv6Address(0x20010000 << 96 | number ^ 0xFFFFFFFF),  # Teredo
        IPv6Address(prefix << 64 | 0x5EFE << 32 | number),  # ISATAP
        IPv6Address(prefix << 64 | 0x02005EFE << 32 | number),
    ]


def spellings(address: IPAddress) -> list[str]:
    """Texts that mean ``address``."""
    texts = [str(address), f"{address}.", address.exploded]
    if isinstance(address, IPv6Address):
        texts += [str(address).upper(), address.exploded.upper()]
        quad = IPv4Address(int(address) & 0xFFFFFFFF)
        texts.append(f"{address.exploded[:29]}:{quad}")
    return texts


class PatternTests(SynchronousTestCase):
    """What a pattern may be."""

    def test_forms(self) -> None:
        """Each form of the documentation."""
        for text, host, low, high in [
            ("host:22", "host", 22, 22),
            ("HOST.Lan.:22", "host.lan", 22, 22),
            ("*:22", "*", 22, 22),
            ("*.LAN:22", "*.lan", 22, 22),
            ("host:*", "host", 1, 65535),
            ("host:8000-8100", "host", 8000, 8100),
            ("10.0.0.0/8:22", ipaddress.ip_network("10.0.0.0/8"), 22, 22),
            ("10.1.2.3:22", ipaddress.ip_network("10.1.2.3/32"), 22, 22),
            ("[::1]:22", ipaddress.ip_network("::1/128"), 22, 22),
            ("[FD00::/8]:22", ipaddress.ip_network("fd00::/8"), 22, 22),
            ("[::ffff:10.0.0.0/104]:1", ipaddress.ip_network("10.0.0.0/8"), 1, 1),
            ("[::/0]:1", ipaddress.ip_network("::/0"), 1, 1),
        ]:
            self.assertEqual(
                TargetPattern.parse(text), TargetPattern(text, host, low, high)
            )

    def test_malformed_patterns_are_refused(self) -> None:
        """And the sentence shows the text."""
        for text in [
            "",
            ":",
            "host",
            "host:",
            ":22",
            "host:0",
            "host:65536",
            "host:ssh",
            "host:22-",
            "host:-22",
            "host:9-1",
            "host:1-2-3",
            "host: 22",
            "host:٢٢",
            "ho st:22",
            "*lan:22",
            "web*:22",
            "web.*:22",
            "**:22",
            "*.:22",
            "*.*.lan:22",
            "*.10.0.0.1:22",
            "10.0.0.*:22",
            "10.0.0.1/8:22",
            "10.0.0.0/33:22",
            "10.0.0.0/:22",
            "10.0.0.0/255.0.0.0:22",
            "10.0.0.0/+8:22",
            "10.0.0.0/٨:22",
            "10.0/16:22",
            "127.1:22",
            "0x7f000001:22",
            "::1:22",
            "fd00::/8:22",
            "[fd00::1/8]:22",
            "[fe80::1%eth0]:22",
            "[::1/129]:22",
            "[10.0.0.0/8]:22",
            "[host]:22",
            "[]:22",
            "[::1:22",
            "::1]:22",
            "[::1]",
        ]:
            error = self.assertRaises(InvalidName, TargetPattern.parse, text)
            self.assertTrue(str(error).isprintable())
            self.assertIn(repr(text), str(error))

    @settings(deadline=None, max_examples=200)
    @given(st.text(alphabet="0123456789abcx*.:/[]-%", max_size=20) | st.text())
    def test_any_text_is_a_pattern_or_refused(self, text: str) -> None:
        """Nothing but InvalidName."""
        try:
            pattern = TargetPattern.parse(text)
        except InvalidName:
            return
        self.assertEqual(pattern.text, text)

    def test_list_gives_back_what_was_written(self) -> None:
        """For status pages and for another config file."""
        texts = ["Host:22", "10.0.0.0/8:*"]
        self.assertEqual(list(patterns(*texts)), texts)


class MatchesTests(SynchronousTestCase):
    """The text that was asked for, compared without resolving it."""

    def assert_matches(self, pattern: str, port: int, yes: str, no: str) -> None:
        """Check which hosts, separated by blanks, a pattern covers."""
        listed = patterns(pattern)
        for host in yes.split():
            self.assertTrue(listed.matches(host, port), f"{pattern} {host}")
        for host in no.split():
            self.assertFalse(listed.matches(host, port), f"{pattern} {host}")

    def test_names(self) -> None:
        """Case and trailing dot do not matter; a suffix covers any depth, not
        itself."""
        self.assert_matches(
            "web1.lan:22", 22, "web1.lan WEB1.LAN. ", "web1 lan 1.2.3.4"
        )
        self.assert_matches("*.lan:22", 22, "a.lan A.B.lan", "lan alan a.lan.x 1.2.3.4")
        self.assert_matches("*:22", 22, "web1 a.b 1.2.3.4 ::1 127.0.0.1", "")

    def test_addresses(self) -> None:
        """An address in any strict spelling, never a name that may resolve to it."""
        self.assert_matches(
            "10.0.0.0/8:22",
            22,
            "10.1.2.3 10.1.2.3. ::ffff:10.1.2.3 ::FFFF:a01:203",
            "11.0.0.1 web1 10.example ::1 64:ff9b::10.1.2.3 fd00::1",
        )
        self.assert_matches("[fd00::/8]:22", 22, "fd00::1 FDFF:0:0::1", "fe00::1 web1")
        self.assert_matches("10.1.2.3:22", 22, "10.1.2.3 ::ffff:10.1.2.3", "10.1.2.4")

    def test_ports(self) -> None:
        """One, a range with both ends, or all."""
        for text, ports in [
            ("h:22", [22]),
            ("h:8000-8002", [8000, 8001, 8002]),
            ("h:*", [1, 22, 7999, 8000, 8001, 8002, 8003, 65535]),
        ]:
            tried = [1, 22, 7999, 8000, 8001, 8002, 8003, 65535]
            listed = [port for port in tried if patterns(text).matches("h", port)]
            self.assertEqual(listed, ports)

    def test_empty_host_is_localhost(self) -> None:
        """The agent's own host."""
        self.assertTrue(patterns("localhost:22").matches("", 22))
        self.assertFalse(patterns("web1:22").matches("", 22))

    def test_malformed_host_is_refused_not_compared(self) -> None:
        """Even where ``*`` would cover it."""
        for host in ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "a b", "*"]:
            self.assertRaises(InvalidName, patterns("*:*").matches, host, 22)

    def test_empty_list_matches_nothing(self) -> None:
        """Default deny."""
        self.assertFalse(patterns().matches("web1", 22))


class AllowsTests(SynchronousTestCase):
    """What whoever dials asks, before and after resolving."""

    def test_listed_name_may_be_any_ordinary_address(self) -> None:
        """The name is what the operator listed."""
        listed = patterns("web1:22")
        self.assertTrue(listed.allows_name("WEB1", 22))
        self.assertTrue(listed.allows_address("web1", "10.0.0.5", 22))
        self.assertFalse(listed.allows_name("web2", 22))
        self.assertFalse(listed.allows_name("web1", 23))
        self.assertFalse(listed.allows_address("web2", "10.0.0.5", 22))
        self.assertFalse(listed.allows_address("web1", "10.0.0.5", 23))

    def test_name_may_resolve_into_a_listed_network(self) -> None:
        """Only the address can tell, so the name passes the first question."""
        listed = patterns("10.0.0.0/8:22")
        self.assertTrue(listed.allows_name("web1", 22))
        self.assertFalse(listed.allows_name("web1", 23))
        self.assertTrue(listed.allows_address("web1", "10.0.0.5", 22))
        self.assertFalse(listed.allows_address("web1", "11.0.0.5", 22))

    def test_literal_gets_the_final_answer_at_once(self) -> None:
        """There is nothing to resolve."""
        listed = patterns("10.0.0.0/8:22", "[fd00::/8]:22")
        self.assertTrue(listed.allows_name("10.0.0.5", 22))
        self.assertTrue(listed.allows_name("fd00::5", 22))
        self.assertFalse(listed.allows_name("11.0.0.5", 22))
        self.assertFalse(patterns("*:22").allows_name("127.0.0.1", 22))

    def test_literal_cannot_become_another_address(self) -> None:
        """Whatever a resolver made of it."""
        verdict = patterns("*:22").allows_address("10.0.0.5", "10.0.0.6", 22)
        self.assertEqual(
            verdict.reason, "10.0.0.6 is not the 10.0.0.5 that was asked for"
        )
        self.assertTrue(
            patterns("*:22").allows_address("::ffff:10.0.0.5", "10.0.0.5", 22)
        )

    def test_refusals_say_why(self) -> None:
        """One sentence that a person can act on."""
        listed = patterns("*:22")
        for verdict, reason in [
            (listed.allows_name("web1", 80), "web1:80 is not on the allow list"),
            (
                listed.allows_name("fd00::1", 80),
                "[fd00::1]:80 is not on the allow list",
            ),
            (
                listed.allows_name("2130706433", 22),
                "'2130706433' looks like an IPv4 address in a short, octal, decimal or "
                "hexadecimal spelling; write it as four decimal numbers",
            ),
            (
                listed.allows_address("web1", "169.254.169.254", 22),
                "web1 is 169.254.169.254, which is a cloud metadata address: a "
                "wildcard or a name does not allow it, it must be listed by address",
            ),
            (
                listed.allows_name("::1", 22),
                "::1 is a loopback address: a wildcard or a name does not allow it, it "
                "must be listed by address",
            ),
            (
                listed.allows_address("web1", "fe80::1%eth0", 22),
                "'fe80::1%eth0' is not an IP address",
            ),
        ]:
            self.assertFalse(verdict)
            self.assertEqual(verdict.reason, reason)
        self.assertEqual(listed.allows_name("web1", 22).reason, "")

    def test_own_host_needs_localhost_listed(self) -> None:
        """``localhost:PORT`` covers the agent's own host and loopback, no more."""
        listed = patterns("localhost:22", "*:80")
        for host in ["localhost", "", "LOCALHOST."]:
            self.assertTrue(listed.allows_name(host, 22))
            for address in ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"]:
                self.assertTrue(listed.allows_address(host, address, 22), address)
                self.assertFalse(listed.allows_address(host, address, 80), address)
            for address in ["169.254.169.254", "0.0.0.0", "::", "fe80::1"]:
                self.assertFalse(listed.allows_address(host, address, 22), address)
        for host in ["web1", "127.0.0.1", "::1", "x.localhost"]:
            self.assertFalse(listed.allows_name(host, 22), host)
            self.assertFalse(listed.allows_address(host, "127.0.0.1", 22), host)

    def test_special_address_is_allowed_when_listed_closely_enough(self) -> None:
        """By itself, or by a network no wider than its narrowest special range."""
        for pattern, address, allowed in [
            ("127.0.0.1:22", "127.0.0.1", True),
            ("127.0.0.0/8:22", "127.0.0.1", True),
            ("[::ffff:127.0.0.0/104]:22", "127.0.0.1", True),
            ("127.0.0.1:22", "::ffff:127.0.0.1", True),
            ("127.0.0.1:22", "127.0.0.2", False),
            ("126.0.0.0/7:22", "127.0.0.1", False),
            ("0.0.0.0/0:22", "127.0.0.1", False),
            ("[::1]:22", "::1", True),
            ("[::1]:22", "127.0.0.1", False),
            ("127.0.0.1:22", "::1", False),
            ("[::/127]:22", "::1", False),
            ("[::/0]:22", "::1", False),
            ("169.254.0.0/16:22", "169.254.7.7", True),
            ("169.254.0.0/16:22", "169.254.169.254", False),
            ("169.254.169.254:22", "169.254.169.254", True),
            ("127.0.0.1:22", "64:ff9b::127.0.0.1", False),
            ("[64:ff9b::/96]:22", "64:ff9b::127.0.0.1", False),
            ("[64:ff9b::7f00:1]:22", "64:ff9b::127.0.0.1", True),
            ("[64:ff9b::/96]:22", "64:ff9b::10.0.0.1", True),
            ("10.0.0.0/8:22", "64:ff9b::10.0.0.1", False),
            ("[64:ff9b:1::/48]:22", "64:ff9b:1::10.0.0.1", True),
        ]:
            listed = patterns(pattern)
            case = f"{pattern} {address}"
            self.assertEqual(bool(listed.allows_name(address, 22)), allowed, case)
            verdict = listed.allows_address("web1", address, 22)
            self.assertEqual(bool(verdict), allowed, case)

    def test_pinned_address_may_be_special_but_must_be_listed(self) -> None:
        """The operator's own resolve table says what the name is; allow has the last
        word."""
        listed = patterns("router:22")
        self.assertTrue(listed.allows_address("router", "127.0.0.1", 22, pinned=True))
        self.assertFalse(listed.allows_address("router", "127.0.0.1", 22))
        self.assertFalse(listed.allows_address("router", "127.0.0.1", 23, pinned=True))
        self.assertFalse(listed.allows_address("other", "127.0.0.1", 22, pinned=True))
        literal = patterns("*:22").allows_address
        self.assertFalse(literal("127.0.0.1", "127.0.0.1", 22, pinned=True))


class WildcardTests(SynchronousTestCase):
    """No wildcard, wide network or name ever covers a special address."""

    def assert_refused(self, address: IPAddress, port: int) -> None:
        """Check the address in every spelling, and behind a name."""
        for text in spellings(address):
            verdict = WILDCARDS.allows_name(text, port)
            self.assertFalse(verdict, text)
            self.assertTrue(verdict.reason)
            for host in [text, "rebind.example.com", "localhost", ""]:
                self.assertFalse(WILDCARDS.allows_address(host, text, port), text)
                self.assertFalse(
                    WILDCARDS.allows_address(host, str(address), port), text
                )

    @settings(deadline=None, max_examples=100)
    @given(
        st.sampled_from(SPECIAL_IPV4 + SPECIAL_IPV6).flatmap(within),
        st.integers(1, 65535),
    )
    def test_special_address(self, address: IPAddress, port: int) -> None:
        """As it is."""
        self.assert_refused(address, port)

    @settings(deadline=None, max_examples=100)
    @given(
        st.sampled_from(SPECIAL_IPV4).flatmap(within),
        st.integers(0, 2**64 - 1),
    )
    def test_special_ipv4_inside_ipv6(self, address: IPAddress, prefix: int) -> None:
        """In each form that a kernel or a translator takes for the IPv4 address."""
        assert isinstance(address, IPv4Address)
        for form in translated(address, prefix):
            self.assert_refused(form, 22)

    @settings(deadline=None, max_examples=100)
    @given(st.ip_addresses(v=4))
    def test_loose_ipv4_spelling(self, address: IPAddress) -> None:
        """Refused before anybody resolves it, special or not."""
        assert isinstance(address, IPv4Address)
        listed = patterns("*:*", f"{address}:*")
        for text in loose_spellings(address):
            self.assertFalse(listed.allows_name(text, 22), text)
            self.assertFalse(listed.allows_address(text, str(address), 22), text)

    @settings(deadline=None, max_examples=100)
    @given(st.ip_addresses(v=4, network="10.0.0.0/8"), st.integers(1, 65535))
    def test_ordinary_address_is_covered(self, address: IPAddress, port: int) -> None:
        """Else the tests above would prove nothing."""
        for text in spellings(address):
            self.assertTrue(WILDCARDS.allows_name(text, port))
        self.assertTrue(WILDCARDS.allows_address("web1", str(address), port))


TEXTS = st.sampled_from(
    [
        "*:22",
        "web1:22",
        "*.lan:*",
        "10.0.0.0/8:22",
        "localhost:22",
        "127.0.0.1:22",
        "[::1]:*",
        "169.254.0.0/16:80-90",
    ]
)
HOSTS = st.sampled_from(
    ["web1", "a.lan", "", "localhost", "10.1.2.3", "127.0.0.1", "::1", "127.1", "x y"]
)
ADDRESSES = st.sampled_from(
    ["10.1.2.3", "127.0.0.1", "::1", "169.254.1.1", "169.254.169.254", "8.8.8.8", "x"]
)


class ListTests(SynchronousTestCase):
    """Laws of any allow list."""

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(TEXTS, max_size=3),
        TEXTS,
        HOSTS,
        ADDRESSES,
        st.sampled_from([22, 80, 443]),
        st.booleans(),
    )
    def test_longer_list_never_allows_less(
        self,
        texts: list[str],
        extra: str,
        host: str,
        address: str,
        port: int,
        pinned: bool,
    ) -> None:
        """And what the address check allows, the name check has let through."""
        short, long = patterns(*texts), patterns(extra, *texts)
        before = short.allows_address(host, address, port, pinned)
        if before:
            self.assertTrue(long.allows_address(host, address, port, pinned))
            self.assertTrue(short.allows_name(host, port))
        if short.allows_name(host, port):
            self.assertTrue(long.allows_name(host, port))
        self.assertEqual(bool(before), before.reason == "")

    @settings(deadline=None, max_examples=50)
    @given(HOSTS, ADDRESSES, st.booleans())
    def test_empty_list_allows_nothing(
        self, host: str, address: str, pinned: bool
    ) -> None:
        """Default deny."""
        self.assertFalse(patterns().allows_name(host, 22))
        self.assertFalse(patterns().allows_address(host, address, 22, pinned))
