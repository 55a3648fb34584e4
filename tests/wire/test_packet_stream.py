"""Tests for :mod:`rtunnel.wire.packet_stream`."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ProtocolError
from rtunnel.wire.aes_ctr_etm import AES_CTR_CIPHERS, ETM_MACS
from rtunnel.wire.aes_gcm import AesGcm
from rtunnel.wire.chacha20_poly1305 import ChaCha20Poly1305
from rtunnel.wire.packet_cipher import PacketCipher
from rtunnel.wire.packet_run import PacketRun, give_back
from rtunnel.wire.packet_stream import (
    BULK,
    DATA_FIELDS,
    READ_SIZE,
    PacketOpener,
    PacketSealer,
)
from rtunnel.wire.passing_memory import with_surroundings

LIMIT = 300 * 1024


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
        elif cipher == "chacha":
            made = ChaCha20Poly1305(b"k" * 64)
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
    found = [
        (number, bytes(payload)) for number, payload in iter(opener.next_packet, None)
    ]
    opener.keep()
    return found


def sealed_in_place(sealer: PacketSealer, number: int, data: bytes) -> bytes:
    """One packet, made in memory that is used again."""
    end = 2 + len(data)
    body = memoryview(bytearray(end + 64))
    body[1] = number
    body[2:end] = data
    out = memoryview(bytearray(end + 100))
    return bytes(out[: sealer.seal_in_place(body, end, out)])


def gathered(opener: PacketOpener) -> list[tuple[int, int, bytes]]:
    """All that are there, data gathered: number, channel, data."""
    found = []
    for number, payload in iter(opener.next_packet, None):
        if isinstance(payload, memoryview):
            channel, data, _ = opener.gather(payload)
        else:
            channel, data = (
                struct.unpack_from(">I", payload)[0],
                memoryview(payload)[8:],
            )
        found.append((number, channel, bytes(data)))
    opener.keep()
    return found


def joined(messages: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Messages, with those in a row of data on one channel made one."""
    made: list[tuple[int, int, bytes]] = []
    for number, channel, data in messages:
        if made and number == 94 and made[-1][:2] == (94, channel):
            made[-1] = (94, channel, made[-1][2] + data)
        else:
            made.append((number, channel, data))
    return made


def put(opener: PacketOpener, data: bytes) -> None:
    """Give ``data`` to ``opener`` as a socket does that reads into its buffer."""
    room = opener.get_buffer()
    room[: len(data)] = data
    opener.buffer_updated(len(data))


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

    @settings(deadline=None, max_examples=50)
    @given(
        st.sampled_from(["gcm", "ctr"]),
        st.lists(
            st.tuples(
                st.sampled_from([93, 94, 95]),
                st.sampled_from([10, BULK - 9, BULK, 5000, 70_000, 290_000]),
                st.binary(min_size=1, max_size=4),
            ),
            min_size=1,
            max_size=6,
        ),
        st.lists(st.integers(1, READ_SIZE), min_size=1, max_size=8),
    )
    def test_shared_buffers_do_not_matter(
        self, cipher: str, messages: list[tuple[int, int, bytes]], cuts: list[int]
    ) -> None:
        """Two connections that read into, and seal in, one memory do not meet in it."""
        ends = [pair(cipher), pair(cipher)]
        expected = [
            (number, fill * (size // len(fill))) for number, size, fill in messages
        ]
        streams = [
            b"".join(sealed_in_place(sealer, *message) for message in expected)
            for sealer, _ in ends
        ]
        received: list[list[tuple[int, bytes]]] = [[], []]
        # The rest in reads as large as they come: byte by byte it would take minutes.
        whole = [READ_SIZE] * (max(map(len, streams)) // READ_SIZE + 1)
        for cut in (*cuts, *whole):
            for which, (_, opener) in enumerate(ends):
                put(opener, streams[which][:cut])
                streams[which] = streams[which][cut:]
                received[which] += packets(opener)
        self.assertEqual(received, [expected, expected])
        self.assertEqual([opener.buffered for _, opener in ends], [0, 0])

    def test_packets_made_in_place_are_the_same(self) -> None:
        """Those that were sealed by themselves before and after count as one row."""
        sealer, opener = pair()
        stream = (
            sealed(sealer, 94, b"one" * BULK)
            + sealed_in_place(sealer, 94, b"two" * BULK)
            + sealed(sealer, 95, b"three")
        )
        self.assertEqual(sealer.sealed, len(stream))
        opener.feed(stream)
        self.assertEqual(
            packets(opener),
            [(94, b"one" * BULK), (94, b"two" * BULK), (95, b"three")],
        )

    def test_only_channel_data_comes_as_a_view(self) -> None:
        """What is parsed and kept is bytes."""
        sealer, opener = pair()
        opener.feed(sealed(sealer, 94, bytes(9000)) + sealed(sealer, 95, bytes(9000)))
        self.assertEqual(
            [type(payload) for _, payload in iter(opener.next_packet, None)],
            [memoryview, bytes],
        )

    def test_a_large_packet_that_is_not_authentic_is_refused(self) -> None:
        """In place as elsewhere."""
        for cipher in ("gcm", "ctr", "chacha"):
            sealer, opener = pair(cipher)
            packet = bytearray(sealed(sealer, 94, bytes(9000)))
            packet[5000] ^= 1
            opener.feed(bytes(packet))
            self.assertRaises(ProtocolError, opener.next_packet)

    def test_ciphers_that_cannot_seal_in_place_say_so(self) -> None:
        """The others do, once they have keys."""
        for cipher, expected in (
            ("chacha", False),
            ("clear", False),
            ("ctr", True),
            ("gcm", True),
        ):
            self.assertEqual(pair(cipher)[0].seals_in_place, expected)

    @settings(deadline=None, max_examples=60)
    @given(
        st.sampled_from(["gcm", "ctr"]),
        st.lists(
            st.tuples(
                st.sampled_from([93, 94, 94, 94, 94]),
                st.integers(1, 2),
                st.sampled_from([0, 1, BULK - 20, BULK, 5000, 32768, 100_000]),
            ),
            min_size=1,
            max_size=8,
        ),
        st.lists(st.integers(1, READ_SIZE), max_size=4),
    )
    def test_data_is_gathered_and_nothing_else_changes(
        self, cipher: str, messages: list[tuple[int, int, int]], cuts: list[int]
    ) -> None:
        """The same bytes come in the same order, each channel's by itself."""
        sealer, opener = pair(cipher)
        expected: list[tuple[int, int, bytes]] = []
        stream = b""
        for index, (number, channel, size) in enumerate(messages):
            data = bytes([65 + index]) * size
            fields = struct.pack(">II", channel, size)
            stream += sealed(sealer, number, fields + data)
            expected.append((number, channel, data))
        received: list[tuple[int, int, bytes]] = []
        for cut in [*cuts, len(stream)]:
            for start in range(0, cut, READ_SIZE):
                put(opener, stream[start : min(cut, start + READ_SIZE)])
                received += gathered(opener)
            stream = stream[cut:]
        self.assertEqual(joined(received), joined(expected))
        self.assertEqual((opener.packets, opener.buffered), (len(messages), 0))

    def test_gathering_joins_what_came_together(self) -> None:
        """And says how large the largest of the packets was."""
        sealer, opener = pair()
        sizes = (5000, 9000, 7000)
        put(
            opener,
            b"".join(
                sealed(sealer, 94, struct.pack(">II", 7, size) + bytes(size))
                for size in sizes
            ),
        )
        packet = opener.next_packet()
        assert packet is not None and isinstance(packet[1], memoryview)
        channel, data, largest = opener.gather(packet[1])
        self.assertEqual((channel, len(data), largest), (7, sum(sizes), 9000))
        self.assertIsNone(opener.next_packet())

    def test_what_was_gathered_is_sealed_where_it_is(self) -> None:
        """On to the next peer, in packets of other sizes, without a copy."""
        sealer, opener = pair()
        onward, received = pair()
        data = os.urandom(200_000)
        packets = [
            sealed(sealer, 94, struct.pack(">II", 7, len(piece)) + piece)
            for piece in (data[:90_000], data[90_000:])
        ]
        put(opener, b"".join(packets))
        packet = opener.next_packet()
        assert packet is not None and isinstance(packet[1], memoryview)
        _, view, _ = opener.gather(packet[1])
        self.assertIsNotNone(with_surroundings(view, DATA_FIELDS + 2, 31))
        run = PacketRun(onward)
        for start in range(0, len(data), 65536):
            run.add_data(3, view[start : start + 65536], 32768)
        packets_out, memory = run.take()
        put(received, bytes(packets_out))
        give_back(memory)
        self.assertEqual(joined(gathered(received)), [(94, 3, data)])

    def test_gathering_stops_at_what_is_wrong(self) -> None:
        """A size that is not the data's, and a packet that is not authentic."""
        good = struct.pack(">II", 7, 5000) + bytes(5000)
        wrong = struct.pack(">II", 7, 4999) + bytes(5000)
        for second, flip in ((wrong, 0), (good, 1)):
            sealer, opener = pair()
            first = sealed(sealer, 94, good)
            tampered = bytearray(sealed(sealer, 94, second))
            tampered[100] ^= flip
            put(opener, first + tampered)
            packet = opener.next_packet()
            assert packet is not None and isinstance(packet[1], memoryview)
            self.assertRaises(ProtocolError, opener.gather, packet[1])

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
