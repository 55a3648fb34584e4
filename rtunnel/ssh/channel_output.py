"""The sending half of a channel: data, queued while window or connection are full."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IPushProducer

from rtunnel.wire.byte_queue import ByteQueue
from rtunnel.wire.numbers import MSG_CHANNEL_EXTENDED_DATA
from rtunnel.wire.packet_cipher import Buffer
from rtunnel.wire.packet_run import MAX_DATA
from rtunnel.wire.window import SendWindow

#: SSH_EXTENDED_DATA_STDERR (RFC 4254 section 5.2).
EXTENDED_DATA_STDERR = 1

_EXTENDED_DATA_HEADER = struct.Struct(">III")


class OutputOwner(Protocol):
    """What the sending half needs of its channel and the connection under it."""

    @property
    def is_writable(self) -> bool:
        """Whether the connection takes data from this channel now."""

    @property
    def packet_size(self) -> int:
        """Bytes of data that the next packet may have, whatever the peer allows."""

    @property
    def is_congested(self) -> bool:
        """Whether the connection takes no data from any channel."""

    def send(self, number: int, payload: bytes, data: Buffer = b"", /) -> None:
        """Send a message, ``data`` being its end."""

    def send_data(self, data: Buffer, limit: int, /) -> None:
        """Send CHANNEL_DATA, ``limit`` bytes of it in one packet."""

    def wait_for_turn(self) -> None:
        """Have :meth:`ChannelOutput.take_turn` called when the connection has room."""

    def output_drained(self) -> None:
        """Everything written has been sent."""

    def producer_raised(self) -> None:
        """The producer raised what is being handled now; end the channel."""


class ChannelOutput:
    """Data goes out in order, inside the peer's window, while the connection has room.

    The producer is paused while more than ``queue`` bytes wait for the window, or any
    for the connection.

    :param owner: the channel.
    :param recipient: the peer's number of the channel.
    :param window: what the peer takes.
    :param max_packet: bytes of data to send in one packet.
    :param queue: bytes.
    """

    __slots__ = (
        "_extended",
        "_has_turn",
        "_max_packet",
        "_owner",
        "_producer",
        "_producer_paused",
        "_queue",
        "_queue_limit",
        "_recipient",
        "ended",
        "window",
    )

    def __init__(
        self,
        owner: OutputOwner,
        recipient: int,
        window: SendWindow,
        max_packet: int,
        queue: int,
    ) -> None:
        self._owner = owner
        self._recipient = recipient
        self._max_packet = max_packet
        self._queue_limit = queue
        self._queue: ByteQueue | None = None
        self._extended: ByteQueue | None = None
        self._producer: IPushProducer | None = None
        self._producer_paused = False
        self._has_turn = False
        self.window = window
        #: Whether what is written now is ignored.
        self.ended = False

    @property
    def queued(self) -> int:
        """Bytes written and not sent yet."""
        return len(self._queue or b"") + len(self._extended or b"")

    def write(self, data: Buffer) -> None:
        """Send ``data``, or queue it; of a view, a copy."""
        if self.ended or not data:
            return
        if not self._queue:
            sent = self._send_now(data)
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        if self._queue is None:
            self._queue = ByteQueue()
        self._queue.append(data)
        self.flush()

    def _send_now(self, data: Buffer) -> int:
        """Send the start of ``data`` without queueing it; how many bytes that was."""
        owner, window = self._owner, self.window
        left = size = len(data)
        while left and owner.is_writable:
            limit = min(self._max_packet, owner.packet_size)
            count = min(left, MAX_DATA, window.remaining)
            if not count:
                break
            start = size - left
            piece = data if count == size else memoryview(data)[start : start + count]
            window.remaining -= count
            left -= count
            owner.send_data(piece, limit)
        return size - left

    def write_extended(self, data: bytes) -> None:
        """Send ``data`` as standard error; what :meth:`write` queued goes first."""
        if self.ended or not data:
            return
        if self._extended is None:
            self._extended = ByteQueue()
        self._extended.append(data)
        self.flush()

    def flush(self) -> None:
        """Send what window and connection take."""
        while self._owner.is_writable and self._send_packet():
            pass
        if not self.queued:
            self._drained()
            return
        if self.window.remaining:
            self._wait_for_turn()
        self._pause_producer()

    def take_turn(self) -> bool:
        """The connection has room and it is our turn: send one packet.

        :returns: whether we want another turn.
        """
        self._has_turn = False
        sent = self._send_packet()
        if self.queued:
            self._has_turn = sent
        else:
            self._drained()
        return self._has_turn

    def drop(self) -> None:
        """Forget what was written, and ignore what will be."""
        self.ended = True
        if self._queue:
            self._queue.clear()
        if self._extended:
            self._extended.clear()

    def register_producer(self, producer: IPushProducer) -> None:
        """Pause ``producer`` while what it writes cannot be sent."""
        if self._producer is not None:
            raise RuntimeError("this channel has a producer already")
        self._producer = producer
        self._producer_paused = False
        if self.queued:
            self._pause_producer()

    def unregister_producer(self) -> IPushProducer | None:
        """The producer writes no more; who it was."""
        producer, self._producer = self._producer, None
        self._producer_paused = False
        return producer

    def _send_packet(self) -> bool:
        """Send one packet if there is data and window; whether it did."""
        queue = self._queue or self._extended
        if not queue:
            return False
        limit = min(self._max_packet, self._owner.packet_size)
        data = queue.take(min(limit, self.window.remaining))
        size = len(data)
        if not size:
            return False
        self.window.remaining -= size
        if queue is self._queue:
            self._owner.send_data(data, limit)
        else:
            header = _EXTENDED_DATA_HEADER.pack(
                self._recipient, EXTENDED_DATA_STDERR, size
            )
            self._owner.send(MSG_CHANNEL_EXTENDED_DATA, header, data)
        return True

    def _drained(self) -> None:
        self._owner.output_drained()
        if self._producer is not None and self._producer_paused:
            if self._owner.is_congested:
                self._wait_for_turn()
            else:
                self._producer_paused = False
                self._tell_producer(self._producer.resumeProducing)

    def _wait_for_turn(self) -> None:
        if not self._has_turn:
            self._has_turn = True
            self._owner.wait_for_turn()

    def _pause_producer(self) -> None:
        if (
            self._producer is not None
            and not self._producer_paused
            and (self.queued > self._queue_limit or self._owner.is_congested)
        ):
            self._producer_paused = True
            self._tell_producer(self._producer.pauseProducing)

    def _tell_producer(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:
            self._owner.producer_raised()
