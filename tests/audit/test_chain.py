"""The links between audit lines."""

from __future__ import annotations

import hashlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.chain import ORIGIN, last_link, link, linked, split_link
from rtunnel.audit.events import ProxyStarted, event_line
from rtunnel.audit.fields import FIELDS

LINE = event_line(ProxyStarted(proxy="p-1"), 0).encode()


class ChainTests(SynchronousTestCase):
    """What a line looks like, and how it is found again."""

    def test_the_value_can_be_computed_by_anybody(self) -> None:
        """With sha256sum, from what docs/operations.md says."""
        line, value = linked(LINE, ORIGIN)
        before, _, rest = line.partition(b', "chain": "')
        self.assertEqual(rest, value.encode() + b'"}\n')
        expected = hashlib.sha256(b"0" * 64 + before).hexdigest()
        self.assertEqual(value, expected)

    def test_it_is_the_last_field(self) -> None:
        """And the line is JSON still, with every field of every line."""
        line, value = linked(LINE, ORIGIN)
        loaded = json.loads(line)
        self.assertEqual(tuple(loaded), FIELDS)
        self.assertEqual(loaded["chain"], value)

    def test_a_line_is_taken_apart_again(self) -> None:
        """And one without a value, or with more behind it, is not."""
        line, value = linked(LINE, ORIGIN)
        self.assertEqual(split_link(line), (LINE.removesuffix(b"}\n"), value))
        for other in (LINE, line[:-1], line + b"x\n", line.upper(), b""):
            self.assertIsNone(split_link(other), other)

    def test_what_lies_between_two_lines_counts(self) -> None:
        """Half a line that a crash left."""
        _, value = linked(LINE, ORIGIN, b'{"tim\n')
        self.assertEqual(value, link(ORIGIN, b'{"tim\n' + LINE[:-2]))
        self.assertNotEqual(value, linked(LINE, ORIGIN)[1])

    @settings(deadline=None, max_examples=100)
    @given(st.integers(0, 4), st.binary(max_size=300))
    def test_the_last_one_is_found(self, count: int, rest: bytes) -> None:
        """Whatever follows it, and from anywhere within the lines before."""
        data, value = b"", ORIGIN
        for _ in range(count):
            line, value = linked(LINE, value)
            data += line
        if count:
            self.assertEqual(last_link(data + rest), (value, rest))
            self.assertEqual(
                last_link((data + rest)[-len(rest + line) + 9 :])[0], value
            )
        else:
            self.assertEqual(last_link(rest), (None, b""))

    def test_no_field_looks_like_a_link(self) -> None:
        """A value that ends a line cannot be within one: JSON has no bare newline."""
        spoken = f'", "chain": "{"a" * 64}"}}\n'
        line = event_line(ProxyStarted(proxy=spoken), 0).encode()
        whole, value = linked(line, ORIGIN)
        self.assertEqual(last_link(whole), (value, b""))
        self.assertEqual(split_link(whole), (line[:-2], value))
