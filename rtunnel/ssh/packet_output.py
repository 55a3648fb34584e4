"""Everything that one end of an SSH connection sends, in the order it goes out.

Packets wait in three places: here while a key exchange allows nothing else, here again
until the read that caused them is done, so that they leave in one write, and in TCP.
All three are bounded. Data should wait with its owner instead, which is what
``is_writable`` is for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from rtunnel.direct_socket import DirectSocket
from rtunnel.ssh.limits import TransportLimits
from rtunnel.ssh.peer_socket import hang_up
from rtunnel.wire.numbers import (
    MSG_CHANNEL_DATA,
    MSG_DEBUG,
    MSG_DISCONNECT,
    MSG_IGNORE,
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_UNIMPLEMENTED,
)
from rtunnel.wire.packet_cipher import Buffer
from rtunnel.wire.packet_run import PacketRun, give_back
from rtunnel.wire.packet_stream import BULK, PacketSealer
from rtunnel.write_batch import BATCH

#: Bytes collected during one read before they are handed to TCP all the same, so that
#: TCP can say that it has had enough.
MAX_CORKED = 64 * 1024

_DATA_HEADER = struct.Struct(">II")

#: What may be sent between our KEXINIT and our NEWKEYS (RFC 4253 section 7.1).
DURING_EXCHANGE = frozenset(
    [
        MSG_DISCONNECT,
        MSG_IGNORE,
        MSG_UNIMPLEMENTED,
        MSG_DEBUG,
        MSG_KEXINIT,
        MSG_NEWKEYS,
        MSG_KEX_ECDH_INIT,
        MSG_KEX_ECDH_REPLY,
    ]
)


@implementer(IPushProducer)
class PacketOutput:
    """The way out. It is the producer that TCP pauses and resumes.

    ``is_writable`` is false while TCP has enough to send or a key exchange holds
    packets back; what is sent all the same is queued, up to the limits.

    :param limits: see ``held_packets``, ``held_bytes`` and ``unread_bytes``.
    :param writable_changed: called when ``is_writable`` has changed.
    :param give_up: called with a reason when a limit is passed, from any depth of the
        code that sends; ends the connection.
    """

    def __init__(
        self,
        sealer: PacketSealer,
        limits: TransportLimits,
        writable_changed: Callable[[], None],
        give_up: Callable[[str], None],
    ) -> None:
        self.is_writable = True
        self.is_holding = False
        self._sealer = sealer
        self._limits = limits
        self._writable_changed = writable_changed
        self._give_up = give_up
        self._transport: Any = None
        self._direct: DirectSocket | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._run = PacketRun(sealer)
        self._in_batch = False
        self._held: list[tuple[int, bytes, bytes]] = []
        self._held_size = 0
        self._tcp_is_full = False
        self._unread = 0
        self._closed = False

    def connect(self, transport: Any, direct: DirectSocket | None = None) -> None:
        """Start with a TCP transport, or what stands for one.

        :param direct: the way round it, if there is one.
        """
        self._transport = transport
        self._direct = direct
        transport.registerProducer(self, True)

    def send_line(self, line: bytes) -> None:
        """Send our version line, given without its end."""
        self._pieces.append(line + b"\r\n")
        self._collected()

    def send(self, number: int, payload: bytes, data: Buffer = b"") -> None:
        """Send one packet, or queue it while a key exchange runs.

        :param number: the message number.
        :param payload: the message without it.
        :param data: more of the message, so that the caller need not join the two. Its
            memory is the caller's again when this returns.
        """
        if self._closed:
            return
        if self.is_holding and number not in DURING_EXCHANGE:
            self._hold(number, payload, bytes(data))
            return
        run = self._run
        begun = run.is_begun
        if begun:
            whole = len(payload) + len(data)
            if not (self._sealer.seals_in_place and run.has_room(whole, whole)):
                self.flush()
                begun = False
        if begun:
            size = run.add(number, payload, data)
        else:
            size = self._sealer.seal(number, payload, data, self._pieces)
            self._size += size
        if not self._tcp_is_full or self._count_unread(size):
            self._collected()

    def send_data(self, channel: int, data: Buffer, limit: int) -> None:
        """Send data of a channel, or queue it while a key exchange runs.

        :param channel: the peer's number of it.
        :param data: ``MAX_DATA`` bytes at most. Its memory is the caller's again
            when this returns.
        :param limit: bytes in one packet. More are sent in several, fewer may become a
            part of the packet before.
        """
        if (
            (len(data) < BULK and not self._run.is_begun)
            or self._direct is None
            or self._closed
            or self.is_holding
            or not self._sealer.seals_in_place
        ):
            if len(data) <= limit:
                header = _DATA_HEADER.pack(channel, len(data))
                self.send(MSG_CHANNEL_DATA, header, data)
                return
            for start in range(0, len(data), limit):
                piece = data[start : start + limit]
                header = _DATA_HEADER.pack(channel, len(piece))
                self.send(MSG_CHANNEL_DATA, header, piece)
            return
        run = self._run
        if not run.has_room(len(data), limit, self._size):
            self.flush()
        elif self._pieces:
            run.add_sealed(b"".join(self._pieces))
            self._pieces.clear()
            self._size = 0
        run.add_data(channel, data, limit)
        if not self._tcp_is_full or self._count_unread(len(data)):
            self._collected()

    def _count_unread(self, size: int) -> bool:
        self._unread += size
        if self._unread > self._limits.unread_bytes:
            self._give_up("the peer does not read what we send")
            return False
        return True

    def _hold(self, number: int, payload: bytes, data: bytes) -> None:
        self._held.append((number, payload, data))
        self._held_size += len(payload) + len(data)
        limits = self._limits
        if len(self._held) > limits.held_packets or self._held_size > limits.held_bytes:
            self._give_up("too much waits for the key exchange to end")

    def hold(self) -> None:
        """Our KEXINIT has been sent: nothing but key exchange until :meth:`release`."""
        self.is_holding = True
        self._update()

    def release(self) -> None:
        """Our NEWKEYS has been sent: what was held goes out, in its order."""
        self.is_holding = False
        held, self._held, self._held_size = self._held, [], 0
        with BATCH:
            for packet in held:
                self.send(*packet)
            self._update()

    def _collected(self) -> None:
        """Something is to be sent: now, or when the batch ends."""
        if not BATCH.is_open or self._size > MAX_CORKED:
            self.flush()
        elif not self._in_batch:
            self._in_batch = True
            BATCH.add(self)

    def flush(self) -> None:
        """Hand to TCP what has been collected."""
        self._in_batch = False
        run = self._run
        if run.is_begun:
            assert self._direct is not None
            packets, memory = run.take()
            self._direct.write_lent(packets, memory, give_back)
        elif self._pieces:
            pieces, self._pieces = self._pieces, []
            self._size = 0
            if self._direct is not None:
                self._direct.write(b"".join(pieces))
            else:
                self._transport.writeSequence(pieces)

    def close(self, *, linger: bool) -> None:
        """Send what was collected and hang up; nothing can be sent any more.

        :param linger: whether to let the peer read it, and wait for it to hang up.
        """
        if self._closed:
            return
        self._closed = True
        self.flush()
        self._held.clear()
        # TCP keeps a connection open for a producer, whatever loseConnection says.
        self._transport.unregisterProducer()
        if linger:
            hang_up(self._transport)
        else:
            self._transport.loseConnection()

    def drop(self) -> None:
        """The connection is gone: forget what was not sent."""
        self._closed = True
        self._pieces.clear()
        self._run.drop()
        self._held.clear()

    def _update(self) -> None:
        writable = not self._tcp_is_full and not self.is_holding
        if writable != self.is_writable:
            self.is_writable = writable
            if not self._closed:
                self._writable_changed()

    def pauseProducing(self) -> None:
        """TCP has enough to send."""
        self._tcp_is_full = True
        self._update()

    def resumeProducing(self) -> None:
        """TCP has sent all it had."""
        self._tcp_is_full = False
        self._unread = 0
        with BATCH:
            self._update()

    def stopProducing(self) -> None:
        """The connection is lost, which its owner hears elsewhere."""
