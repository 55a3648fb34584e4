"""Tests for :mod:`rtunnel.wire.version_line`."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED, ProtocolError
from rtunnel.wire.version_line import (
    MAX_LINES_BEFORE,
    MAX_VERSION_LINE,
    VersionReader,
)


class VersionReaderTests(SynchronousTestCase):
    """:class:`VersionReader`."""

    def refused(self, data: bytes, *, from_server: bool) -> None:
        """Assert that a peer's first bytes are refused."""
        with self.assertRaises(ProtocolError) as caught:
            VersionReader(from_server=from_server).feed(data)
        self.assertEqual(
            caught.exception.reason_code, DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED
        )

    @settings(deadline=None, max_examples=150)
    @given(st.lists(st.integers(1, 60), max_size=20), st.booleans())
    def test_segments_do_not_matter(self, cuts: list[int], bare: bool) -> None:
        """The line is found wherever it is cut, and what follows is not touched."""
        end = b"\n" if bare else b"\r\n"
        stream = b"SSH-2.0-OpenSSH_9.2p1 Debian-2" + end + b"\x00\x00\nSSH-2.0-x\n"
        reader = VersionReader(from_server=False)
        rest = None
        while rest is None:
            cut = cuts.pop() if cuts else len(stream)
            rest = reader.feed(stream[:cut])
            stream = stream[cut:]
        self.assertEqual(reader.line, b"SSH-2.0-OpenSSH_9.2p1 Debian-2")
        self.assertEqual(rest + stream, b"\x00\x00\nSSH-2.0-x\n")

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=400), st.booleans())
    def test_garbage_raises_nothing_but_protocol_errors(
        self, data: bytes, from_server: bool
    ) -> None:
        """Whatever the first bytes are."""
        with contextlib.suppress(ProtocolError):
            VersionReader(from_server=from_server).feed(data)

    def test_a_line_is_255_bytes_at_most(self) -> None:
        """Its end counted, be it there already or not."""
        longest = b"SSH-2.0-" + b"x" * (MAX_VERSION_LINE - 10)
        reader = VersionReader(from_server=False)
        self.assertEqual(reader.feed(longest + b"\r\n"), b"")
        self.refused(longest + b"x\r\n", from_server=False)
        self.refused(longest + b"xx", from_server=False)

    def test_a_client_says_nothing_before_its_version(self) -> None:
        """It is refused as soon as its bytes can be no version line."""
        for data in (b"G", b"GET / HTTP/1.1\r\n", b"\r\n", b"SSX"):
            self.refused(data, from_server=False)

    def test_a_server_may_say_a_few_lines_before(self) -> None:
        """They are passed over, but not without end, nor at any length."""
        reader = VersionReader(from_server=True)
        lines = b"welcome\r\n" * MAX_LINES_BEFORE
        self.assertEqual(reader.feed(lines + b"SSH-2.0-x\r\nrest"), b"rest")
        self.refused(lines + b"one more\r\nSSH-2.0-x\r\n", from_server=True)
        self.refused(b"x" * MAX_VERSION_LINE, from_server=True)

    def test_lines_are_counted_when_they_end(self) -> None:
        """A line that comes byte by byte is one line."""
        reader = VersionReader(from_server=True)
        for byte in b"a line from a server that is slow\r\n":
            self.assertIsNone(reader.feed(bytes([byte])))
        self.assertEqual(reader.feed(b"SSH-2.0-x\n"), b"")

    def test_only_ssh_2_is_spoken(self) -> None:
        """A server that also speaks SSH 1 says 1.99; a client never does."""
        VersionReader(from_server=True).feed(b"SSH-1.99-x\r\n")
        self.refused(b"SSH-1.99-x\r\n", from_server=False)
        for data in (b"SSH-1.5-x\r\n", b"SSH-3.0-x\r\n", b"SSH-2.0\r\n"):
            self.refused(data, from_server=True)

    def test_a_version_line_is_printable(self) -> None:
        """It goes into logs and into the exchange hash."""
        for byte in (b"\x00", b"\x1b", b"\xff", b"\r"):
            self.refused(b"SSH-2.0-a" + byte + b"b\r\n", from_server=True)
