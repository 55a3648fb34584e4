"""Test doubles for programs and tests that use rtunnel's streams and connections.

Nothing here opens a socket or reads a clock: time is a :class:`twisted.internet.task.
Clock`, and packets move when :meth:`ConnectionPair.pump` says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from twisted.internet.task import Clock
from zope.interface import implementer

from rtunnel.errors import OPEN_UNKNOWN_CHANNEL_TYPE, OpenRefused, ProtocolError
from rtunnel.naming import printable
from rtunnel.splice import StreamReceiver
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.trust.identity import Identity
from rtunnel.trust.login_proof import LoginProof
from rtunnel.wire.data_types import Reader, text, uint32
from rtunnel.wire.numbers import MSG_CHANNEL_DATA, MSG_DISCONNECT, MSG_UNIMPLEMENTED
from rtunnel.wire.packet_cipher import Buffer


class RecordingReceiver:
    """A :class:`~rtunnel.splice.StreamReceiver` that keeps what it is told.

    :param on_data: also called with each piece of data, after it is kept.
    """

    def __init__(self, on_data: Callable[[bytes], None] | None = None) -> None:
        self.data = bytearray()
        #: What came, in order: "data" (neighbours merged), "eof", "closed".
        self.events: list[str] = []
        #: The reasons given to ``closed``; one at most, if the stream is right.
        self.reasons: list[str | None] = []
        self._on_data = on_data

    @property
    def has_eof(self) -> bool:
        """Whether end of data came."""
        return "eof" in self.events

    @property
    def is_closed(self) -> bool:
        """Whether the stream has closed."""
        return bool(self.reasons)

    def data_received(self, data: bytes) -> None:
        """Keep ``data``."""
        self.data += data
        if self.events[-1:] != ["data"]:
            self.events.append("data")
        if self._on_data is not None:
            self._on_data(data)

    def eof_received(self) -> None:
        """Note the end of data."""
        self.events.append("eof")

    def closed(self, reason: str | None) -> None:
        """Note the end, and why."""
        self.events.append("closed")
        self.reasons.append(reason)


@implementer(IPushProducer)
class RecordingProducer:
    """A push producer that notes what it is told to do."""

    def __init__(self) -> None:
        self.paused = False
        self.stopped = False
        self.pauses = 0

    def pauseProducing(self) -> None:
        """Note it."""
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        """Note it."""
        self.paused = False

    def stopProducing(self) -> None:
        """Note it."""
        self.stopped = True


@implementer(IConsumer, IPushProducer)
class MemoryStream:
    """A :class:`~rtunnel.splice.Stream` whose far end is the test.

    What is written collects in ``written``. Above ``capacity`` bytes the producer is
    paused, until :meth:`take` makes room.

    :param capacity: bytes.
    """

    def __init__(self, capacity: int = 65536) -> None:
        self.capacity = capacity
        self.receiver: StreamReceiver | None = None
        self.written = bytearray()
        self.taken = bytearray()
        self.paused = False
        self.eof_written = False
        self.closing = False
        self.finished = False
        self._reason: str | None = None
        self._producer: IPushProducer | None = None
        self._producer_paused = False

    def start(self, receiver: StreamReceiver) -> None:
        """Remember whom to tell."""
        self.receiver = receiver
        if self.finished:
            receiver.closed(self._reason)

    def write(self, data: bytes) -> None:
        """Collect ``data``."""
        if self.eof_written or self.finished:
            return
        self.written += data
        if (
            self._producer is not None
            and not self._producer_paused
            and len(self.written) > self.capacity
        ):
            self._producer_paused = True
            self._producer.pauseProducing()

    def write_eof(self) -> None:
        """Note it."""
        self.eof_written = True

    def close(self) -> None:
        """Finish, once everything written has been taken."""
        self.eof_written = self.closing = True
        self._finish_if_flushed()

    def abort(self) -> None:
        """Drop what was not taken, and finish."""
        self.written.clear()
        self.finish("aborted")

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Remember whom to pause."""
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        self._producer = cast(IPushProducer, producer)
        self._producer_paused = False

    def unregisterProducer(self) -> None:
        """Forget it."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Note it."""
        self.paused = True

    def resumeProducing(self) -> None:
        """Note it."""
        self.paused = False

    def stopProducing(self) -> None:
        """The same as :meth:`close`."""
        self.close()

    # What the test calls.

    def feed(self, data: bytes) -> None:
        """The far end sends ``data``."""
        assert self.receiver is not None
        self.receiver.data_received(data)

    def feed_eof(self) -> None:
        """The far end sends end of data."""
        assert self.receiver is not None
        self.receiver.eof_received()

    def take(self, count: int | None = None) -> bytes:
        """The far end takes up to ``count`` bytes of what was written, or all."""
        count = len(self.written) if count is None else count
        taken = bytes(self.written[:count])
        del self.written[:count]
        self.taken += taken
        if not self.written and self._producer is not None and self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()
        self._finish_if_flushed()
        return taken

    def finish(self, reason: str | None) -> None:
        """The stream ends. What is repeated is ignored."""
        if not self.finished:
            self.finished = self.eof_written = True
            self._reason = reason
            if self.receiver is not None:
                self.receiver.closed(reason)

    def _finish_if_flushed(self) -> None:
        if self.closing and not self.written:
            self.finish(None)


class RecordingHandler:
    """A :class:`~rtunnel.ssh.connection.ConnectionHandler` for tests.

    :param opener: answers the peer's opens; without it every one is refused.
    """

    def __init__(
        self, opener: Callable[[OpenRequest], Awaitable[Attach]] | None = None
    ) -> None:
        self.opener = opener
        self.connection: Connection | None = None
        self.requests: list[OpenRequest] = []
        self.global_requests: list[tuple[bytes, bytes]] = []
        #: What to answer to a global request, by its name.
        self.global_answers: dict[bytes, bytes] = {}
        self.lost: list[str] = []

    def connection_started(self, connection: Connection) -> None:
        """Keep ``connection``."""
        self.connection = connection

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """Keep ``request``, and let the opener decide."""
        self.requests.append(request)
        if self.opener is None:
            raise OpenRefused(OPEN_UNKNOWN_CHANNEL_TYPE, "unknown channel type")
        return await self.opener(request)

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """Keep it, and answer as told."""
        self.global_requests.append((name, data))
        return self.global_answers.get(name)

    def connection_lost(self, reason: str) -> None:
        """Keep ``reason``."""
        self.lost.append(reason)


class AcceptingHandler(RecordingHandler):
    """Confirms every channel at once, and keeps it in ``channels``."""

    def __init__(self) -> None:
        super().__init__(self._accept)
        self.channels: list[Channel] = []

    async def _accept(self, request: OpenRequest) -> Attach:
        return self.channels.append


class MemoryTransport:
    """Stands for the SSH transport under one end of a :class:`ConnectionPair`.

    :param capacity: bytes sent and not moved yet above which it is not writable.
    """

    def __init__(
        self, clock: Clock, capacity: int, identity: Identity | None = None
    ) -> None:
        self.clock = clock
        self.capacity = capacity
        self.identity = identity
        self.session_id = bytes(32)
        self.login_proof: LoginProof | None = None
        self.is_writable = True
        self.last_received = clock.seconds()
        self.close_reason = ""
        self.service: Connection | None = None
        #: Messages on their way to the other end.
        self.outbox: deque[tuple[int, bytes]] = deque()
        self.outbox_size = 0
        #: Numbers of all messages ever sent.
        self.sent: list[int] = []
        self.lost = False
        #: Whether the token that has logged the peer in was good; None before its use.
        self.token_is_good: bool | None = None

    def token_was_good(self) -> None:
        """The bearer of a token is somebody now."""
        self.token_is_good = True

    def token_was_refused(self) -> None:
        """The token was refused after the login."""
        self.token_is_good = False

    def run(self, service: Connection) -> None:
        """Start ``service`` on this transport."""
        self.service = service
        service.transport = self
        service.serviceStarted()

    def sendPacket(self, messageType: int, payload: bytes, data: Buffer = b"") -> None:
        """Put one message on its way."""
        if self.close_reason:
            return
        self._put(messageType, payload + bytes(data))
        if self.outbox_size > self.capacity and self.is_writable:
            self.is_writable = False
            if self.service is not None:
                self.service.pause_writing()

    def send_data(self, channel: int, data: Buffer, limit: int) -> None:
        """Put CHANNEL_DATA on its way, in as many messages as it takes."""
        for start in range(0, len(data), limit):
            piece = data[start : start + limit]
            header = uint32(channel) + uint32(len(piece))
            self.sendPacket(MSG_CHANNEL_DATA, header, piece)

    def disconnect(self, reason_code: int, description: str) -> None:
        """Say goodbye; the service is stopped when the messages have moved."""
        if not self.close_reason:
            self._put(MSG_DISCONNECT, uint32(reason_code) + text(description))
            self.close_reason = description or "closed"

    peer_said_goodbye = False

    def expect_peer_to_read(self, seconds: float) -> None:
        """There is no TCP here."""

    def sendUnimplemented(self) -> None:
        """Tell the other end that a message is unknown."""
        self.sendPacket(MSG_UNIMPLEMENTED, b"")

    def take_packet(self) -> tuple[int, bytes] | None:
        """Take the oldest message off; None when there is none."""
        if not self.outbox:
            return None
        number, payload = self.outbox.popleft()
        self.outbox_size -= len(payload)
        return number, payload

    def drained(self) -> None:
        """Let the service write again if there is nothing left to move."""
        if not self.outbox and not self.is_writable and not self.close_reason:
            self.is_writable = True
            if self.service is not None:
                self.service.resume_writing()

    def receive(self, number: int, payload: bytes) -> None:
        """The other end's message arrives."""
        if self.close_reason or self.service is None:
            return
        self.last_received = self.clock.seconds()
        try:
            if number == MSG_DISCONNECT:
                reader = Reader(payload)
                reader.uint32()
                self.close_reason = (
                    f"the peer disconnected: {printable(reader.string())}"
                )
            elif number != MSG_UNIMPLEMENTED:
                self.service.packetReceived(number, payload)
        except ProtocolError as error:
            self.disconnect(error.reason_code, str(error))

    def lose(self, reason: str = "the connection was lost") -> None:
        """The connection is gone, without a word to the other end."""
        self.close_reason = self.close_reason or reason
        if not self.lost:
            self.lost = True
            if self.service is not None:
                self.service.serviceStopped()

    def _put(self, number: int, payload: bytes) -> None:
        self.sent.append(number)
        self.outbox.append((number, payload))
        self.outbox_size += len(payload)


class ConnectionPair:
    """Two connections joined in memory; messages move only in :meth:`pump`.

    :param client_handler: of the end that stands for the SSH client.
    :param server_handler: of the other.
    :param capacity: bytes that a transport takes before it is not writable.
    """

    def __init__(
        self,
        client_handler: RecordingHandler | None = None,
        server_handler: RecordingHandler | None = None,
        *,
        clock: Clock | None = None,
        client_limits: ChannelLimits | None = None,
        server_limits: ChannelLimits | None = None,
        capacity: int = 65536,
        identity: Identity | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.client_handler = client_handler or RecordingHandler()
        self.server_handler = server_handler or AcceptingHandler()
        self.client_transport = MemoryTransport(self.clock, capacity)
        self.server_transport = MemoryTransport(self.clock, capacity, identity)
        self.client = Connection(self.client_handler, client_limits)
        self.server = Connection(self.server_handler, server_limits)
        self.client_transport.run(self.client)
        self.server_transport.run(self.server)

    def step(self, source: MemoryTransport) -> bool:
        """Move one message from ``source`` to the other end; whether there was one."""
        packet = source.take_packet()
        sink = (
            self.server_transport
            if source is self.client_transport
            else self.client_transport
        )
        if packet is not None:
            sink.receive(*packet)
        source.drained()
        for transport in (self.client_transport, self.server_transport):
            if transport.close_reason and not transport.outbox:
                transport.lose()
        return packet is not None

    def pump(self) -> int:
        """Move messages both ways until none is left; how many."""
        moved = 0
        busy = True
        while busy:
            busy = False
            for transport in (self.client_transport, self.server_transport):
                if self.step(transport):
                    moved += 1
                    busy = True
        return moved

    def lose(self, reason: str = "the connection was lost") -> None:
        """Cut the connection for both ends; what was on its way is lost."""
        for transport in (self.client_transport, self.server_transport):
            transport.outbox.clear()
            transport.lose(reason)
