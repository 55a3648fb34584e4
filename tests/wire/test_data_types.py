"""RFC 4251's data types: read back as written, and never read past the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ProtocolError
from rtunnel.wire import data_types
from rtunnel.wire.data_types import Reader

modest = settings(deadline=None, max_examples=100)


class EncodingTests(SynchronousTestCase):
    """What is written is what RFC 4251 section 5 shows."""

    def test_the_mpint_examples_of_the_rfc(self) -> None:
        """RFC 4251 section 5 gives these numbers and their bytes."""
        for number, encoded in (
            (0, "00000000"),
            (0x9A378F9B2E332A7, "0000000809a378f9b2e332a7"),
            (0x80, "000000020080"),
        ):
            self.assertEqual(data_types.mpint(number).hex(), encoded)
            self.assertEqual(Reader(bytes.fromhex(encoded)).mpint(), number)

    def test_the_name_list_examples_of_the_rfc(self) -> None:
        """RFC 4251 section 5 gives these lists and their bytes."""
        for names, encoded in (
            ((), "00000000"),
            ((b"zlib",), "000000047a6c6962"),
            ((b"zlib", b"none"), "000000097a6c69622c6e6f6e65"),
        ):
            self.assertEqual(data_types.name_list(names).hex(), encoded)
            self.assertEqual(Reader(bytes.fromhex(encoded)).name_list(), names)

    @given(
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**4096),
        st.booleans(),
        st.binary(),
        st.text(st.characters(codec="utf-8")),
        st.lists(st.from_regex(rb"[a-z0-9@.-]+", fullmatch=True)),
    )
    @modest
    def test_all_types_are_read_back_as_written(
        self,
        small: int,
        large: int,
        huge: int,
        flag: bool,
        data: bytes,
        words: str,
        names: list[bytes],
    ) -> None:
        """One message with a field of each type comes back field by field."""
        message = (
            data_types.uint32(small)
            + data_types.uint64(large)
            + data_types.mpint(huge)
            + data_types.boolean(flag)
            + data_types.string(data)
            + data_types.text(words)
            + data_types.name_list(names)
        )
        reader = Reader(message)
        self.assertEqual(reader.uint32(), small)
        self.assertEqual(reader.uint64(), large)
        self.assertEqual(reader.mpint(), huge)
        self.assertIs(reader.boolean(), flag)
        self.assertEqual(reader.string(), data)
        self.assertEqual(reader.text(), words)
        self.assertEqual(reader.name_list(), tuple(names))
        reader.end()


class ReaderTests(SynchronousTestCase):
    """Reading ends in a value or a ProtocolError."""

    def test_any_byte_but_zero_is_true(self) -> None:
        """RFC 4251: all non-zero values MUST be interpreted as TRUE."""
        self.assertIs(Reader(b"\x00").boolean(), False)
        self.assertIs(Reader(b"\x01").boolean(), True)
        self.assertIs(Reader(b"\xff").boolean(), True)

    def test_reading_begins_at_the_offset(self) -> None:
        """A message number in front of the fields can be passed over."""
        reader = Reader(b"\x5a\x00\x00\x00\x07", 1)
        self.assertEqual(reader.remaining, 4)
        self.assertEqual(reader.uint32(), 7)

    def test_rest_is_what_was_not_read(self) -> None:
        """``rest`` takes everything that is left, which may be nothing."""
        reader = Reader(b"\x01abc")
        reader.byte()
        self.assertEqual(reader.rest(), b"abc")
        self.assertEqual(reader.rest(), b"")

    def test_a_string_longer_than_the_message_is_refused(self) -> None:
        """A length that lies does not reach past the end."""
        with self.assertRaises(ProtocolError):
            Reader(b"\xff\xff\xff\xffabc").string()

    def test_a_field_over_its_limit_is_refused(self) -> None:
        """The limit is in bytes, and is itself allowed."""
        message = data_types.string(b"12345")
        self.assertEqual(Reader(message).string(5), b"12345")
        for read in (Reader.string, Reader.text, Reader.name_list, Reader.mpint):
            with self.assertRaises(ProtocolError):
                read(Reader(message), 4)

    def test_text_has_to_be_utf_8(self) -> None:
        """Other bytes are a protocol error, not a UnicodeDecodeError."""
        with self.assertRaises(ProtocolError):
            Reader(data_types.string(b"\xff")).text()

    def test_a_negative_number_is_refused(self) -> None:
        """No field that we read can be negative."""
        with self.assertRaises(ProtocolError):
            Reader(data_types.string(b"\x80")).mpint()

    def test_bytes_left_at_the_end_are_refused(self) -> None:
        """``end`` says that a message has nothing behind its last field."""
        reader = Reader(b"\x00\x00")
        reader.byte()
        with self.assertRaises(ProtocolError):
            reader.end()
        reader.byte()
        reader.end()

    @given(
        st.binary(max_size=64),
        st.lists(
            st.sampled_from(
                [
                    Reader.byte,
                    Reader.boolean,
                    Reader.uint32,
                    Reader.uint64,
                    Reader.string,
                    Reader.text,
                    Reader.name_list,
                    Reader.mpint,
                    Reader.rest,
                    Reader.end,
                ]
            ),
            max_size=8,
        ),
    )
    @modest
    def test_random_bytes_raise_nothing_but_protocol_errors(
        self, data: bytes, reads: list[Callable[[Reader], object]]
    ) -> None:
        """Whatever is asked of whatever bytes, what is left never grows."""
        reader = Reader(data)
        before = reader.remaining
        for read in reads:
            with contextlib.suppress(ProtocolError):
                read(reader)
            self.assertTrue(0 <= reader.remaining <= before)
            before = reader.remaining
