"""Tests for :mod:`rtunnel.wire.aes_gcm`."""

from __future__ import annotations

import gc
import weakref

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.wire.aes_gcm import AES_GCM_CIPHERS, MAX_AWAKE, AesGcm
from rtunnel.wire.packet_cipher import join_body
from tests.wire.ciphers import MESSAGES, PacketCipherMixin


def multiply(x: int, y: int) -> int:
    """Multiplication in GF(2^128) as SP 800-38D section 6.3 has it."""
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


def reference_gcm(
    key: bytes, iv: bytes, data: bytes, aad: bytes
) -> tuple[bytes, bytes]:
    """Ciphertext and tag by the book, from nothing but AES on single blocks."""
    aes = Cipher(AES(key), ECB()).encryptor()
    counter = int.from_bytes(iv + b"\0\0\0\1", "big")

    def keystream(index: int) -> bytes:
        return aes.update((counter + index).to_bytes(16, "big"))

    ciphertext = b"".join(
        bytes(
            a ^ b
            for a, b in zip(data[i : i + 16], keystream(1 + i // 16), strict=False)
        )
        for i in range(0, len(data), 16)
    )
    hash_key = int.from_bytes(aes.update(bytes(16)), "big")
    blocks = b"".join(part + bytes(-len(part) % 16) for part in (aad, ciphertext)) + (
        len(aad) * 8 << 64 | len(ciphertext) * 8
    ).to_bytes(16, "big")
    state = 0
    for i in range(0, len(blocks), 16):
        state = multiply(state ^ int.from_bytes(blocks[i : i + 16], "big"), hash_key)
    tag = state ^ int.from_bytes(keystream(0), "big")
    return ciphertext, tag.to_bytes(16, "big")


class ReferenceTests(SynchronousTestCase):
    """The yardstick itself."""

    def test_agrees_with_the_published_vectors(self) -> None:
        """Test cases 4 and 16 of McGrew and Viega, "The Galois/Counter Mode of
        Operation": the same with 128 and 256 bits."""
        half = bytes.fromhex("feffe9928665731c6d6a8f9467308308")
        for key, expected, expected_tag in (
            (
                half,
                "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
                "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
                "5bc94fbc3221a5db94fae95ae7121a47",
            ),
            (
                half * 2,
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
                "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
                "76fc6ece0f4e1768cddf8853bb2d551b",
            ),
        ):
            ciphertext, tag = reference_gcm(
                key,
                bytes.fromhex("cafebabefacedbaddecaf888"),
                bytes.fromhex(
                    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
                    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
                ),
                bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
            )
            self.assertEqual(ciphertext.hex(), expected)
            self.assertEqual(tag.hex(), expected_tag)


class AesGcmTests(SynchronousTestCase, PacketCipherMixin):
    """:class:`AesGcm`."""

    algorithms = tuple(AES_GCM_CIPHERS.values())

    @settings(deadline=None, max_examples=60)
    @given(MESSAGES)
    def test_opens_what_it_sealed(self, messages: list[tuple[bytes, bytes]]) -> None:
        """In order, packet by packet, whatever is in them."""
        self.opens_what_it_sealed(messages)

    def test_is_the_packet_of_rfc_5647(self) -> None:
        """The length is what is authenticated in the clear, the rest is encrypted."""
        for size in (16, 32):
            key, iv = bytes(range(size)), bytes(range(100, 112))
            out: list[bytes] = []
            AesGcm(key, iv).seal(5, 94, b"payload", b"data", b"\7" * 19, out)
            body = join_body(94, b"payload", b"data", b"\7" * 19)
            length = len(body).to_bytes(4, "big")
            ciphertext, tag = reference_gcm(key, iv, body, length)
            self.assertEqual(b"".join(out), length + ciphertext + tag)

    def test_counts_packets_in_the_last_eight_bytes_of_the_iv(self) -> None:
        """And wraps there without touching the first four (RFC 5647 section 7.1)."""
        key, fixed = b"k" * 16, b"abcd"
        cipher = AesGcm(key, fixed + b"\xff" * 8)
        padding = b"\0" * 14
        cipher.seal(0, 94, b"", b"", padding, [])
        out: list[bytes] = []
        cipher.seal(1, 94, b"", b"", padding, out)
        ciphertext, tag = reference_gcm(
            key, fixed + bytes(8), join_body(94, b"", b"", padding), b"\0\0\0\x10"
        )
        self.assertEqual(out[1], ciphertext + tag)

    def test_wants_an_iv_of_twelve_bytes(self) -> None:
        """No other gives the nonce of RFC 5647."""
        with self.assertRaises(ValueError):
            AesGcm(b"k" * 16, b"i" * 16)

    def test_only_those_that_were_used_last_keep_what_openssl_makes_of_a_key(
        self,
    ) -> None:
        """The others make it again for their next packet, which is as it should be."""
        key, iv = b"k" * 16, b"i" * 12
        sealers = [AesGcm(key, iv) for _ in range(MAX_AWAKE + 5)]
        openers = [AesGcm(key, iv) for _ in range(MAX_AWAKE + 5)]
        for sequence in range(3):
            for sealer, opener in zip(sealers, openers, strict=True):
                out: list[bytes] = []
                sealer.seal(sequence, 94, b"payload", b"", b"\7" * 8, out)
                body = opener.open(sequence, memoryview(b"".join(out)))
                self.assertEqual(body[2:9], b"payload")
            awake = [each for each in [*sealers, *openers] if each.is_awake]
            self.assertLessEqual(len(awake), MAX_AWAKE)
            self.assertTrue(sealers[-1].is_awake)

    def test_a_cipher_that_is_gone_is_not_kept(self) -> None:
        """Its key was of one connection."""
        cipher = AesGcm(b"k" * 16, b"i" * 12)
        gone = weakref.ref(cipher)
        del cipher
        gc.collect()
        self.assertIsNone(gone())
