"""Both directions of a connection as packets: bytes in and out, keys, sequence numbers.

One object per direction, as each changes its keys on its own NEWKEYS. Pure: what may
arrive when is decided above.
"""

from __future__ import annotations

from collections.abc import Callable

from rtunnel.errors import ProtocolError
from rtunnel.wire.packet_cipher import (
    LENGTH_SIZE,
    MIN_PADDING,
    Buffer,
    ClearCipher,
    PacketCipher,
    check_packet_length,
    padding_length,
)

_SEQUENCE_MASK = 2**32 - 1


class PacketSealer:
    """What we send.

    ``sequence`` is the number of the next packet, modulo 2^32 (RFC 4253 section 6.4);
    ``packets`` and ``sealed`` count packets and bytes under the present keys.

    :param random: this many random bytes, for padding.
    """

    __slots__ = ("_cipher", "_random", "packets", "sealed", "sequence")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._cipher: PacketCipher = ClearCipher()
        self._random = random
        self.sequence = 0
        self.packets = 0
        self.sealed = 0

    def seal(self, number: int, payload: Buffer, data: Buffer, out: list[bytes]) -> int:
        """Append one packet to ``out``.

        :param number: the message number.
        :param payload: the message without it.
        :param data: more of the message.
        :param out: gets the packet in pieces.
        :return: bytes appended.
        """
        cipher = self._cipher
        length = 1 + len(payload) + len(data)
        padding = padding_length(cipher, length)
        cipher.seal(self.sequence, number, payload, data, self._random(padding), out)
        size = LENGTH_SIZE + 1 + length + padding + cipher.tag_length
        self.sequence = (self.sequence + 1) & _SEQUENCE_MASK
        self.packets += 1
        self.sealed += size
        return size

    def change_keys(self, cipher: PacketCipher, reset_sequence: bool) -> None:
        """Use ``cipher`` from the next packet on: our NEWKEYS has been sealed.

        :param reset_sequence: whether strict KEX is in force.
        """
        self._cipher = cipher
        self.packets = 0
        self.sealed = 0
        if reset_sequence:
            self.sequence = 0


class PacketOpener:
    """What the peer sends.

    ``sequence`` is the number of the next packet, ``packets`` and ``opened`` count
    packets and bytes under the present keys. After an error it is of no more use.

    :param limit: bytes that a length field may say; may be changed later.
    """

    __slots__ = (
        "_buffer",
        "_cipher",
        "_length",
        "_offset",
        "limit",
        "opened",
        "packets",
        "sequence",
    )

    def __init__(self, limit: int) -> None:
        self._cipher: PacketCipher = ClearCipher()
        # Bytes are what was fed last and is read in place; a bytearray is a packet in
        # the making, to which appending costs only what is appended.
        self._buffer: bytes | bytearray = b""
        self._offset = 0
        self._length: int | None = None
        self.limit = limit
        self.sequence = 0
        self.packets = 0
        self.opened = 0

    @property
    def buffered(self) -> int:
        """Bytes that came and have not been taken as packets."""
        return len(self._buffer) - self._offset

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer."""
        buffer, offset = self._buffer, self._offset
        if offset == len(buffer):
            self._buffer = data
            self._offset = 0
        elif isinstance(buffer, bytearray):
            del buffer[:offset]
            buffer += data
            self._offset = 0
        else:
            self._buffer = bytearray(memoryview(buffer)[offset:])
            self._buffer += data
            self._offset = 0

    def next_packet(self) -> tuple[int, bytes] | None:
        """The next whole packet, as message number and payload without it.

        :return: None when more bytes are needed.
        :raises ProtocolError: for a length or padding that cannot be, a packet with no
            message in it, and one that is not authentic.
        """
        buffer, offset, cipher = self._buffer, self._offset, self._cipher
        length = self._length
        if length is None:
            if len(buffer) - offset < LENGTH_SIZE:
                if offset == len(buffer):
                    # An idle connection keeps nothing of what it read last.
                    self._buffer = b""
                    self._offset = 0
                return None
            length = cipher.packet_length(
                self.sequence, buffer[offset : offset + LENGTH_SIZE]
            )
            check_packet_length(cipher, length, self.limit)
            self._length = length
        end = offset + LENGTH_SIZE + length + cipher.tag_length
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            body = cipher.open(self.sequence, view[offset:end])
        padding = body[0]
        payload_end = length - padding
        if padding < MIN_PADDING or payload_end < 2:
            raise ProtocolError("a packet with impossible padding or no message")
        self._offset = end
        self._length = None
        self.sequence = (self.sequence + 1) & _SEQUENCE_MASK
        self.packets += 1
        self.opened += end - offset
        return body[1], body[2:payload_end]

    def change_keys(self, cipher: PacketCipher, reset_sequence: bool) -> None:
        """Use ``cipher`` from the next packet on: the peer's NEWKEYS has been read.

        :param reset_sequence: whether strict KEX is in force.
        """
        self._cipher = cipher
        self.packets = 0
        self.opened = 0
        if reset_sequence:
            self.sequence = 0
