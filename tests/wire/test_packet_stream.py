"""Tests for :mod:`rtunnel.wire.packet_stream`."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ProtocolError
from rtunnel.wire.aes_ctr_etm import AES_CTR_CIPHERS, ETM_MACS
from rtunnel.wire.aes_gcm import AesGcm
from rtunnel.wire.packet_cipher import PacketCipher
from rtunnel.wire.packet_stream import PacketOpener, PacketSealer

LIMIT = 64 * 1024


def pair(cipher: str = "gcm") -> tuple[PacketSealer, PacketOpener]:
    """Both ends of one direction, under keys unless ``cipher`` is "clear"."""
    sealer, opener = PacketSealer(os.urandom), PacketOpener(LIMIT)
    for end in (sealer, opener):
        made: PacketCipher
        if cipher == "gcm":
            made = AesGcm(b"k" * 16, b"i" * 12)
        elif cipher == "ctr":
            mac = ETM_MACS[b"hmac-sha2-256-etm@openssh.com"]
            made = AES_CTR_CIPHERS[b"aes128-ctr"].make(b"k" * 16, b"i" * 16, mac, b"m")
        else:
            break
        end.change_keys(made, reset_sequence=False)
    return sealer, opener


def sealed(sealer: PacketSealer, number: int, payload: bytes = b"") -> bytes:
    """One packet."""
    out: list[bytes] = []
    sealer.seal(number, payload, b"", out)
    return b"".join(out)


def packets(opener: PacketOpener) -> list[tuple[int, bytes]]:
    """All that are there."""
    return list(iter(opener.next_packet, None))


class PacketStreamTests(SynchronousTestCase):
    """:class:`PacketSealer` and :class:`PacketOpener` together."""

    @settings(deadline=None, max_examples=150)
    @given(
        st.sampled_from(["clear", "gcm", "ctr"]),
        st.lists(
            st.tuples(st.integers(1, 255), st.binary(max_size=200)),
            min_size=1,
            max_size=12,
        ),
        st.lists(st.integers(1, 200), max_size=30),
    )
    def test_segments_do_not_matter(
        self, cipher: str, messages: list[tuple[int, bytes]], cuts: list[int]
    ) -> None:
        """However the bytes are cut, the same packets come out, each at once."""
        sealer, opener = pair(cipher)
        stream = b"".join(sealed(sealer, *message) for message in messages)
        received = []
        for cut in cuts:
            opener.feed(stream[:cut])
            stream = stream[cut:]
            received += packets(opener)
        opener.feed(stream)
        received += packets(opener)
        self.assertEqual(received, messages)
        self.assertEqual(opener.buffered, 0)
        self.assertEqual(
            (opener.packets, opener.opened), (len(messages), sealer.sealed)
        )

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=300))
    def test_garbage_raises_nothing_but_protocol_errors(self, data: bytes) -> None:
        """Whatever the keys are."""
        for cipher in ("clear", "gcm", "ctr"):
            opener = pair(cipher)[1]
            opener.feed(data)
            with contextlib.suppress(ProtocolError):
                packets(opener)

    def test_sequence_numbers_wrap(self) -> None:
        """RFC 4253 section 6.4: after 2^32 - 1 comes 0, and packets go on."""
        sealer, opener = pair("ctr")
        sealer.sequence = opener.sequence = 2**32 - 2
        for number in range(1, 6):
            opener.feed(sealed(sealer, number))
        self.assertEqual([n for n, _ in packets(opener)], [1, 2, 3, 4, 5])
        self.assertEqual((sealer.sequence, opener.sequence), (3, 3))

    def test_strict_kex_starts_sequence_numbers_again(self) -> None:
        """At each change of keys; without it they go on."""
        for reset, expected in ((True, 0), (False, 2)):
            sealer, opener = pair("clear")
            opener.feed(sealed(sealer, 20) + sealed(sealer, 21))
            packets(opener)
            for end in (sealer, opener):
                end.change_keys(AesGcm(b"k" * 16, b"i" * 12), reset)
                self.assertEqual((end.sequence, end.packets), (expected, 0))
            opener.feed(sealed(sealer, 94, b"after"))
            self.assertEqual(packets(opener), [(94, b"after")])

    def test_new_keys_hold_from_the_next_packet_on(self) -> None:
        """Also when old and new arrive in one segment."""
        sealer, opener = pair("clear")
        before = sealed(sealer, 21)
        sealer.change_keys(AesGcm(b"k" * 16, b"i" * 12), True)
        opener.feed(before + sealed(sealer, 5, b"service"))
        self.assertEqual(opener.next_packet(), (21, b""))
        opener.change_keys(AesGcm(b"k" * 16, b"i" * 12), True)
        self.assertEqual(opener.next_packet(), (5, b"service"))

    def test_a_length_over_the_limit_is_refused_at_once(self) -> None:
        """Before anything of the packet is waited for; a raised limit lets it pass."""
        for limit, refused in ((LIMIT, True), (2 * LIMIT, False)):
            sealer, opener = pair()
            packet = sealed(sealer, 94, bytes(LIMIT))
            opener.limit = limit
            opener.feed(packet[:4])
            if refused:
                self.assertRaises(ProtocolError, opener.next_packet)
            else:
                self.assertIsNone(opener.next_packet())

    def test_padding_is_checked(self) -> None:
        """4 bytes at least, and never so many that no message is left."""
        for body in (
            bytes([3, 2]) + bytes(10),
            bytes([11, 2]) + bytes(10),
            bytes([200, 2]) + bytes(10),
        ):
            opener = PacketOpener(LIMIT)
            opener.feed(len(body).to_bytes(4, "big") + body)
            self.assertRaises(ProtocolError, opener.next_packet)
        opener = PacketOpener(LIMIT)
        opener.feed(b"\0\0\0\x0c" + bytes([10, 2]) + bytes(10))
        self.assertEqual(opener.next_packet(), (2, b""))

    def test_many_small_segments_cost_what_they_hold(self) -> None:
        """A packet in the making is appended to in place, not copied each time."""
        sealer, opener = pair()
        opener.limit = 2**24
        packet = sealed(sealer, 94, bytes(2**22))
        started = time.process_time()
        for index in range(0, len(packet), 64):
            opener.feed(packet[index : index + 64])
            if index + 64 < len(packet):
                self.assertIsNone(opener.next_packet())
        # 65,536 segments: copying what is there at each of them would move 137 GB.
        self.assertLess(time.process_time() - started, 5)
        self.assertEqual(opener.next_packet(), (94, bytes(2**22)))

    def test_nothing_is_kept_of_what_has_been_read(self) -> None:
        """An idle connection must not hold on to its last segment."""
        sealer, opener = pair()
        data = sealed(sealer, 94, bytes(1000))
        before = sys.getrefcount(data)
        opener.feed(data)
        self.assertEqual(sys.getrefcount(data), before + 1)
        packets(opener)
        self.assertEqual(sys.getrefcount(data), before)

    def test_padding_comes_from_the_source_of_randomness(self) -> None:
        """It is asked for as many bytes as are padded."""
        asked = []

        def random(count: int) -> bytes:
            asked.append(count)
            return b"\xaa" * count

        sealer = PacketSealer(random)
        self.assertTrue(sealed(sealer, 2).endswith(b"\xaa" * asked[0]))
