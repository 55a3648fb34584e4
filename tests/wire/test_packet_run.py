"""Tests for :mod:`rtunnel.wire.packet_run`."""

from __future__ import annotations

import os
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.wire.aes_gcm import AesGcm
from rtunnel.wire.packet_run import MAX_DATA, RUN_SIZE, PacketRun, give_back
from rtunnel.wire.packet_stream import PacketOpener, PacketSealer
from rtunnel.wire.passing_memory import PassingMemory

KIB = 1024
LIMIT = 64 * KIB


def data_message(channel: int, data: bytes) -> tuple[int, bytes]:
    """CHANNEL_DATA as number and payload."""
    return 94, struct.pack(">II", channel, len(data)) + data


class PacketRunTests(SynchronousTestCase):
    """:class:`PacketRun`."""

    def setUp(self) -> None:
        """Both ends of one direction, under keys."""
        self.sealer, self.opener = PacketSealer(os.urandom), PacketOpener(300 * KIB)
        for end in (self.sealer, self.opener):
            end.change_keys(AesGcm(b"k" * 16, b"i" * 12), reset_sequence=False)
        self.run_ = PacketRun(self.sealer)

    def taken(self) -> list[tuple[int, bytes]]:
        """What the peer gets, if the run is sent now."""
        packets, memory = self.run_.take()
        self.opener.feed(bytes(packets))
        give_back(memory)
        return [
            (number, bytes(payload))
            for number, payload in iter(self.opener.next_packet, None)
        ]

    def test_packets_come_out_in_their_order(self) -> None:
        """Those that were sealed before it first."""
        sealed: list[bytes] = []
        self.sealer.seal(93, b"first", b"", sealed)
        self.run_.add_sealed(b"".join(sealed))
        self.run_.add_data(1, b"a" * 5000, LIMIT)
        self.run_.add(96, b"last", b" of all")
        self.assertEqual(
            self.taken(),
            [(93, b"first"), data_message(1, b"a" * 5000), (96, b"last of all")],
        )
        self.assertFalse(self.run_.is_begun)

    def test_data_of_one_channel_shares_packets(self) -> None:
        """Up to the limit; another channel, or message, ends a packet."""
        for _ in range(3):
            self.run_.add_data(1, bytes(LIMIT // 2), LIMIT)
        self.run_.add_data(2, b"x" * 3000, LIMIT)
        self.run_.add(93, b"adjust")
        self.run_.add_data(2, b"y" * 3000, LIMIT)
        self.assertEqual(
            self.taken(),
            [
                data_message(1, bytes(LIMIT)),
                data_message(1, bytes(LIMIT // 2)),
                data_message(2, b"x" * 3000),
                (93, b"adjust"),
                data_message(2, b"y" * 3000),
            ],
        )

    def test_data_over_the_limit_goes_in_several_packets(self) -> None:
        """The last of them may still grow."""
        self.run_.add_data(1, bytes(2 * LIMIT + 10), LIMIT)
        self.run_.add_data(1, bytes(20), LIMIT)
        sizes = [len(payload) - 8 for _, payload in self.taken()]
        self.assertEqual(sizes, [LIMIT, LIMIT, 30])

    def test_the_data_is_the_callers_again(self) -> None:
        """It may be overwritten at once."""
        data = bytearray(b"z" * 4000)
        self.run_.add_data(1, memoryview(data), LIMIT)
        data[:] = bytes(4000)
        self.assertEqual(self.taken(), [data_message(1, b"z" * 4000)])

    def test_data_in_passing_memory_is_sealed_where_it_is(self) -> None:
        """What follows it there stays, and nothing goes on growing."""
        memory = PassingMemory(100 + 2 * LIMIT + 100)
        data = memoryview(memory)[100:-100]
        data[:] = b"a" * LIMIT + b"b" * LIMIT
        self.run_.add_data(1, data[:LIMIT], LIMIT)
        self.assertEqual(memory[91], 94)
        self.run_.add_data(1, data[LIMIT:], LIMIT)
        self.run_.add_data(1, b"c", LIMIT)
        self.assertEqual(
            self.taken(),
            [
                data_message(1, b"a" * LIMIT),
                data_message(1, b"b" * LIMIT),
                data_message(1, b"c"),
            ],
        )

    def test_a_run_has_room_for_so_much(self) -> None:
        """An empty one for any packet, with small ones before it."""
        self.assertTrue(self.run_.has_room(MAX_DATA, LIMIT, sealed=8 * KIB))
        self.assertFalse(self.run_.has_room(MAX_DATA, LIMIT, sealed=32 * KIB))
        count = 0
        while self.run_.has_room(LIMIT, LIMIT):
            self.run_.add_data(count, bytes(LIMIT), LIMIT)
            count += 1
        self.assertEqual(count, RUN_SIZE // LIMIT)
        self.assertEqual(len(self.taken()), count)

    def test_what_is_dropped_is_not_sent(self) -> None:
        """And a packet that still grew is none."""
        self.run_.add_data(1, bytes(4000), LIMIT)
        self.run_.drop()
        self.assertFalse(self.run_.is_begun)
        self.assertEqual(self.sealer.packets, 0)

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(
            st.tuples(
                st.integers(1, 2),
                st.sampled_from([1, 2048, 9000, 32 * KIB, 64 * KIB, 256 * KIB]),
                st.sampled_from([KIB, 32 * KIB, 64 * KIB, 256 * KIB]),
                st.sampled_from([None, 0, 10, 200]),
            ),
            min_size=1,
            max_size=20,
        )
    )
    def test_no_byte_is_lost_and_no_limit_passed(
        self, writes: list[tuple[int, int, int, int | None]]
    ) -> None:
        """Whatever is written, in packets of whatever size; each channel's in order.

        Also from memory that has so much room around it, or too little.
        """
        self.setUp()
        expected = {1: b"", 2: b""}
        received: list[tuple[int, bytes]] = []
        for index, (channel, size, limit, room) in enumerate(writes):
            if not self.run_.has_room(size, limit):
                received += self.taken()
            data = bytes([index]) * size
            if room is None:
                self.run_.add_data(channel, data, limit)
            else:
                memory = memoryview(PassingMemory(size + 2 * room))
                memory[room : room + size] = data
                self.run_.add_data(channel, memory[room : room + size], limit)
            expected[channel] += data
        received += self.taken()
        got = {1: b"", 2: b""}
        for number, payload in received:
            channel, size = struct.unpack_from(">II", payload)
            self.assertEqual((number, size), (94, len(payload) - 8))
            self.assertLessEqual(size, 256 * KIB)
            got[channel] += payload[8:]
        self.assertEqual(got, expected)
