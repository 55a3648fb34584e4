"""What every packet cipher has to do, whatever it is made of."""

from __future__ import annotations

import os

from hypothesis import strategies as st

from rtunnel.errors import DISCONNECT_MAC_ERROR, ProtocolError
from rtunnel.wire.algorithms import MACS
from rtunnel.wire.packet_cipher import (
    CipherAlgorithm,
    MacAlgorithm,
    PacketCipher,
    join_body,
    padding_length,
)

#: Messages in the two parts that a cipher takes them in.
MESSAGES = st.lists(st.tuples(st.binary(max_size=80), st.binary(max_size=300)))


def pairs(algorithm: CipherAlgorithm) -> list[tuple[PacketCipher, PacketCipher]]:
    """Both ends under the same fresh keys, once beside each MAC."""
    macs: list[MacAlgorithm | None] = (
        list(MACS.values()) if algorithm.needs_mac else [None]
    )
    made = []
    for mac in macs:
        key = os.urandom(algorithm.key_length)
        iv = os.urandom(algorithm.iv_length)
        mac_key = os.urandom(mac.key_length if mac else 0)
        made.append(
            (
                algorithm.make(key, iv, mac, mac_key),
                algorithm.make(key, iv, mac, mac_key),
            )
        )
    return made


def seal(cipher: PacketCipher, sequence: int, payload: bytes, data: bytes) -> bytes:
    """One whole packet of message 94."""
    out: list[bytes] = []
    padding = bytes(padding_length(cipher, 1 + len(payload) + len(data)))
    cipher.seal(sequence, 94, payload, data, padding, out)
    return b"".join(out)


class PacketCipherMixin:
    """Add to a test case, with ``algorithms`` set."""

    algorithms: tuple[CipherAlgorithm, ...]

    def opens_what_it_sealed(self, messages: list[tuple[bytes, bytes]]) -> None:
        """In order, packet by packet, whatever is in them."""
        for algorithm in self.algorithms:
            for sealer, opener in pairs(algorithm):
                for sequence, (payload, data) in enumerate(messages):
                    packet = seal(sealer, sequence, payload, data)
                    length = opener.packet_length(sequence, packet[:4])
                    assert len(packet) == 4 + length + opener.tag_length
                    body = opener.open(sequence, memoryview(packet))
                    padding = bytes(body[0])
                    assert body == join_body(94, payload, data, padding)

    def test_refuses_a_packet_with_any_byte_changed(self) -> None:
        """Length field, body and tag are all authentic or nothing is."""
        for algorithm in self.algorithms:
            size = len(seal(pairs(algorithm)[0][0], 7, b"payload", b""))
            for index in range(size):
                for sealer, opener in pairs(algorithm)[:1]:
                    packet = bytearray(seal(sealer, 7, b"payload", b""))
                    packet[index] ^= 0x10
                    self.refused(opener, 7, packet)

    def test_refuses_packets_out_of_order(self) -> None:
        """Be it that one is missing or that one comes twice."""
        for algorithm in self.algorithms:
            for sealer, opener in pairs(algorithm):
                seal(sealer, 0, b"lost", b"")
                self.refused(opener, 0, bytearray(seal(sealer, 1, b"next", b"")))
            for sealer, opener in pairs(algorithm):
                packet = seal(sealer, 0, b"once", b"")
                opener.open(0, memoryview(packet))
                self.refused(opener, 1, bytearray(packet))

    def test_hides_the_message(self) -> None:
        """What is sent twice does not look the same."""
        for algorithm in self.algorithms:
            for sealer, _ in pairs(algorithm):
                message = b"a message that is long enough to see"
                first = seal(sealer, 0, message, b"")
                assert message not in first
                assert first[4:] != seal(sealer, 1, message, b"")[4:]

    def refused(self, opener: PacketCipher, sequence: int, packet: bytearray) -> None:
        """Assert that ``packet`` does not open."""
        try:
            opener.open(sequence, memoryview(packet))
        except ProtocolError as error:
            assert error.reason_code == DISCONNECT_MAC_ERROR
        else:
            raise AssertionError("opened")
