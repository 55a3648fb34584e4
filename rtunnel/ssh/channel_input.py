"""The receiving half of a channel: data, held inside the window until it is taken."""

from __future__ import annotations

from typing import Protocol

from rtunnel.counting import counted
from rtunnel.splice import StreamReceiver, deliver
from rtunnel.wire.byte_queue import ByteQueue
from rtunnel.wire.packet_cipher import Buffer
from rtunnel.wire.window import ReceiveWindow

#: Bytes delivered at a time of what was held.
_PIECE = 256 * 1024


class InputOwner(Protocol):
    """What the receiving half needs of its channel."""

    def grant(self, window: ReceiveWindow) -> None:
        """Credit is due: let the peer send more, if it still can."""

    def receiver_raised(self) -> None:
        """The receiver raised what is being handled now; end the channel."""


class ChannelInput:
    """Data reaches the receiver in order, and only while it is not paused.

    What it does not take stays inside the window that the peer was given; credit goes
    back when the receiver has taken half of that, and never while it is paused.

    :param owner: the channel.
    :param window: what the peer may send.
    :param max_packet: bytes of data that the peer may send in one packet.
    """

    __slots__ = (
        "_delivering",
        "_eof_delivered",
        "_held",
        "_max_packet",
        "_owner",
        "_paused",
        "discarding",
        "eof",
        "receiver",
        "window",
    )

    def __init__(
        self, owner: InputOwner, window: ReceiveWindow, max_packet: int
    ) -> None:
        self._owner = owner
        self._max_packet = max_packet
        self._held: ByteQueue | None = None
        self._paused = False
        self._delivering = False
        self._eof_delivered = False
        self.window = window
        self.receiver: StreamReceiver | None = None
        #: Whether the peer has sent EOF.
        self.eof = False
        #: Whether data is dropped instead of delivered.
        self.discarding = False

    @property
    def held(self) -> int:
        """Bytes that came and were not delivered yet."""
        return len(self._held or b"")

    @property
    def is_drained(self) -> bool:
        """Whether the receiver has been told everything that came so far."""
        if self.discarding:
            return True
        if self._held or self._delivering:
            return False
        return self.receiver is None or self.eof == self._eof_delivered

    def violation(self, size: int, largest: int) -> str:
        """What is wrong with data of ``size`` bytes arriving now; empty if nothing.

        :param largest: bytes in the largest packet that it came in.
        """
        if size > self.window.remaining:
            return (
                f"the peer sent {counted(size, 'byte')} of data where the window has "
                f"{self.window.remaining}"
            )
        if largest > self._max_packet:
            return (
                f"the peer sent {largest} bytes of data in a packet; "
                f"{self._max_packet} is the limit"
            )
        if self.eof:
            return "the peer sent data after end of data"
        return ""

    def receive(self, data: Buffer) -> None:
        """Deliver, hold or drop data that :meth:`violation` has nothing against."""
        size = len(data)
        window = self.window
        window.remaining -= size
        window.held += size
        if self.discarding:
            self._consumed(size)
        elif self.receiver is None or self._paused or self._delivering:
            if self._held is None:
                self._held = ByteQueue()
            self._held.append(data)
        elif size:
            self._deliver(self.receiver, data)
            if self._held or self.eof:
                # That came while the receiver was busy with this.
                self.deliver_held()

    def drop(self, size: int) -> None:
        """Count data that is for nobody."""
        self.window.received(size)
        self._consumed(size)

    def receive_eof(self) -> None:
        """End of data, after everything held. What is repeated is ignored."""
        self.eof = True
        self.deliver_held()

    def deliver_held(self) -> None:
        """Deliver what the receiver takes now, and end of data when that is all."""
        receiver = self.receiver
        if receiver is None or self._delivering or self.discarding:
            return
        if not self._paused and self.window.is_due:
            self._owner.grant(self.window)
        held = self._held
        if held:
            while held and not self._paused:
                self._deliver(receiver, held.take(_PIECE))
            if held:
                return
        if self.eof and not self._eof_delivered and not self.discarding:
            self._eof_delivered = True
            self._delivering = True
            try:
                receiver.eof_received()
            except Exception:
                self._owner.receiver_raised()
            finally:
                self._delivering = False

    def pause(self) -> None:
        """Deliver no data, and give the peer no more window."""
        self._paused = True

    def resume(self) -> None:
        """Deliver again."""
        if self._paused:
            self._paused = False
            self.deliver_held()

    def discard(self) -> None:
        """Deliver nothing any more, but let the peer go on sending.

        It may have to finish writing before it reads what we still have for it.
        """
        self.discarding = True
        if self._held:
            self._consumed(self._held.clear())

    def end(self) -> None:
        """Nothing can come any more: drop what is held, and free the window."""
        self.discarding = True
        if self._held:
            self._held.clear()
        self.window.release()

    def _deliver(self, receiver: StreamReceiver, data: Buffer) -> None:
        self._delivering = True
        try:
            deliver(receiver, data)
        except Exception:
            self._owner.receiver_raised()
        finally:
            self._delivering = False
        # No more than is held: the receiver may have ended the channel.
        self._consumed(min(len(data), self.window.held))

    def _consumed(self, size: int) -> None:
        window = self.window
        window.consumed(size)
        if window.is_due and (self.discarding or not self._paused):
            self._owner.grant(window)
