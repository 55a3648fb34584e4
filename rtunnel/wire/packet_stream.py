"""Both directions of a connection as packets: bytes in and out, keys, sequence numbers.

One object per direction, as each changes its keys on its own NEWKEYS. Pure: what may
arrive when is decided above.
"""

from __future__ import annotations

from collections.abc import Callable

from rtunnel.errors import ProtocolError
from rtunnel.wire.bulk_cipher import BulkCipher
from rtunnel.wire.numbers import MSG_CHANNEL_DATA
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

#: Bytes of data from which a packet is worth a buffer.
BULK = 2048

#: Bytes read at a time into the buffer that all connections share.
READ_SIZE = 512 * 1024

#: Bytes before them, for the part of a packet that came with the read before.
_HEADROOM = 320 * 1024

#: Where :meth:`PacketOpener.get_buffer` has the peer's bytes put. One for all: it is in
#: use only from a read until what came has been dealt with.
_received = bytearray()

#: Buffers for what has been decrypted, and what is to be encrypted, while no one has
#: them. Rarely more than one of each: a packet is dealt with before the next is opened.
_plain_buffers: list[memoryview] = []
_packet_buffers: list[memoryview] = []


def _take(buffers: list[memoryview], size: int) -> memoryview:
    if buffers and len(buffers[-1]) >= size:
        return buffers.pop()
    return memoryview(bytearray(max(size, 64 * 1024)))


class PacketSealer:
    """What we send.

    ``sequence`` is the number of the next packet, modulo 2^32 (RFC 4253 section 6.4);
    ``packets`` and ``sealed`` count packets and bytes under the present keys.

    :param random: this many random bytes, for padding.
    """

    __slots__ = ("_bulk", "_cipher", "_random", "packets", "sealed", "sequence")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._cipher: PacketCipher = ClearCipher()
        self._random = random
        self._bulk: BulkCipher | None = None
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
        self._count(size)
        return size

    def seal_bulk(
        self,
        number: int,
        payload: Buffer,
        data: Buffer,
        send: Callable[[memoryview], None],
    ) -> int:
        """Hand one packet to ``send`` in memory that is used again.

        :param number: the message number.
        :param payload: the message without it.
        :param data: more of the message.
        :param send: must be done with the packet when it returns.
        :return: bytes in the packet; 0 when the cipher cannot do this, and nothing has
            been sent.
        """
        cipher = self._bulk
        if cipher is None:
            return 0
        length = 1 + len(payload) + len(data)
        padding = padding_length(cipher, length)
        data_start = 2 + len(payload)
        data_end = 1 + length
        end = data_end + padding
        size = LENGTH_SIZE + end + cipher.tag_length
        body = _take(_plain_buffers, end)
        packet = _take(_packet_buffers, size)
        body[0] = padding
        body[1] = number
        body[2:data_start] = payload
        body[data_start:data_end] = data
        body[data_end:end] = self._random(padding)
        cipher.seal_into(body[:end], packet[:size])
        self._count(size)
        _plain_buffers.append(body)
        send(packet[:size])
        _packet_buffers.append(packet)
        return size

    def _count(self, size: int) -> None:
        self.sequence = (self.sequence + 1) & _SEQUENCE_MASK
        self.packets += 1
        self.sealed += size

    def change_keys(self, cipher: PacketCipher, reset_sequence: bool) -> None:
        """Use ``cipher`` from the next packet on: our NEWKEYS has been sealed.

        :param reset_sequence: whether strict KEX is in force.
        """
        self._cipher = cipher
        self._bulk = cipher if isinstance(cipher, BulkCipher) else None
        self.packets = 0
        self.sealed = 0
        if reset_sequence:
            self.sequence = 0


class PacketOpener:
    """What the peer sends.

    Bytes come by :meth:`feed`, or are put by the caller where :meth:`get_buffer` says;
    after that :meth:`next_packet` until there is none, and :meth:`keep`. ``sequence``
    is the number of the next packet, ``packets`` and ``opened`` count
    packets and bytes under the present keys. After an error it is of no more use.

    :param limit: bytes that a length field may say; may be changed later.
    """

    __slots__ = (
        "_buffer",
        "_bulk",
        "_cipher",
        "_length",
        "_offset",
        "_plain",
        "limit",
        "opened",
        "packets",
        "sequence",
    )

    def __init__(self, limit: int) -> None:
        self._cipher: PacketCipher = ClearCipher()
        self._bulk: BulkCipher | None = None
        self._plain: memoryview | None = None
        # Bytes are what was fed last and is read in place, as is a view, of the buffer
        # that is shared; a bytearray is a packet in the making, to which appending
        # costs only what is appended.
        self._buffer: Buffer = b""
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

    def get_buffer(self) -> memoryview:
        """Where to put bytes from the peer; :meth:`buffer_updated` says how many."""
        if not _received:
            _received.extend(bytes(_HEADROOM + READ_SIZE))
        return memoryview(_received)[_HEADROOM:]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have been put where :meth:`get_buffer` said."""
        buffer = memoryview(_received)
        left = self.buffered
        if left > _HEADROOM:
            self.feed(bytes(buffer[_HEADROOM : _HEADROOM + nbytes]))
            return
        start = _HEADROOM - left
        if left:
            buffer[start:_HEADROOM] = memoryview(self._buffer)[self._offset :]
        self._buffer = buffer[start : _HEADROOM + nbytes]
        self._offset = 0

    def keep(self) -> None:
        """No whole packet is left: give shared memory back."""
        self._release_plain()
        if isinstance(self._buffer, memoryview):
            self._buffer = bytes(self._buffer[self._offset :])
            self._offset = 0

    def _release_plain(self) -> None:
        if self._plain is not None:
            _plain_buffers.append(self._plain)
            self._plain = None

    def next_packet(self) -> tuple[int, Buffer] | None:
        """The next whole packet, as message number and payload without it.

        The payload of CHANNEL_DATA may be a view of memory that is used again at the
        next call; every other is bytes.

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
        self._release_plain()
        body: Buffer
        with memoryview(buffer) as view:
            if self._bulk is None or length < BULK:
                body = cipher.open(self.sequence, view[offset:end])
            else:
                self._plain = _take(_plain_buffers, length)
                body = self._plain[:length]
                self._bulk.open_into(view[offset:end], body)
        padding = body[0]
        payload_end = length - padding
        if padding < MIN_PADDING or payload_end < 2:
            raise ProtocolError("a packet with impossible padding or no message")
        self._offset = end
        self._length = None
        self.sequence = (self.sequence + 1) & _SEQUENCE_MASK
        self.packets += 1
        self.opened += end - offset
        number, payload = body[1], body[2:payload_end]
        if number != MSG_CHANNEL_DATA:
            payload = bytes(payload)
        return number, payload

    def change_keys(self, cipher: PacketCipher, reset_sequence: bool) -> None:
        """Use ``cipher`` from the next packet on: the peer's NEWKEYS has been read.

        :param reset_sequence: whether strict KEX is in force.
        """
        self._cipher = cipher
        self._bulk = cipher if isinstance(cipher, BulkCipher) else None
        self.packets = 0
        self.opened = 0
        if reset_sequence:
            self.sequence = 0
