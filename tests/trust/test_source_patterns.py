"""The ``from=`` option: addresses, networks, wildcards and negation."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.trust.source_patterns import SourcePatterns
from rtunnel.wire.source_address import parse_address


class SourcePatternsTests(SynchronousTestCase):
    """What OpenSSH would let in, from addresses."""

    def lets_in(self, patterns: str, *addresses: str) -> list[bool]:
        """The verdict on each address."""
        parsed = SourcePatterns.parse(patterns)
        return [parsed.match(parse_address(address)) for address in addresses]

    def test_one_matching_pattern_is_enough(self) -> None:
        """Addresses and networks of both families."""
        self.assertEqual(
            self.lets_in(
                "192.0.2.7,10.0.0.0/8,2001:db8::/32",
                *("192.0.2.7", "10.1.2.3", "2001:db8::1", "192.0.2.8", "::1"),
            ),
            [True, True, True, False, False],
        )

    def test_wildcards_match_the_address_as_text(self) -> None:
        """``*`` is any run of characters, ``?`` is one; all of the text counts."""
        self.assertEqual(
            self.lets_in("10.1.*", "10.1.2.3", "10.11.2.3", "110.1.2.3"),
            [True, False, False],
        )
        self.assertEqual(
            self.lets_in("192.0.2.?", "192.0.2.7", "192.0.2.77"), [True, False]
        )
        self.assertEqual(
            self.lets_in("2001:DB8:*", "2001:db8::1", "2001:db9::1"), [True, False]
        )
        self.assertEqual(self.lets_in("*", "10.1.2.3", "::1"), [True, True])

    def test_a_run_of_stars_is_one_star(self) -> None:
        """Else matching a hundred of them would take for ever."""
        self.assertEqual(
            SourcePatterns.parse("1" + "*" * 100), SourcePatterns.parse("1*")
        )

    def test_a_dot_is_a_dot(self) -> None:
        """Patterns are not regular expressions."""
        self.assertEqual(self.lets_in("10.1.2.*", "10.112.3.4"), [False])

    def test_a_negated_match_decides(self) -> None:
        """Wherever it stands in the list."""
        for patterns in ("!10.0.0.1,10.0.0.0/8", "10.0.0.0/8,!10.0.0.1", "*,!10.0.0.1"):
            self.assertEqual(
                self.lets_in(patterns, "10.0.0.1", "10.0.0.2"), [False, True], patterns
            )

    def test_negation_alone_lets_nobody_in(self) -> None:
        """As for sshd, some other pattern has to match."""
        self.assertEqual(self.lets_in("!10.0.0.1", "10.0.0.1", "10.0.0.2"), [False] * 2)

    def test_an_ipv4_address_inside_ipv6_is_that_ipv4_address(self) -> None:
        """Neither an allowance nor a refusal is got around that way."""
        self.assertEqual(
            self.lets_in("10.*,!10.0.0.1", "::ffff:10.0.0.2", "::ffff:10.0.0.1"),
            [True, False],
        )

    def test_what_cannot_be_honoured_is_refused(self) -> None:
        """Host names, which nobody looks up, and nonsense."""
        for text in (
            "",
            "10.0.0.1,",
            "!",
            "example.com",
            "*.example.com",
            "!evil.example.com,*",
            "10.0.0.1/8",
            "10.0.0.*/8",
            "10.0.0.1, 10.0.0.2",
            "cafe",
            "[::1]",
        ):
            with self.assertRaises(ValueError):
                SourcePatterns.parse(text)

    @given(st.text("0123456789abcdef.:*?!/,", max_size=30), st.ip_addresses())
    @settings(deadline=None, max_examples=200)
    def test_any_pattern_has_a_verdict_or_is_refused(
        self, text: str, address: object
    ) -> None:
        """And a refusing pattern added never lets anybody in."""
        try:
            patterns = SourcePatterns.parse(text)
        except ValueError:
            return
        source = parse_address(str(address))
        narrower = SourcePatterns.parse(f"{text},!{source}")
        patterns.match(source)
        self.assertFalse(narrower.match(source))
