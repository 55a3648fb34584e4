"""Packets sealed one behind the other, in memory that is used again, for one write.

Pure. Data that follows other data of the same channel becomes part of its packet while
that has room: a relay that gets packets of 32 KiB sends on packets of the size that the
next peer takes.
"""

from __future__ import annotations

import struct

from rtunnel.wire.buffer_pool import BufferPool
from rtunnel.wire.numbers import MSG_CHANNEL_DATA
from rtunnel.wire.packet_cipher import LENGTH_SIZE, Buffer
from rtunnel.wire.packet_stream import DATA_START, MAX_PADDING, PacketSealer
from rtunnel.wire.passing_memory import with_surroundings

#: Bytes of channel data that are given to a run at a time: the largest packet's.
MAX_DATA = 256 * 1024

#: Bytes of a run: those, and small packets beside them. More at a time saves nothing,
#: and what a peer does not read is kept in as much memory.
RUN_SIZE = MAX_DATA + 32 * 1024

#: Bytes of data from which a packet is made where the data is, if that can be. Less may
#: grow, and is copied soon.
IN_PLACE = 16 * 1024

#: Bytes at most by which a packet is longer than its data: length, padding length,
#: message number, channel, data length, padding, tag.
OVERHEAD = LENGTH_SIZE + DATA_START + MAX_PADDING + 32

_DATA_HEADER = struct.Struct(">BBII")

_runs = BufferPool(RUN_SIZE)
_bodies = BufferPool(MAX_DATA + OVERHEAD)


class PacketRun:
    """What one end of a connection sends next; for ciphers that seal in place.

    :param sealer: whose packets these are. Nothing else may be sealed by it between
        :meth:`add` or :meth:`add_data` and :meth:`take`.
    """

    __slots__ = ("_body", "_channel", "_end", "_memory", "_sealer", "_size")

    def __init__(self, sealer: PacketSealer) -> None:
        self._sealer = sealer
        self._memory: memoryview | None = None
        self._size = 0
        # The packet that still grows: its body, where that ends, its channel.
        self._body: memoryview | None = None
        self._end = 0
        self._channel = -1

    @property
    def is_begun(self) -> bool:
        """Whether there is anything to be sent."""
        return self._memory is not None

    def has_room(self, size: int, limit: int, sealed: int = 0) -> bool:
        """Whether ``size`` bytes fit.

        :param limit: bytes of them in one packet.
        :param sealed: bytes of sealed packets that would go before them.
        """
        growing = 0 if self._body is None else self._end + OVERHEAD
        wanted = size + (size // limit + 1) * OVERHEAD
        return self._size + growing + sealed + wanted <= RUN_SIZE

    def add_sealed(self, data: bytes) -> None:
        """Append packets that the sealer has made already; the run's first."""
        self._begin(len(data))[: len(data)] = data
        self._size = len(data)

    def add(self, number: int, payload: Buffer, data: Buffer = b"") -> int:
        """Append a packet.

        :param number: the message number.
        :param payload: the message without it.
        :param data: more of the message.
        :return: bytes of it.
        """
        self._seal_growing()
        data_start = 2 + len(payload)
        end = data_start + len(data)
        body = _bodies.take(end + OVERHEAD)
        body[1] = number
        body[2:data_start] = payload
        body[data_start:end] = data
        size = self._seal(body, end)
        _bodies.give_back(body)
        return size

    def add_data(self, channel: int, data: Buffer, limit: int) -> None:
        """Append data, as part of the packet before if that is possible.

        :param channel: the peer's number of it.
        :param limit: bytes of data in one packet.
        """
        body = self._body
        if body is not None:
            end = self._end + len(data)
            room = min(DATA_START + limit, len(body) - OVERHEAD)
            if channel == self._channel and end <= room:
                body[self._end : end] = data
                self._end = end
                return
            self._seal_growing()
        self._channel = channel
        size = len(data)
        if size >= IN_PLACE:
            frame = with_surroundings(data, DATA_START, MAX_PADDING)
            if frame is not None:
                out = self._begin(size)[self._size :]
                self._size += self._sealer.seal_data(channel, frame, size, limit, out)
                return
        self._begin(size)
        body = _bodies.take(limit + OVERHEAD)
        if size > limit:
            # The last packet, full or not, may grow.
            last = (size - 1) // limit * limit
            for start in range(0, last, limit):
                self._end = DATA_START + limit
                body[DATA_START : self._end] = data[start : start + limit]
                self._seal_data(body)
            data = data[last:]
        self._end = DATA_START + len(data)
        body[DATA_START : self._end] = data
        self._body = body

    def take(self) -> tuple[memoryview, memoryview]:
        """The packets, and the memory that they are in.

        The caller gives it to :func:`give_back` when they have been sent. After that
        the run begins anew.
        """
        self._seal_growing()
        memory = self._memory
        assert memory is not None
        packets = memory[: self._size]
        self._memory = None
        self._size = 0
        return packets, memory

    def drop(self) -> None:
        """Forget what was not taken."""
        if self._body is not None:
            _bodies.give_back(self._body)
            self._body = None
        if self._memory is not None:
            _runs.give_back(self._memory)
            self._memory = None
        self._size = 0

    def _begin(self, size: int) -> memoryview:
        if self._memory is None:
            self._memory = _runs.take(size + OVERHEAD)
        return self._memory

    def _seal_growing(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            self._seal_data(body)
            _bodies.give_back(body)

    def _seal_data(self, body: memoryview) -> None:
        size = self._end - DATA_START
        _DATA_HEADER.pack_into(body, 0, 0, MSG_CHANNEL_DATA, self._channel, size)
        self._seal(body, self._end)

    def _seal(self, body: memoryview, end: int) -> int:
        memory = self._begin(end)
        size = self._sealer.seal_in_place(body, end, memory[self._size :])
        self._size += size
        return size


def give_back(memory: memoryview) -> None:
    """Let the memory of a run that has been sent be used again."""
    _runs.give_back(memory)
