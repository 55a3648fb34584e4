"""The ssh-connection service (RFC 4254): channels and global requests over a transport.

Either end may open channels; opening is asynchronous both ways, and the confirmation
is sent when what the channel leads to is really there. The messages of a peer raise
nothing but ProtocolError, which the transport answers with a disconnect.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

import attrs
from twisted.conch.ssh.service import SSHService
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
    ConnectionClosed,
    OpenRefused,
    ProtocolError,
)
from rtunnel.naming import printable
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import LEAST_MAX_PACKET, ChannelLimits, TokenBucket
from rtunnel.ssh.requests import SentRequests
from rtunnel.trust.identity import Identity
from rtunnel.wire.data_types import Reader, boolean, string, uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)
from rtunnel.wire.window import ReceiveWindow, SendWindow, WindowBudget

#: Bytes in the name of a channel type or request. RFC 4250 section 4.6.1 allows 64.
MAX_NAME = 255

#: Bytes of the sentence in a refusal that we send.
MAX_REFUSAL = 1024

_TWO_NUMBERS = struct.Struct(">II")

#: What is done with a channel just confirmed, before anything can come through it.
Attach: TypeAlias = Callable[[Channel], None]


@attrs.frozen
class OpenRequest:
    """A peer asks for a channel.

    :param kind: channel type, e.g. ``b"direct-tcpip"``.
    :param data: the part of CHANNEL_OPEN that depends on the type.
    """

    kind: bytes
    data: bytes


class ConnectionHandler(Protocol):
    """What a connection asks and tells its owner."""

    def connection_started(self, connection: Connection) -> None:
        """Channels can be opened now."""

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """The peer asks for a channel, which is confirmed when this returns.

        Cancelled when the connection goes away. What it returns is called right after
        the confirmation is sent; if the connection went away although this returned,
        with a channel that is closed already.

        :raises OpenRefused: to refuse, with a reason for the peer.
        """

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """The peer asks for something that concerns no channel.

        :returns: data for REQUEST_SUCCESS, or None for REQUEST_FAILURE.
        """

    def connection_lost(self, reason: str) -> None:
        """The connection is gone. Called once, after every channel's ``closed``."""


class PacketTransport(Protocol):
    """What a connection needs of the SSH transport under it."""

    clock: IReactorTime

    @property
    def is_writable(self) -> bool:
        """Whether data may be sent now; see ``pause_writing``."""

    @property
    def last_received(self) -> float:
        """``clock.seconds()`` of the newest byte from the peer."""

    @property
    def identity(self) -> Identity | None:
        """Who logged in, at a server."""

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send one SSH message."""

    def disconnect(self, reason_code: int, text: str) -> None:
        """Send SSH_MSG_DISCONNECT and hang up."""

    def sendUnimplemented(self) -> None:
        """Send SSH_MSG_UNIMPLEMENTED for the message just received."""


class _Opening:
    """A channel that we asked for and the peer has not answered."""

    __slots__ = ("abandoned", "answer", "kind", "window")

    def __init__(self, kind: bytes, window: ReceiveWindow) -> None:
        self.kind = kind
        self.window = window
        self.answer: Deferred[Channel] = Deferred()
        self.abandoned = False


class Connection(SSHService):
    """One SSH connection's channels.

    :param handler: decides about what the peer asks.
    :param limits: what the peer may use.
    """

    name = b"ssh-connection"
    transport: PacketTransport  # type: ignore[assignment]
    _log = Logger()

    def __init__(
        self, handler: ConnectionHandler, limits: ChannelLimits | None = None
    ) -> None:
        self.limits = limits or ChannelLimits()
        #: Whether the transport takes no data now.
        self.is_congested = False
        self._handler = handler
        self._lost: str | None = None
        self._budget = WindowBudget(self.limits.window_budget)
        self._next_number = 0
        self._channels: dict[int, Channel] = {}
        self._opening: dict[int, _Opening] = {}
        self._answering: set[Deferred[None]] = set()
        # Closed by both, but with data that our receiver has not taken yet.
        self._lingering: set[Channel] = set()
        self._waiting: deque[Channel] = deque()
        self._taking_turns = False
        self._global_requests = SentRequests(self.limits.outstanding_requests)
        self._unread_answers = 0
        self._opens: TokenBucket | None = None
        self._receive = {
            MSG_GLOBAL_REQUEST: self._global_request,
            MSG_REQUEST_SUCCESS: self._request_success,
            MSG_REQUEST_FAILURE: self._request_failure,
            MSG_CHANNEL_OPEN: self._channel_open,
            MSG_CHANNEL_OPEN_CONFIRMATION: self._open_confirmation,
            MSG_CHANNEL_OPEN_FAILURE: self._open_failure,
            MSG_CHANNEL_WINDOW_ADJUST: self._window_adjust,
            MSG_CHANNEL_DATA: self._data,
            MSG_CHANNEL_EXTENDED_DATA: self._extended_data,
            MSG_CHANNEL_EOF: self._eof,
            MSG_CHANNEL_CLOSE: self._close,
            MSG_CHANNEL_REQUEST: self._channel_request,
            MSG_CHANNEL_SUCCESS: self._channel_success,
            MSG_CHANNEL_FAILURE: self._channel_failure,
        }

    # What the owner calls.

    @property
    def identity(self) -> Identity | None:
        """Who logged in; None at the end that is the SSH client."""
        return self.transport.identity

    @property
    def last_received(self) -> float:
        """``clock.seconds()`` of the newest byte from the peer."""
        return self.transport.last_received

    @property
    def open_channels(self) -> int:
        """Channels, counting those being opened or not quite gone."""
        return (
            len(self._channels)
            + len(self._opening)
            + len(self._answering)
            + len(self._lingering)
        )

    @property
    def is_open(self) -> bool:
        """Whether the connection is still there."""
        return self._lost is None

    async def open_channel(
        self, kind: bytes, data: bytes = b"", *, window: int | None = None
    ) -> Channel:
        """Ask the peer for a channel, and wait for its answer.

        Cancelling is safe at any time: a confirmation that comes later is closed.

        :param data: the part of CHANNEL_OPEN that depends on ``kind``.
        :param window: bytes that the receive window may grow to; default as
            ``limits.window``.
        :raises OpenRefused: the peer's reason code and text, or too many channels.
        :raises ConnectionClosed: the connection is gone.
        """
        if self._lost is not None:
            raise ConnectionClosed(self._lost)
        if self.open_channels >= self.limits.channels:
            raise self._too_many_channels()
        number = self._allocate_number()
        opening = _Opening(kind, self._receive_window(window))
        self._opening[number] = opening
        self.send(
            MSG_CHANNEL_OPEN,
            string(kind)
            + uint32(number)
            + uint32(opening.window.remaining)
            + uint32(self.limits.max_packet)
            + data,
        )
        try:
            return await opening.answer
        except CancelledError:
            opening.abandoned = True
            raise

    def send_global_request(
        self, name: bytes, data: bytes = b"", want_reply: bool = True
    ) -> Deferred[bytes]:
        """Send a global request.

        :returns: fires with the data of the peer's REQUEST_SUCCESS; errback with
            RequestFailed when it refuses or too many requests wait already, with
            ConnectionClosed when the connection ends first. Without ``want_reply`` it
            has fired already.
        """
        if self._lost is not None:
            return fail(ConnectionClosed(self._lost))
        refusal = self._global_requests.refusal()
        if want_reply and refusal is not None:
            return fail(refusal)
        self.send(MSG_GLOBAL_REQUEST, string(name) + boolean(want_reply) + data)
        return self._global_requests.add(name) if want_reply else succeed(b"")

    def close(
        self, text: str = "", reason_code: int = DISCONNECT_BY_APPLICATION
    ) -> None:
        """End the connection and every channel now.

        :param text: one sentence for the peer, and the reason that channels are told.
        :param reason_code: of SSH_MSG_DISCONNECT (RFC 4253 section 11.1).
        """
        if self._lost is None:
            self.transport.disconnect(reason_code, text)
            self._stop(text or "connection closed")

    # What the transport calls.

    def serviceStarted(self) -> None:
        """The service is in use from now on."""
        now = self.transport.clock.seconds()
        self._opens = TokenBucket(
            self.limits.opens_per_second, self.limits.opens_burst, now
        )
        self.is_congested = not self.transport.is_writable
        try:
            self._handler.connection_started(self)
        except Exception:
            self._log.failure("Starting a connection failed.")
            self.close("internal error")

    def serviceStopped(self) -> None:
        """The transport is gone."""
        self._stop("connection lost")

    def packetReceived(self, number: int, payload: bytes) -> None:
        """One message of the peer's.

        :raises ProtocolError: when it breaks the protocol or a limit.
        """
        if self._lost is not None:
            return
        receive = self._receive.get(number)
        if receive is not None:
            receive(payload)
        else:
            self._count_answer()
            self.transport.sendUnimplemented()

    def pause_writing(self) -> None:
        """The transport is full, or exchanges keys: send no data."""
        self.is_congested = True

    def resume_writing(self) -> None:
        """The transport takes data again: one packet from each channel in turn."""
        self.is_congested = False
        self._unread_answers = 0
        if self._taking_turns:
            return
        self._taking_turns = True
        waiting = self._waiting
        try:
            while waiting and not self.is_congested:
                channel = waiting.popleft()
                if channel.take_turn():
                    waiting.append(channel)
        finally:
            self._taking_turns = False

    # What channels call.

    @property
    def is_writable(self) -> bool:
        """Whether a channel may send data without waiting for its turn."""
        return not self.is_congested and not self._waiting

    def send(self, number: int, payload: bytes) -> None:
        """Send a message, unless the connection is gone."""
        if self._lost is None:
            self.transport.sendPacket(number, payload)

    def answer(self, number: int, payload: bytes) -> None:
        """Send the answer to a request of the peer's."""
        self._count_answer()
        self.send(number, payload)

    def wait_for_turn(self, channel: Channel) -> None:
        """Have ``take_turn`` called when the transport takes data."""
        self._waiting.append(channel)

    def channel_finished(self, channel: Channel) -> None:
        """The channel's receiver has been told of its end, or will be at its start."""
        self._lingering.discard(channel)

    # Global requests.

    def _global_request(self, payload: bytes) -> None:
        reader = Reader(payload)
        name = reader.string(MAX_NAME)
        want_reply = reader.boolean()
        try:
            answer = self._handler.global_request(name, reader.rest())
        except Exception:
            self._log.failure("A global request failed.")
            answer = None
        if not want_reply:
            return
        if answer is None:
            self.answer(MSG_REQUEST_FAILURE, b"")
        else:
            self.answer(MSG_REQUEST_SUCCESS, answer)

    def _request_success(self, payload: bytes) -> None:
        self._global_requests.answered(True, payload)

    def _request_failure(self, payload: bytes) -> None:
        self._global_requests.answered(False, b"")

    # Opening: the peer asks.

    def _channel_open(self, payload: bytes) -> None:
        reader = Reader(payload)
        kind = reader.string(MAX_NAME)
        recipient = reader.uint32()
        window = reader.uint32()
        max_packet = reader.uint32()
        refusal = self._refusal(max_packet)
        if refusal is not None:
            self._refuse(recipient, refusal)
            return
        answering = Deferred.fromCoroutine(
            self._answer_open(
                OpenRequest(kind, reader.rest()), recipient, window, max_packet
            )
        )
        if not answering.called:
            self._answering.add(answering)
            answering.addErrback(self._answering_failed)
            answering.addCallback(self._answered, answering)
            if self._lost is not None:
                answering.cancel()

    def _refusal(self, max_packet: int) -> OpenRefused | None:
        limits = self.limits
        assert self._opens is not None
        if not self._opens.take(self.transport.clock.seconds()):
            return OpenRefused(
                OPEN_RESOURCE_SHORTAGE,
                f"more than {limits.opens_per_second:g} channels a second",
            )
        if len(self._answering) >= limits.pending_opens:
            return OpenRefused(
                OPEN_RESOURCE_SHORTAGE,
                f"{limits.pending_opens} channels are being opened already",
            )
        if self.open_channels >= limits.channels:
            return self._too_many_channels()
        if max_packet < LEAST_MAX_PACKET:
            return OpenRefused(
                OPEN_ADMINISTRATIVELY_PROHIBITED,
                f"a maximum packet of {max_packet} bytes; "
                f"{LEAST_MAX_PACKET} is the least",
            )
        return None

    def _too_many_channels(self) -> OpenRefused:
        return OpenRefused(
            OPEN_RESOURCE_SHORTAGE,
            f"{self.limits.channels} channels are open on this connection already",
        )

    async def _answer_open(
        self, request: OpenRequest, recipient: int, window: int, max_packet: int
    ) -> None:
        try:
            attach = await self._handler.channel_requested(request)
        except OpenRefused as refused:
            self._refuse(recipient, refused)
            return
        except CancelledError:
            self._refuse(recipient, OpenRefused(OPEN_CONNECT_FAILED, "cancelled"))
            return
        except Exception:
            self._log.failure(
                "Opening a {kind} channel failed.", kind=printable(request.kind)
            )
            self._refuse(recipient, OpenRefused(OPEN_CONNECT_FAILED, "internal error"))
            return
        number = self._allocate_number()
        receive_window = self._receive_window(None)
        channel = self._add_channel(
            request.kind, number, recipient, receive_window, window, max_packet
        )
        self.send(
            MSG_CHANNEL_OPEN_CONFIRMATION,
            uint32(recipient)
            + uint32(number)
            + uint32(receive_window.remaining)
            + uint32(self.limits.max_packet),
        )
        if self._lost is not None:
            channel.connection_lost(self._lost)
        try:
            attach(channel)
        except Exception:
            self._log.failure("Attaching a {kind} channel failed.", kind=request.kind)
            channel.abort("internal error")

    def _answering_failed(self, failure: object) -> None:
        self._log.error("Answering a channel open failed: {failure}", failure=failure)

    def _answered(self, _: None, answering: Deferred[None]) -> None:
        self._answering.discard(answering)

    def _refuse(self, recipient: int, refusal: OpenRefused) -> None:
        sentence = refusal.text.encode("utf-8", "replace")[:MAX_REFUSAL]
        self.answer(
            MSG_CHANNEL_OPEN_FAILURE,
            uint32(recipient)
            + uint32(refusal.reason_code)
            + string(sentence)
            + string(b""),
        )

    # Opening: we ask.

    def _open_confirmation(self, payload: bytes) -> None:
        reader = Reader(payload)
        number = reader.uint32()
        recipient = reader.uint32()
        window = reader.uint32()
        max_packet = reader.uint32()
        opening = self._pop_opening(number)
        channel = self._add_channel(
            opening.kind, number, recipient, opening.window, window, max_packet
        )
        if opening.abandoned:
            channel.abort()
        elif max_packet < LEAST_MAX_PACKET:
            channel.abort()
            opening.answer.errback(
                OpenRefused(
                    OPEN_CONNECT_FAILED,
                    f"the peer takes packets of {max_packet} bytes only",
                )
            )
        else:
            opening.answer.callback(channel)

    def _open_failure(self, payload: bytes) -> None:
        reader = Reader(payload)
        opening = self._pop_opening(reader.uint32())
        reason_code = reader.uint32()
        # The sentence is for people; not every peer sends it, or a language tag.
        sentence = printable(reader.string()) if reader.remaining else ""
        opening.window.release()
        if not opening.abandoned:
            opening.answer.errback(OpenRefused(reason_code, sentence))

    def _pop_opening(self, number: int) -> _Opening:
        opening = self._opening.pop(number, None)
        if opening is None:
            raise ProtocolError("an answer to a channel open that was never made")
        return opening

    # Channels.

    def _allocate_number(self) -> int:
        number = self._next_number
        while number in self._channels or number in self._opening:
            number = (number + 1) & 0xFFFFFFFF
        self._next_number = (number + 1) & 0xFFFFFFFF
        return number

    def _receive_window(self, maximum: int | None) -> ReceiveWindow:
        limits = self.limits
        return ReceiveWindow(
            self._budget,
            limits.initial_window,
            limits.window if maximum is None else maximum,
            limits.max_packet,
            self.transport.clock.seconds(),
        )

    def _add_channel(
        self,
        kind: bytes,
        number: int,
        recipient: int,
        receive_window: ReceiveWindow,
        window: int,
        max_packet: int,
    ) -> Channel:
        channel = Channel(
            kind,
            self,
            number,
            recipient,
            receive_window,
            SendWindow(window),
            min(max_packet, self.limits.max_packet),
        )
        self._channels[number] = channel
        return channel

    def _channel(self, number: int) -> Channel:
        channel = self._channels.get(number)
        if channel is None:
            raise ProtocolError("a message for a channel that is not open")
        return channel

    def _data(self, payload: bytes) -> None:
        if len(payload) < 8:
            raise ProtocolError("a message is shorter than its fields say")
        number, size = _TWO_NUMBERS.unpack_from(payload)
        channel = self._channels.get(number)
        if channel is None:
            raise ProtocolError("a message for a channel that is not open")
        if len(payload) != size + 8:
            raise ProtocolError("channel data of another length than it says")
        channel.data_arrived(payload[8:])

    def _extended_data(self, payload: bytes) -> None:
        reader = Reader(payload)
        channel = self._channel(reader.uint32())
        reader.uint32()
        size = len(reader.string())
        reader.end()
        channel.extended_data_arrived(size)

    def _window_adjust(self, payload: bytes) -> None:
        if len(payload) != 8:
            raise ProtocolError("a window adjustment of the wrong size")
        number, count = _TWO_NUMBERS.unpack_from(payload)
        self._channel(number).window_adjusted(count)

    def _eof(self, payload: bytes) -> None:
        self._only_channel(payload).eof_arrived()

    def _close(self, payload: bytes) -> None:
        channel = self._only_channel(payload)
        del self._channels[channel.number]
        self._lingering.add(channel)
        channel.close_arrived()
        if channel.is_finished:
            self._lingering.discard(channel)

    def _channel_request(self, payload: bytes) -> None:
        reader = Reader(payload)
        channel = self._channel(reader.uint32())
        name = reader.string(MAX_NAME)
        want_reply = reader.boolean()
        channel.request_arrived(name, want_reply, reader.rest())

    def _channel_success(self, payload: bytes) -> None:
        self._only_channel(payload).request_answered(True)

    def _channel_failure(self, payload: bytes) -> None:
        self._only_channel(payload).request_answered(False)

    def _only_channel(self, payload: bytes) -> Channel:
        reader = Reader(payload)
        channel = self._channel(reader.uint32())
        reader.end()
        return channel

    def _count_answer(self) -> None:
        if self.is_congested:
            self._unread_answers += 1
            if self._unread_answers > self.limits.unread_answers:
                self.close("the peer does not read the answers that it asks for")

    # The end.

    def _stop(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        for channel in [*self._channels.values(), *self._lingering]:
            channel.connection_lost(reason)
        self._channels.clear()
        self._lingering.clear()
        self._waiting.clear()
        for answering in list(self._answering):
            answering.cancel()
        openings = list(self._opening.values())
        self._opening.clear()
        closed = ConnectionClosed(reason)
        for opening in openings:
            opening.window.release()
            if not opening.abandoned:
                opening.answer.errback(closed)
        self._global_requests.fail(closed)
        try:
            self._handler.connection_lost(reason)
        except Exception:
            self._log.failure("The owner of a connection failed.")
