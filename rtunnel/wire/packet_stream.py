"""Both directions of a connection as packets: bytes in and out, keys, sequence numbers.

One object per direction, as each changes its keys on its own NEWKEYS. Pure: what may
arrive when is decided above.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from rtunnel.errors import ProtocolError
from rtunnel.wire.buffer_pool import BufferPool
from rtunnel.wire.bulk_cipher import BulkCipher, as_bulk_cipher
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
from rtunnel.wire.passing_memory import PassingMemory

_SEQUENCE_MASK = 2**32 - 1
_WRONG_LENGTH = "channel data of another length than it says"

#: Bytes of padding at most: what fills a block of 16, and the least there has to be.
MAX_PADDING = 31

#: Bytes of data from which a packet is worth a buffer.
BULK = 2048

#: Bytes read at a time into the buffer that all connections share.
READ_SIZE = 512 * 1024

#: Bytes before them, for the part of a packet that came with the read before.
_HEADROOM = 320 * 1024

#: Where :meth:`PacketOpener.get_buffer` has the peer's bytes put. One for all: it is in
#: use only from a read until what came has been dealt with.
_received = bytearray()

#: For what has been decrypted. Rarely more than one: a packet is dealt with before the
#: next is opened.
_plain_buffers = BufferPool(READ_SIZE + 1024, allocate=PassingMemory)

#: The two numbers in front of channel data.
_TWO_NUMBERS = struct.Struct(">II")
DATA_FIELDS = _TWO_NUMBERS.size

#: A packet's body up to its data: padding length, message number, channel, data length.
_DATA_HEADER = struct.Struct(">BBII")
DATA_START = _DATA_HEADER.size


class PacketSealer:
    """What we send.

    ``sequence`` is the number of the next packet, modulo 2^32 (RFC 4253 section 6.4);
    ``packets`` and ``sealed`` count packets and bytes under the present keys.

    :param random: this many random bytes, for padding; asked for each packet.
    """

    __slots__ = (
        "_bulk",
        "_cipher",
        "_random",
        "packets",
        "sealed",
        "sequence",
    )

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

    @property
    def seals_in_place(self) -> bool:
        """Whether :meth:`seal_in_place` works under the present keys."""
        return self._bulk is not None

    def seal_in_place(self, body: memoryview, end: int, out: memoryview) -> int:
        """Write one packet to ``out``, memory that is used again.

        :param body: from its second byte to ``end`` a message with its number. Before
            and behind it the padding gets written.
        :param out: room for the packet, and more.
        :return: bytes in the packet.
        """
        cipher = self._bulk
        assert cipher is not None
        padding = padding_length(cipher, end - 1)
        body[0] = padding
        padded = end + padding
        body[end:padded] = self._random(padding)
        size = LENGTH_SIZE + padded + cipher.tag_length
        cipher.seal_into(self.sequence, body[:padded], out[:size])
        self._count(size)
        return size

    def seal_data(
        self, channel: int, frame: memoryview, size: int, limit: int, out: memoryview
    ) -> int:
        """Write channel data in as many packets as it takes, sealed where it is.

        :param channel: the peer's number of it.
        :param frame: the data, with :data:`DATA_START` bytes in front and
            :data:`MAX_PADDING` behind, which stay as they were.
        :param size: bytes of data.
        :param limit: bytes of it in one packet.
        :param out: room for the packets, and more.
        :return: bytes in them.
        """
        cipher = self._bulk
        assert cipher is not None
        seal_into, tag_length = cipher.seal_into, cipher.tag_length
        written = count = end = padding = padded = length = 0
        # A loop without calls that can be spared: stock clients take 32 KiB a packet.
        for start in range(0, size, limit):
            if count != min(limit, size - start):
                count = min(limit, size - start)
                end = DATA_START + count
                padding = padding_length(cipher, end - 1)
                padded = end + padding
                length = LENGTH_SIZE + padded + tag_length
            # In front of it is what has been sealed, or a header that has been read.
            body = frame[start : start + padded]
            _DATA_HEADER.pack_into(body, 0, padding, MSG_CHANNEL_DATA, channel, count)
            behind = bytes(body[end:])
            body[end:] = self._random(padding)
            seal_into(self.sequence, body, out[written : written + length])
            body[end:] = behind
            written += length
            self.sequence = (self.sequence + 1) & _SEQUENCE_MASK
            self.packets += 1
        self.sealed += written
        return written

    def _count(self, size: int) -> None:
        self.sequence = (self.sequence + 1) & _SEQUENCE_MASK
        self.packets += 1
        self.sealed += size

    def change_keys(self, cipher: PacketCipher, reset_sequence: bool) -> None:
        """Use ``cipher`` from the next packet on: our NEWKEYS has been sealed.

        :param reset_sequence: whether strict KEX is in force.
        """
        self._cipher = cipher
        self._bulk = as_bulk_cipher(cipher)
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
        "_next",
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
        # Opened, but not taken yet.
        self._next: tuple[int, Buffer] | None = None
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
        left = len(self._buffer) - self._offset
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
            _plain_buffers.give_back(self._plain)
            self._plain = None

    def next_packet(self) -> tuple[int, Buffer] | None:
        """The next whole packet, as message number and payload without it.

        The payload of CHANNEL_DATA may be a view of memory that is used again at the
        next call; every other is bytes.

        :return: None when more bytes are needed.
        :raises ProtocolError: for a length or padding that cannot be, a packet with no
            message in it, and one that is not authentic.
        """
        if self._next is not None:
            packet, self._next = self._next, None
            return packet
        length = self._next_length()
        if length is None:
            return None
        body: Buffer
        if self._bulk is None or length < BULK:
            start, end = self._offset, self._packet_end(length)
            with memoryview(self._buffer) as view:
                body = self._cipher.open(self.sequence, view[start:end])
        else:
            self._release_plain()
            self._plain = _plain_buffers.take(length)
            body = self._plain[:length]
            self._open_into(body)
        number, payload = self._opened(body)
        if number != MSG_CHANNEL_DATA:
            payload = bytes(payload)
        return number, payload

    def gather(self, payload: memoryview) -> tuple[int, memoryview, int]:
        """Channel data, joined with what follows it on the same channel.

        :param payload: of the CHANNEL_DATA that :meth:`next_packet` gave last, a view.
        :return: our number of the channel, the data of one packet or several, which is
            a view of memory that is used again at the next call, and the bytes of data
            in the largest of these packets.
        :raises ProtocolError: as :meth:`next_packet`.
        """
        channel, size = read_data(payload)
        data = payload[DATA_FIELDS:]
        if self._plain is None:
            return channel, data, size
        plain, largest, end = self._plain, size, DATA_START + size
        room = len(plain) + DATA_START
        while (length := self._next_length()) is not None and length >= BULK:
            # The packet's data is to come right behind the data that is there. What is
            # in front of it comes where the end of that is, which is put back.
            if end + length > room:
                break
            start = end - DATA_START
            overlaid = bytes(plain[start:end])
            body = plain[start : start + length]
            self._open_into(body)
            padding, number, another, size = _DATA_HEADER.unpack_from(body)
            if number != MSG_CHANNEL_DATA or another != channel or not size:
                number, message = self._opened(body)
                self._next = number, bytes(message)
                plain[start:end] = overlaid
                break
            if padding < MIN_PADDING or DATA_START + size + padding != length:
                self._opened(body)
                raise ProtocolError(_WRONG_LENGTH)
            self._count(length)
            plain[start:end] = overlaid
            if size > largest:
                largest = size
            end += size
        return channel, plain[DATA_START:end], largest

    def _next_length(self) -> int | None:
        """What the length field of the next packet says; None if it is not all here."""
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
        if len(buffer) < offset + LENGTH_SIZE + length + cipher.tag_length:
            return None
        return length

    def _packet_end(self, length: int) -> int:
        return self._offset + LENGTH_SIZE + length + self._cipher.tag_length

    def _open_into(self, body: memoryview) -> None:
        assert self._bulk is not None
        start, end = self._offset, self._packet_end(len(body))
        with memoryview(self._buffer) as view:
            self._bulk.open_into(self.sequence, view[start:end], body)

    def _opened(self, body: Buffer) -> tuple[int, Buffer]:
        """Count a packet and take it apart."""
        length = len(body)
        padding = body[0]
        payload_end = length - padding
        if padding < MIN_PADDING or payload_end < 2:
            raise ProtocolError("a packet with impossible padding or no message")
        self._count(length)
        return body[1], body[2:payload_end]

    def _count(self, length: int) -> None:
        """A packet whose length field said so has been opened."""
        size = LENGTH_SIZE + length + self._cipher.tag_length
        self.packets += 1
        self.opened += size
        self.sequence = (self.sequence + 1) & _SEQUENCE_MASK
        self._offset += size
        self._length = None

    def change_keys(self, cipher: PacketCipher, reset_sequence: bool) -> None:
        """Use ``cipher`` from the next packet on: the peer's NEWKEYS has been read.

        :param reset_sequence: whether strict KEX is in force.
        """
        self._cipher = cipher
        self._bulk = as_bulk_cipher(cipher)
        self.packets = 0
        self.opened = 0
        if reset_sequence:
            self.sequence = 0


def read_data(payload: Buffer) -> tuple[int, int]:
    """Channel and size of CHANNEL_DATA.

    :raises ProtocolError: when the size is not that of the data.
    """
    if len(payload) < DATA_FIELDS:
        raise ProtocolError("channel data without its length")
    channel, size = _TWO_NUMBERS.unpack_from(payload)
    if len(payload) != DATA_FIELDS + size:
        raise ProtocolError(_WRONG_LENGTH)
    return channel, size
