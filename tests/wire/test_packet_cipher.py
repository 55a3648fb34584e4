"""Tests for :mod:`rtunnel.wire.packet_cipher`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ProtocolError
from rtunnel.wire.aes_gcm import AesGcm
from rtunnel.wire.chacha20_poly1305 import ChaCha20Poly1305
from rtunnel.wire.packet_cipher import (
    ClearCipher,
    PacketCipher,
    check_packet_length,
    join_body,
    padding_length,
)

CIPHERS: tuple[PacketCipher, ...] = (
    ClearCipher(),
    AesGcm(b"k" * 16, b"i" * 12),
    ChaCha20Poly1305(b"k" * 64),
)


class PaddingTests(SynchronousTestCase):
    """:func:`padding_length`."""

    @settings(deadline=None, max_examples=200)
    @given(st.sampled_from(CIPHERS), st.integers(1, 2**18))
    def test_fills_whole_blocks(self, cipher: PacketCipher, length: int) -> None:
        """Padding is 4 to 255 bytes, and no block more than is needed."""
        padding = padding_length(cipher, length)
        self.assertTrue(4 <= padding < 4 + cipher.block_size)
        check_packet_length(cipher, 1 + length + padding, 2**20)

    def test_counts_the_length_field_only_in_the_clear(self) -> None:
        """RFC 4253 section 6 aligns it too, AEAD and EtM ciphers do not."""
        self.assertEqual(padding_length(CIPHERS[0], 1), 10)
        self.assertEqual(padding_length(CIPHERS[1], 1), 14)
        self.assertEqual(padding_length(CIPHERS[2], 1), 6)


class PacketLengthTests(SynchronousTestCase):
    """:func:`check_packet_length`."""

    def test_refuses_more_than_the_limit(self) -> None:
        """The limit itself is allowed."""
        check_packet_length(CIPHERS[1], 32, 32)
        with self.assertRaises(ProtocolError):
            check_packet_length(CIPHERS[1], 48, 32)

    def test_refuses_less_than_a_packet_can_have(self) -> None:
        """Sixteen bytes with the length field, by RFC 4253 section 6."""
        check_packet_length(CIPHERS[0], 12, 100)
        with self.assertRaises(ProtocolError):
            check_packet_length(CIPHERS[0], 4, 100)
        with self.assertRaises(ProtocolError):
            check_packet_length(CIPHERS[1], 0, 100)

    def test_one_block_of_eight_is_enough_without_the_length_field(self) -> None:
        """OpenSSH sends such packets, USERAUTH_SUCCESS for one, under ChaCha20."""
        check_packet_length(CIPHERS[2], 8, 100)
        with self.assertRaises(ProtocolError):
            check_packet_length(CIPHERS[2], 0, 100)

    def test_refuses_what_is_not_in_whole_blocks(self) -> None:
        """Each cipher has its own blocks, and its own idea of where they begin."""
        with self.assertRaises(ProtocolError):
            check_packet_length(CIPHERS[0], 16, 100)
        with self.assertRaises(ProtocolError):
            check_packet_length(CIPHERS[1], 20, 100)


class ClearCipherTests(SynchronousTestCase):
    """:class:`ClearCipher`."""

    def test_is_the_packet_of_rfc_4253(self) -> None:
        """Length, padding length, message, padding; no tag."""
        out: list[bytes] = []
        ClearCipher().seal(0, 21, b"", b"", b"\0" * 10, out)
        self.assertEqual(b"".join(out), bytes.fromhex("0000000c0a15" + "00" * 10))

    def test_opens_what_it_sealed(self) -> None:
        """Without length field."""
        out: list[bytes] = []
        cipher = ClearCipher()
        cipher.seal(0, 2, b"pay", b"load", b"\0" * 7, out)
        opened = cipher.open(0, memoryview(b"".join(out)))
        self.assertEqual(opened, join_body(2, b"pay", b"load", b"\0" * 7))
