"""Tests for :mod:`rtunnel.wire.chacha20_poly1305`."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.wire.chacha20_poly1305 import (
    CHACHA20_CIPHERS,
    CHACHA20_POLY1305,
    ChaCha20Poly1305,
)
from rtunnel.wire.packet_cipher import join_body
from tests.wire.ciphers import MESSAGES, PacketCipherMixin, pairs, seal

KEY = bytes(range(64))

_WORDS = struct.Struct("<16I")


def quarter_round(state: list[int], a: int, b: int, c: int, d: int) -> None:
    """RFC 8439 section 2.1."""
    for x, y, z, shift in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[x] = (state[x] + state[y]) & 0xFFFFFFFF
        mixed = state[z] ^ state[x]
        state[z] = (mixed << shift | mixed >> (32 - shift)) & 0xFFFFFFFF


def reference_block(key: bytes, last_words: bytes) -> bytes:
    """64 bytes of keystream by the book (RFC 8439 section 2.3).

    :param last_words: the 16 bytes of block counter and nonce, however divided.
    """
    initial = list(_WORDS.unpack(b"expand 32-byte k" + key + last_words))
    state = list(initial)
    for _ in range(10):
        for column in range(4):
            quarter_round(state, column, column + 4, column + 8, column + 12)
        for diagonal in range(4):
            quarter_round(
                state,
                diagonal,
                4 + (diagonal + 1) % 4,
                8 + (diagonal + 2) % 4,
                12 + (diagonal + 3) % 4,
            )
    words = zip(state, initial, strict=True)
    return _WORDS.pack(*((a + b) & 0xFFFFFFFF for a, b in words))


def reference_poly1305(key: bytes, message: bytes) -> bytes:
    """The tag by the book (RFC 8439 section 2.5)."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    accumulator = 0
    for index in range(0, len(message), 16):
        block = int.from_bytes(message[index : index + 16] + b"\1", "little")
        accumulator = (accumulator + block) * r % (2**130 - 5)
    tag = accumulator + int.from_bytes(key[16:], "little")
    return (tag % 2**128).to_bytes(16, "little")


def reference_packet(key: bytes, sequence: int, body: bytes) -> bytes:
    """A packet as PROTOCOL.chacha20poly1305 has it, from nothing but blocks."""

    def keystream(half: bytes, counter: int) -> bytes:
        # 64 bits of each, unlike RFC 8439: the nonce is the sequence number.
        return reference_block(half, struct.pack("<Q", counter) + _uint64(sequence))

    def encrypt(half: bytes, counter: int, data: bytes) -> bytes:
        blocks = len(data) // 64 + 1
        stream = b"".join(keystream(half, counter + n) for n in range(blocks))
        return bytes(a ^ b for a, b in zip(data, stream, strict=False))

    main, length = key[:32], key[32:]
    encrypted = encrypt(length, 0, struct.pack(">I", len(body)))
    encrypted += encrypt(main, 1, body)
    return encrypted + reference_poly1305(keystream(main, 0)[:32], encrypted)


def _uint64(number: int) -> bytes:
    return struct.pack(">Q", number)


class ReferenceTests(SynchronousTestCase):
    """The yardstick itself."""

    def test_block_agrees_with_the_published_vector(self) -> None:
        """RFC 8439 section 2.3.2."""
        block = reference_block(
            bytes(range(32)),
            struct.pack("<I", 1) + bytes.fromhex("000000090000004a00000000"),
        )
        self.assertEqual(
            block.hex(),
            "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
            "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
        )

    def test_tag_agrees_with_the_published_vector(self) -> None:
        """RFC 8439 section 2.5.2."""
        tag = reference_poly1305(
            bytes.fromhex(
                "85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b"
            ),
            b"Cryptographic Forum Research Group",
        )
        self.assertEqual(tag.hex(), "a8061dc1305136c6c22b8baf0c0127a9")


class ChaCha20Poly1305Tests(SynchronousTestCase, PacketCipherMixin):
    """:class:`ChaCha20Poly1305`."""

    algorithms = tuple(CHACHA20_CIPHERS.values())

    @settings(deadline=None, max_examples=60)
    @given(MESSAGES)
    def test_opens_what_it_sealed(self, messages: list[tuple[bytes, bytes]]) -> None:
        """In order, packet by packet, whatever is in them."""
        self.opens_what_it_sealed(messages)

    @settings(deadline=None, max_examples=20)
    @given(
        st.binary(min_size=64, max_size=64),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=200),
    )
    def test_is_the_packet_of_openssh(
        self, key: bytes, sequence: int, data: bytes
    ) -> None:
        """Which half of the key is for what, the counters, the nonce, the tag."""
        out: list[bytes] = []
        ChaCha20Poly1305(key).seal(sequence, 94, b"payload", data, b"\7" * 9, out)
        body = join_body(94, b"payload", data, b"\7" * 9)
        self.assertEqual(b"".join(out), reference_packet(key, sequence, body))

    def test_the_length_is_hidden_and_can_be_read_first(self) -> None:
        """Under its own half of the key, with four bytes of the packet there."""
        packet = seal(ChaCha20Poly1305(KEY), 3, b"x" * 250, b"")
        opener = ChaCha20Poly1305(KEY)
        self.assertNotEqual(packet[:3], bytes(3))
        for _ in range(2):
            self.assertEqual(opener.packet_length(3, packet[:4]), len(packet) - 20)
        self.assertNotEqual(opener.packet_length(4, packet[:4]), len(packet) - 20)

    def test_the_sequence_number_is_the_nonce(self) -> None:
        """The same packet under another number is not authentic; the order is free."""
        for sealer, opener in pairs(CHACHA20_CIPHERS[CHACHA20_POLY1305]):
            self.refused(opener, 4, bytearray(seal(sealer, 3, b"payload", b"")))
            packet = seal(sealer, 2**32 - 1, b"late", b"")
            self.assertIn(b"late", opener.open(2**32 - 1, memoryview(packet)))

    def test_wants_a_key_of_64_bytes(self) -> None:
        """Two keys of 32; no IV and no MAC beside it."""
        with self.assertRaises(ValueError):
            ChaCha20Poly1305(bytes(32))
        algorithm = CHACHA20_CIPHERS[CHACHA20_POLY1305]
        self.assertEqual((algorithm.key_length, algorithm.iv_length), (64, 0))
        self.assertFalse(algorithm.needs_mac)
