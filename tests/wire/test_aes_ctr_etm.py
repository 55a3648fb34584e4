"""Tests for :mod:`rtunnel.wire.aes_ctr_etm`."""

from __future__ import annotations

import hmac

from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.wire.aes_ctr_etm import AES_CTR_CIPHERS, ETM_MACS, AesCtrEtm
from tests.wire.ciphers import MESSAGES, PacketCipherMixin, pairs, seal


class AesCtrEtmTests(SynchronousTestCase, PacketCipherMixin):
    """:class:`AesCtrEtm`."""

    algorithms = tuple(AES_CTR_CIPHERS.values())

    @settings(deadline=None, max_examples=60)
    @given(MESSAGES)
    def test_opens_what_it_sealed(self, messages: list[tuple[bytes, bytes]]) -> None:
        """In order, packet by packet, whatever is in them."""
        self.opens_what_it_sealed(messages)

    def test_decrypts_the_published_vectors(self) -> None:
        """Test vectors 2 and 8 of RFC 3686, under the MAC of OpenSSH PROTOCOL 1.5."""
        vectors = (
            (
                "7e24067817fae0d743d6ce1f32539163",
                "006cb6dbc0543b59da48d90b00000001",
                "5104a106168a72d9790d41ee8edad388eb2e1efc46da57c8fce630df9141be28",
            ),
            (
                "f6d66d6bd52d59bb0796365879eff886c66dd51a5b6a99744b50590c87a23884",
                "00faac24c1585ef15a43d87500000001",
                "f05e231b3894612c49ee000b804eb2a9b8306b508f839d6a5530831d9344af1c",
            ),
        )
        for key, counter, ciphertext in vectors:
            for mac in ETM_MACS.values():
                mac_key = bytes(range(mac.key_length))
                cipher = AesCtrEtm(
                    bytes.fromhex(key), bytes.fromhex(counter), mac, mac_key
                )
                packet = b"\0\0\0\x20" + bytes.fromhex(ciphertext)
                tag = hmac.digest(mac_key, b"\0\0\x01\x02" + packet, mac.digest)
                self.assertEqual(
                    cipher.open(0x102, memoryview(packet + tag)), bytes(range(32))
                )

    def test_the_mac_agrees_with_the_published_vector(self) -> None:
        """Test case 3 of RFC 4231: fifty bytes, of which four are the number."""
        tags = {
            b"hmac-sha2-256-etm@openssh.com": "773ea91e36800e46854db8ebd09181a7"
            "2959098b3ef8c122d9635514ced565fe",
            b"hmac-sha2-512-etm@openssh.com": "fa73b0089d56a284efb0f0756c890be9"
            "b1b5dbdd8ee81a3655f83e33b2279d39"
            "bf3e848279a722c806b485a47e67c807"
            "b946a337bee8942674278859e13292fb",
        }
        self.assertEqual(set(tags), set(ETM_MACS))
        for name, tag in tags.items():
            cipher = AesCtrEtm(bytes(16), bytes(16), ETM_MACS[name], b"\xaa" * 20)
            packet = bytearray(b"\xdd" * 46 + bytes.fromhex(tag))
            self.assertEqual(len(cipher.open(0xDDDDDDDD, memoryview(packet))), 42)
            packet[-1] ^= 1
            self.refused(cipher, 0xDDDDDDDD, packet)

    def test_counts_on_from_packet_to_packet(self) -> None:
        """The keystream does not start again (RFC 4344 section 4)."""
        for sealer, _ in pairs(AES_CTR_CIPHERS[b"aes256-ctr"]):
            first, second = (seal(sealer, 0, b"x" * 26, b"") for _ in range(2))
            self.assertNotEqual(first[4:36], second[4:36])

    def test_the_mac_covers_the_sequence_number(self) -> None:
        """The same packet under another number is not authentic."""
        for sealer, opener in pairs(AES_CTR_CIPHERS[b"aes128-ctr"]):
            self.refused(opener, 4, bytearray(seal(sealer, 3, b"payload", b"")))

    def test_needs_a_mac(self) -> None:
        """There is no such thing as AES-CTR alone."""
        for algorithm in AES_CTR_CIPHERS.values():
            self.assertTrue(algorithm.needs_mac)
            with self.assertRaises(ValueError):
                algorithm.make(bytes(algorithm.key_length), bytes(16), None, b"")
