"""One bit changed in a stream of packets is noticed by every cipher."""

from __future__ import annotations

import os
import random

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ProtocolError
from rtunnel.wire.algorithms import CIPHERS
from rtunnel.wire.packet_cipher import PacketCipher
from rtunnel.wire.packet_stream import PacketOpener, PacketSealer
from tests.wire.ciphers import pairs

#: Bits changed for each cipher and MAC.
FLIPS = 200

#: Messages of every kind of size, small ones and such as go through large buffers.
SIZES = (0, 1, 15, 16, 17, 100, 4000, 40_000, 1, 2047, 2048, 30_000)

#: Follows the bit, for whatever a length field may say then.
MORE = 300_000


class BitFlipTests(SynchronousTestCase):
    """:class:`PacketOpener`, fed in one way and the other."""

    def streams(self, cipher: PacketCipher) -> tuple[bytes, list[bytes]]:
        """Packets in a row, and what is in them."""
        sealer = PacketSealer(os.urandom)
        sealer.change_keys(cipher, True)
        chance = random.Random(3)
        payloads = [chance.randbytes(size) for size in SIZES]
        out: list[bytes] = []
        for payload in payloads:
            sealer.seal(94, payload, b"", out)
        return b"".join(out), payloads

    def open_all(
        self, cipher: PacketCipher, data: bytes, by_buffer: bool
    ) -> tuple[list[bytes], bool]:
        """What came out of a stream, and whether something was wrong with it."""
        opener = PacketOpener(257 * 1024)
        opener.change_keys(cipher, True)
        opened: list[bytes] = []
        try:
            for start in range(0, len(data), 50_000):
                piece = data[start : start + 50_000]
                if by_buffer:
                    opener.get_buffer()[: len(piece)] = piece
                    opener.buffer_updated(len(piece))
                else:
                    opener.feed(piece)
                while packet := opener.next_packet():
                    opened.append(bytes(packet[1]))
                opener.keep()
        except ProtocolError:
            opener.keep()
            return opened, True
        return opened, False

    def test_every_cipher(self) -> None:
        """What came before the bit is delivered, and nothing after it."""
        for algorithm in CIPHERS.values():
            chance = random.Random(algorithm.name)
            for flip in range(FLIPS + 1):
                for sealer, opener in pairs(algorithm):
                    data, payloads = self.streams(sealer)
                    whole = flip == FLIPS
                    changed = bytearray(data)
                    if not whole:
                        changed[chance.randrange(len(data))] ^= 1 << flip % 8
                        changed += bytes(MORE)
                    opened, noticed = self.open_all(
                        opener, bytes(changed), by_buffer=flip % 2 == 0
                    )
                    self.assertEqual(opened, payloads[: len(opened)])
                    self.assertEqual(noticed, not whole, algorithm.name)
                    self.assertEqual(len(opened) == len(payloads), whole)
