"""The ssh-connection service (RFC 4254): channels and global requests over a transport.

Either end may open channels; opening is asynchronous both ways, and the confirmation
is sent when what the channel leads to is really there. The messages of a peer raise
nothing but ProtocolError, which the transport answers with a disconnect.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from rtunnel.errors import DISCONNECT_BY_APPLICATION, ConnectionClosed, ProtocolError
from rtunnel.naming import printable
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.channel_opens import (
    MAX_NAME,
    PeerChannel,
    ReceivedOpens,
    SentOpen,
    SentOpens,
    too_many_channels,
)
from rtunnel.ssh.channel_table import NOT_OPEN, ChannelTable
from rtunnel.ssh.global_requests import Answer, GlobalRequests
from rtunnel.ssh.interfaces import (
    Attach,
    ConnectionHandler,
    ConnectionService,
    OpenRequest,
    PacketTransport,
)
from rtunnel.trust.identity import Identity
from rtunnel.wire.data_types import Reader, string, uint32
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
from rtunnel.wire.packet_cipher import Buffer
from rtunnel.wire.packet_stream import DATA_FIELDS, read_data
from rtunnel.wire.window import ReceiveWindow, SendWindow, WindowBudget

__all__ = ["Attach", "Connection", "ConnectionHandler", "OpenRequest"]

_TWO_NUMBERS = struct.Struct(">II")
#: Seconds without another channel's data after which one has the connection to itself.
SHARED_SECONDS = 0.1


class Connection(ConnectionService):
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
        #: Whether the transport has no room for data.
        self.is_congested = False
        #: Told of each channel that has ended; raises nothing.
        self.on_channel_finished: Callable[[Channel], None] = _nobody_counts
        self._handler = handler
        self._lost: str | None = None
        self._budget = WindowBudget(self.limits.window_budget)
        self._channels = ChannelTable(self.limits.close_seconds)
        self._sent_opens = SentOpens()
        self._received_opens: ReceivedOpens | None = None
        self._global_requests = GlobalRequests(
            self.send, handler, self.limits.outstanding_requests
        )
        # A list, as an empty deque has 760 bytes and most tunnels are idle.
        self._waiting: list[Channel] = []
        # Which channel sent last, and until when that means that several send.
        self._last_sender = -1
        self._shared_until = 0.0

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
    def is_open(self) -> bool:
        """Whether the connection is still there."""
        return self._lost is None

    @property
    def open_channels(self) -> int:
        """Channels, counting those being opened and those not quite gone."""
        return (
            len(self._channels)
            + len(self._sent_opens)
            + len(self._received_opens or ())
        )

    async def open_channel(
        self, kind: bytes, data: bytes = b"", *, window: int | None = None
    ) -> Channel:
        """Ask the peer for a channel, and wait for its answer.

        Cancelling is safe at any time: a confirmation that comes later is closed.

        :param data: the part of CHANNEL_OPEN that depends on ``kind``.
        :param window: bytes that the receive window may grow to; ``limits.window``
            when it is None.
        :raises OpenRefused: the peer's reason code and text, or too many channels.
        :raises ConnectionClosed: the connection is gone.
        """
        if self._lost is not None:
            raise ConnectionClosed(self._lost)
        if self.open_channels >= self.limits.channels:
            raise too_many_channels(self.limits)
        number = self._channels.allocate_number(self._sent_opens)
        sent = SentOpen(kind, self._receive_window(window))
        self._sent_opens.add(number, sent)
        self.send(
            MSG_CHANNEL_OPEN,
            string(kind)
            + uint32(number)
            + uint32(sent.window.remaining)
            + uint32(self.limits.packet(kind))
            + data,
        )
        return await self._sent_opens.wait(sent)

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
        return self._global_requests.send(name, data, want_reply)

    @property
    def peer_said_goodbye(self) -> bool:
        """Whether the peer has ended the connection, and of its own accord."""
        return self.transport.peer_said_goodbye

    def answer_request(self, name: bytes, answer: Answer) -> None:
        """Answer a global request here, for the transport; the handler is not asked.

        :param answer: as ``global_request`` of the handler, without the name; it may
            raise ProtocolError.
        """
        self._global_requests.answer_here(name, answer)

    def expect_peer_to_read(self, seconds: float) -> None:
        """Have TCP give up a peer that takes no data for so long.

        For peers that always read: our own programs. A person's ``ssh`` may be
        suspended for hours.
        """
        self.transport.expect_peer_to_read(seconds)

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
        self._received_opens = ReceivedOpens(
            self.limits,
            self._handler.channel_requested,
            self._confirm,
            self._send_open_failure,
            self.transport.clock.seconds(),
        )
        self.is_congested = not self.transport.is_writable
        try:
            self._handler.connection_started(self)
        except Exception:
            self._log.failure("starting a connection")
            self.close("internal error")

    def serviceStopped(self) -> None:
        """The transport is gone."""
        self._stop(self.transport.close_reason or "the connection was lost")

    def packetReceived(self, number: int, payload: Buffer) -> None:
        """One message of the peer's.

        :raises ProtocolError: when it breaks the protocol or a limit.
        """
        if self._lost is not None:
            return
        receive = _RECEIVE.get(number)
        if receive is not None:
            receive(self, bytes(payload))
        else:
            self.transport.sendUnimplemented()

    def data_received(self, number: int, data: Buffer, largest: int) -> None:
        """See :class:`~rtunnel.ssh.interfaces.ConnectionService`."""
        if self._lost is not None:
            return
        # As find does, but without a call: every packet of data comes by here.
        channel = self._channels.open.get(number)
        if channel is None:
            raise ProtocolError(NOT_OPEN)
        channel.data_arrived(data, largest)

    def pause_writing(self) -> None:
        """The transport has no room, or exchanges keys: send no data."""
        self.is_congested = True

    def resume_writing(self) -> None:
        """The transport has room: one packet from each channel in turn."""
        self.is_congested = False
        waiting = self._waiting
        while waiting and not self.is_congested:
            channel = waiting.pop(0)
            if channel.take_turn():
                waiting.append(channel)

    # What channels call.

    @property
    def is_writable(self) -> bool:
        """Whether a channel may send data without waiting for its turn."""
        return not self.is_congested and not self._waiting

    def send(self, number: int, payload: bytes, data: Buffer = b"") -> None:
        """Send a message, unless the connection is gone."""
        if self._lost is None:
            self.transport.sendPacket(number, payload, data)

    def send_data(self, channel: int, data: Buffer, limit: int) -> None:
        """Send CHANNEL_DATA, unless the connection is gone.

        :param channel: the peer's number of it.
        :param limit: bytes of data in one packet.
        """
        if self._lost is None:
            self.transport.send_data(channel, data, limit)

    def wait_for_turn(self, channel: Channel) -> None:
        """Have ``take_turn`` called when there is room."""
        self._waiting.append(channel)

    def packet_size(self, number: int) -> int:
        """Bytes of data that may go in the next packet of a channel.

        :param number: ours of the channel, which is about to send.
        """
        now = self.transport.clock.seconds()
        if number != self._last_sender:
            self._last_sender = number
            self._shared_until = now + SHARED_SECONDS
        limits = self.limits
        return limits.own_packet if now > self._shared_until else limits.shared_packet

    def close_sent(self, channel: Channel) -> None:
        """The channel's CLOSE has been sent, and everything before it."""
        if self._lost is None:
            self._channels.close_sent(channel, self.transport.clock)

    def channel_finished(self, channel: Channel) -> None:
        """The channel's receiver has been told of its end, or will be at its start."""
        self._channels.finished(channel)
        self.on_channel_finished(channel)

    # Global requests.

    def _global_request(self, payload: bytes) -> None:
        self._global_requests.received(payload)

    def _request_success(self, payload: bytes) -> None:
        self._global_requests.answered(True, payload)

    def _request_failure(self, payload: bytes) -> None:
        self._global_requests.answered(False, b"")

    # Opening.

    def _channel_open(self, payload: bytes) -> None:
        assert self._received_opens is not None
        now = self.transport.clock.seconds()
        self._received_opens.received(payload, self.open_channels, now)

    def _confirm(self, request: OpenRequest, peer: PeerChannel, attach: Attach) -> None:
        window = self._receive_window(None)
        number = self._channels.allocate_number(self._sent_opens)
        channel = self._add_channel(request.kind, number, window, peer)
        self.send(
            MSG_CHANNEL_OPEN_CONFIRMATION,
            uint32(peer.number)
            + uint32(channel.number)
            + uint32(window.remaining)
            + uint32(self.limits.packet(request.kind)),
        )
        if self._lost is not None:
            del self._channels.open[channel.number]
            channel.connection_lost(self._lost)
        try:
            attach(channel)
        except Exception:
            self._log.failure(
                "attaching a {kind} channel", kind=printable(request.kind)
            )
            channel.abort("internal error")

    def _send_open_failure(self, payload: bytes) -> None:
        self.send(MSG_CHANNEL_OPEN_FAILURE, payload)

    def _open_confirmation(self, payload: bytes) -> None:
        reader = Reader(payload)
        number = reader.uint32()
        peer = PeerChannel.read(reader)

        def make_channel(sent: SentOpen) -> Channel:
            return self._add_channel(sent.kind, number, sent.window, peer)

        self._sent_opens.confirmed(number, peer, make_channel)

    def _open_failure(self, payload: bytes) -> None:
        self._sent_opens.failed(Reader(payload))

    # Channels.

    def _receive_window(self, maximum: int | None) -> ReceiveWindow:
        limits = self.limits
        return ReceiveWindow(
            self._budget,
            limits.initial_window,
            limits.window if maximum is None else maximum,
            limits.least_window,
            self.transport.clock.seconds(),
        )

    def _add_channel(
        self, kind: bytes, number: int, window: ReceiveWindow, peer: PeerChannel
    ) -> Channel:
        channel = Channel(
            kind,
            self,
            number,
            peer.number,
            window,
            SendWindow(peer.window),
            min(peer.max_packet, self.limits.packet(kind)),
        )
        self._channels.open[number] = channel
        return channel

    def _only_channel(self, payload: bytes) -> Channel:
        reader = Reader(payload)
        channel = self._channels.find(reader.uint32())
        reader.end()
        return channel

    def _data(self, payload: bytes) -> None:
        number, size = read_data(payload)
        self.data_received(number, payload[DATA_FIELDS:], size)

    def _extended_data(self, payload: bytes) -> None:
        reader = Reader(payload)
        channel = self._channels.find(reader.uint32())
        reader.uint32()
        data = reader.string()
        reader.end()
        channel.extended_data_arrived(data)

    def _window_adjust(self, payload: bytes) -> None:
        if len(payload) != 8:
            raise ProtocolError("a window adjustment of the wrong size")
        number, count = _TWO_NUMBERS.unpack_from(payload)
        self._channels.find(number).window_adjusted(count)

    def _eof(self, payload: bytes) -> None:
        self._only_channel(payload).eof_arrived()

    def _close(self, payload: bytes) -> None:
        self._channels.close_arrived(self._only_channel(payload))

    def _channel_request(self, payload: bytes) -> None:
        reader = Reader(payload)
        channel = self._channels.find(reader.uint32())
        name = reader.string(MAX_NAME)
        want_reply = reader.boolean()
        channel.request_arrived(name, want_reply, reader.rest())

    def _channel_success(self, payload: bytes) -> None:
        self._only_channel(payload).request_answered(True)

    def _channel_failure(self, payload: bytes) -> None:
        self._only_channel(payload).request_answered(False)

    # The end.

    def _stop(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        self._channels.connection_lost(reason)
        self._waiting.clear()
        if self._received_opens is not None:
            self._received_opens.stop()
        self._sent_opens.stop(reason)
        self._global_requests.fail(ConnectionClosed(reason))
        try:
            self._handler.connection_lost(reason)
        except Exception:
            self._log.failure("ending a connection")


def _nobody_counts(channel: Channel) -> None:
    """What becomes of a channel that has ended when nobody asked for it."""


#: Who takes which message.
_RECEIVE = {
    MSG_CHANNEL_DATA: Connection._data,
    MSG_GLOBAL_REQUEST: Connection._global_request,
    MSG_REQUEST_SUCCESS: Connection._request_success,
    MSG_REQUEST_FAILURE: Connection._request_failure,
    MSG_CHANNEL_OPEN: Connection._channel_open,
    MSG_CHANNEL_OPEN_CONFIRMATION: Connection._open_confirmation,
    MSG_CHANNEL_OPEN_FAILURE: Connection._open_failure,
    MSG_CHANNEL_WINDOW_ADJUST: Connection._window_adjust,
    MSG_CHANNEL_EXTENDED_DATA: Connection._extended_data,
    MSG_CHANNEL_EOF: Connection._eof,
    MSG_CHANNEL_CLOSE: Connection._close,
    MSG_CHANNEL_REQUEST: Connection._channel_request,
    MSG_CHANNEL_SUCCESS: Connection._channel_success,
    MSG_CHANNEL_FAILURE: Connection._channel_failure,
}
