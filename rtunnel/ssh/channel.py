"""One channel of an SSH connection: a byte stream each way, and requests beside it.

A :class:`Channel` is a :class:`~rtunnel.splice.Stream`. Its invariants:

- Data reaches the receiver in order, and only while the receiver is not paused; what
  the receiver does not take stays inside the window that the peer was given.
- Data goes out in order, inside the peer's window, and only while the connection can
  be written to; a producer is paused while it cannot.
- EOF follows all data, CLOSE follows EOF, nothing follows CLOSE (RFC 4254 section 5.3).
- ``closed`` is called exactly once, and nothing is called after it.
- What a receiver, producer or request handler raises ends this channel and no more.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import ConnectionClosed, ProtocolError
from rtunnel.naming import printable
from rtunnel.splice import StreamReceiver
from rtunnel.ssh.requests import ReceivedRequests, SentRequests
from rtunnel.wire.byte_queue import ByteQueue
from rtunnel.wire.data_types import boolean, string, uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from rtunnel.wire.window import ReceiveWindow, SendWindow

if TYPE_CHECKING:
    from rtunnel.ssh.connection import Connection

#: SSH_EXTENDED_DATA_STDERR (RFC 4254 section 5.2).
EXTENDED_DATA_STDERR = 1

_DATA_HEADER = struct.Struct(">II")
_EXTENDED_HEADER = struct.Struct(">III")

OnRequest = Callable[[bytes, bytes], bool | Awaitable[bool]]


def refuse_request(name: bytes, data: bytes) -> bool:
    """What becomes of channel requests when nobody asked for them."""
    return False


@implementer(IConsumer, IPushProducer)
class Channel:
    """An open channel. Made by the connection, never directly.

    :param kind: channel type, e.g. ``b"direct-tcpip"``.
    :param connection: the connection that it runs over.
    :param number: ours; the peer names the channel by it.
    :param recipient: the peer's number.
    :param receive_window: what the peer may send.
    :param send_window: what we may send.
    :param max_packet: bytes of data in one packet that we send.
    """

    _log = Logger()

    __slots__ = (
        "_close_received",
        "_close_sent",
        "_closing",
        "_deaf",
        "_delivering",
        "_eof_delivered",
        "_eof_received",
        "_eof_sent",
        "_eof_wanted",
        "_extended",
        "_finished",
        "_handling_request",
        "_has_turn",
        "_held",
        "_max_packet",
        "_paused",
        "_producer",
        "_producer_paused",
        "_queue",
        "_reason",
        "_receive_window",
        "_received_requests",
        "_receiver",
        "_recipient",
        "_send_window",
        "_sent_requests",
        "connection",
        "kind",
        "number",
        "on_request",
    )

    def __init__(
        self,
        kind: bytes,
        connection: Connection,
        number: int,
        recipient: int,
        receive_window: ReceiveWindow,
        send_window: SendWindow,
        max_packet: int,
    ) -> None:
        self.kind = kind
        self.connection = connection
        self.number = number
        #: Called with name and data of each channel request; says whether it succeeded.
        self.on_request: OnRequest = refuse_request
        self._recipient = recipient
        self._receive_window = receive_window
        self._send_window = send_window
        self._max_packet = max_packet
        # Receiving.
        self._receiver: StreamReceiver | None = None
        self._held: ByteQueue | None = None
        self._paused = False
        self._delivering = False
        self._deaf = False
        self._eof_received = False
        self._eof_delivered = False
        # Sending.
        self._queue: ByteQueue | None = None
        self._extended: ByteQueue | None = None
        self._producer: IPushProducer | None = None
        self._producer_paused = False
        self._has_turn = False
        self._eof_wanted = False
        self._eof_sent = False
        # The end.
        self._closing = False
        self._close_sent = False
        self._close_received = False
        self._finished = False
        self._reason: str | None = None
        # Requests.
        self._handling_request = False
        self._sent_requests: SentRequests | None = None
        self._received_requests: ReceivedRequests | None = None

    def __repr__(self) -> str:
        state = (
            "closed"
            if self._finished
            else "closing"
            if self._closing or self._close_sent or self._close_received
            else "open"
        )
        return f"<Channel {printable(self.kind)} {self.number} {state}>"

    # What the owner calls.

    @property
    def is_open(self) -> bool:
        """Whether something written now would still be sent."""
        return not (self._closing or self._close_sent or self._finished)

    @property
    def is_finished(self) -> bool:
        """Whether ``closed`` was called, or waits for nothing but ``start``."""
        return self._finished

    @property
    def queued(self) -> int:
        """Bytes written and not sent yet."""
        return len(self._queue or b"") + len(self._extended or b"")

    @property
    def held(self) -> int:
        """Bytes that came and were not delivered yet."""
        return len(self._held or b"")

    def start(self, receiver: StreamReceiver) -> None:
        """Deliver what comes, and what came already, to ``receiver``. Once only.

        Data of another stream (stderr) is taken and dropped.
        """
        if self._receiver is not None:
            raise RuntimeError("this channel has a receiver already")
        self._receiver = receiver
        if self._finished:
            self._tell_closed()
        else:
            self._deliver_held()

    def write(self, data: bytes) -> None:
        """Send ``data``, or queue it. Ignored after :meth:`write_eof` or the end."""
        if self._eof_wanted or self._close_sent or not data:
            return
        if not self._queue and self.connection.is_writable:
            size = len(data)
            if size <= self._max_packet and size <= self._send_window.remaining:
                self._send_window.remaining -= size
                self.connection.send(
                    MSG_CHANNEL_DATA, _DATA_HEADER.pack(self._recipient, size) + data
                )
                return
        if self._queue is None:
            self._queue = ByteQueue()
        self._queue.append(data)
        self._flush()

    def write_stderr(self, data: bytes) -> None:
        """Send ``data`` as standard error; what :meth:`write` queued goes first."""
        if self._eof_wanted or self._close_sent or not data:
            return
        if self._extended is None:
            self._extended = ByteQueue()
        self._extended.append(data)
        self._flush()

    def write_eof(self) -> None:
        """Send EOF once everything written has been sent. The peer may go on."""
        if self._eof_wanted or self._close_sent:
            return
        self._eof_wanted = True
        self._flush()

    def close(self) -> None:
        """Send what was written, then EOF and CLOSE. Nothing more is delivered.

        ``closed`` is called when the peer has closed too.
        """
        if self._closing or self._close_sent:
            return
        self._closing = self._eof_wanted = True
        self._stop_delivering()
        self._flush()

    def abort(self, reason: str = "aborted") -> None:
        """Drop what was not sent and CLOSE now; ``closed`` is called at once.

        :param reason: what ``closed`` is told.
        """
        self._send_close()
        self._finish(reason)

    def send_request(
        self, name: bytes, data: bytes = b"", want_reply: bool = True
    ) -> Deferred[None]:
        """Send a channel request.

        :param data: the part that depends on ``name``.
        :returns: fires when the peer says success; errback with RequestFailed when it
            says failure or too many requests wait already, with ConnectionClosed when
            the channel ends first. Without ``want_reply`` it has fired already.
        """
        if self._close_sent or self._finished:
            return fail(ConnectionClosed("the channel is closed"))
        if want_reply:
            if self._sent_requests is None:
                limit = self.connection.limits.outstanding_requests
                self._sent_requests = SentRequests(limit)
            refusal = self._sent_requests.refusal()
            if refusal is not None:
                return fail(refusal)
        self.connection.send(
            MSG_CHANNEL_REQUEST,
            uint32(self._recipient) + string(name) + boolean(want_reply) + data,
        )
        if not want_reply or self._sent_requests is None:
            return succeed(None)
        return self._sent_requests.add(name).addCallback(_nothing)

    # IConsumer: what writes to us.

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Pause ``producer`` while what it writes cannot be sent.

        :param streaming: has to be true: push producers only.
        """
        if self._producer is not None:
            raise RuntimeError("this channel has a producer already")
        if not streaming:
            raise RuntimeError("a channel takes push producers only")
        if not self.is_open:
            producer.stopProducing()
            return
        self._producer = cast(IPushProducer, producer)
        self._producer_paused = False
        self._pause_producer()

    def unregisterProducer(self) -> None:
        """The producer writes no more."""
        self._producer = None
        self._producer_paused = False

    # IPushProducer: what we deliver.

    def pauseProducing(self) -> None:
        """Deliver no data, and give the peer no more window."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Deliver again."""
        if self._paused:
            self._paused = False
            self._deliver_held()

    def stopProducing(self) -> None:
        """Nothing more is wanted: the same as :meth:`close`."""
        self.close()

    # What the connection calls, for the peer's messages. None of it raises anything
    # but ProtocolError, which ends the connection.

    def data_arrived(self, data: bytes) -> None:
        """CHANNEL_DATA."""
        size = len(data)
        window = self._receive_window
        if size > window.remaining or size > self.connection.limits.max_packet:
            self._violated(size)
            return
        if self._eof_received:
            self.abort("the peer sent data after end of data")
            return
        window.remaining -= size
        window.held += size
        if self._deaf:
            self._discard(size)
        elif self._receiver is None or self._paused or self._held or self._delivering:
            if self._held is None:
                self._held = ByteQueue()
            self._held.append(data)
        elif data:
            self._deliver(data)
            if self._held or self._eof_received or self._close_received:
                # It came while the receiver was busy with this.
                self._deliver_held()

    def extended_data_arrived(self, size: int) -> None:
        """CHANNEL_EXTENDED_DATA of ``size`` bytes: counted, and dropped."""
        window = self._receive_window
        if size > window.remaining or size > self.connection.limits.max_packet:
            self._violated(size)
            return
        if self._eof_received:
            self.abort("the peer sent data after end of data")
            return
        window.received(size)
        self._discard(size)

    def window_adjusted(self, count: int) -> None:
        """CHANNEL_WINDOW_ADJUST.

        :raises ProtocolError: when the window would exceed 2^32-1 bytes.
        """
        self._send_window.adjusted(count)
        if not self._close_sent:
            self._flush()

    def eof_arrived(self) -> None:
        """CHANNEL_EOF."""
        self._eof_received = True
        self._deliver_held()

    def close_arrived(self) -> None:
        """CHANNEL_CLOSE: what we have not sent can never be, what we hold still counts.

        RFC 4254 section 5.3: answered at once.
        """
        self._close_received = True
        self._send_close()
        if self._deaf:
            self._finish(None)
        else:
            self._deliver_held()

    def request_arrived(self, name: bytes, want_reply: bool, data: bytes) -> None:
        """CHANNEL_REQUEST."""
        if not self.is_open:
            return
        if self._received_requests is None:
            self._received_requests = ReceivedRequests(
                self.connection.limits.outstanding_requests,
                self._answer_request,
                self._request_raised,
            )
        if self._received_requests.is_full:
            limit = self.connection.limits.outstanding_requests
            self.abort(f"the peer made more than {limit} requests at a time")
            return
        requests = self._received_requests
        self._handling_request = True
        try:
            outcome = self.on_request(name, data)
        except Exception:
            self._request_raised(Failure())
            return
        finally:
            self._handling_request = False
        requests.add(want_reply, outcome)
        if self._closing:
            self._flush()

    def request_answered(self, success: bool) -> None:
        """CHANNEL_SUCCESS or CHANNEL_FAILURE.

        :raises ProtocolError: when no request waits for an answer.
        """
        if self._sent_requests is None:
            raise ProtocolError("an answer to a request that was never made")
        self._sent_requests.answered(success, b"")

    def connection_lost(self, reason: str) -> None:
        """The connection is gone, and what was not delivered with it."""
        self._close_sent = self._close_received = True
        self._finish(reason)

    def take_turn(self) -> bool:
        """The connection can be written to and it is our turn: send one packet.

        :returns: whether we want another turn.
        """
        self._has_turn = False
        if self._close_sent:
            return False
        sent = self._send_packet()
        if self.queued:
            self._has_turn = sent and self._send_window.remaining > 0
            return self._has_turn
        self._drained()
        return False

    # Receiving.

    def _deliver(self, data: bytes) -> None:
        receiver = self._receiver
        assert receiver is not None
        self._delivering = True
        try:
            receiver.data_received(data)
        except Exception:
            self._receiver_raised()
            return
        finally:
            self._delivering = False
        if not self._finished:
            window = self._receive_window
            window.consumed(len(data))
            if not self._paused and window.is_due:
                self._return_credit()

    def _deliver_held(self) -> None:
        if self._receiver is None or self._delivering or self._finished:
            return
        window = self._receive_window
        if not self._paused and window.is_due:
            self._return_credit()
        held = self._held
        if held:
            size = self.connection.limits.max_packet
            while held and not self._paused and not self._deaf:
                self._deliver(held.take(size))
            if held:
                return
        if self._eof_received and not self._eof_delivered and not self._deaf:
            self._eof_delivered = True
            self._delivering = True
            try:
                self._receiver.eof_received()
            except Exception:
                self._receiver_raised()
                return
            finally:
                self._delivering = False
        if self._close_received:
            self._finish(None)

    def _stop_delivering(self) -> None:
        self._deaf = True
        if self._held:
            self._discard(self._held.clear())

    def _discard(self, size: int) -> None:
        # The peer gets credit for what we drop: it may have to finish writing
        # before it reads what we still have for it.
        self._receive_window.consumed(size)
        if self._receive_window.is_due:
            self._return_credit()

    def _return_credit(self) -> None:
        if self._eof_received or self._close_sent:
            return
        connection = self.connection
        count = self._receive_window.credit(connection.transport.clock.seconds())
        if count:
            connection.send(
                MSG_CHANNEL_WINDOW_ADJUST, _DATA_HEADER.pack(self._recipient, count)
            )

    def _violated(self, size: int) -> None:
        if self._close_sent:
            return
        self.abort(
            f"the peer sent {size} bytes of data where the window has "
            f"{self._receive_window.remaining} and a packet "
            f"{self.connection.limits.max_packet}"
        )

    def _receiver_raised(self) -> None:
        self._log.failure("The receiver of a {kind} channel failed.", kind=self.kind)
        self.abort("internal error")

    # Sending.

    def _flush(self) -> None:
        while self.connection.is_writable and self._send_packet():
            pass
        if not self.queued:
            self._drained()
            return
        if self._send_window.remaining:
            self._wait_for_turn()
        self._pause_producer()

    def _send_packet(self) -> bool:
        """Send one packet if there is data and window; whether it did."""
        limit = min(self._max_packet, self._send_window.remaining)
        if not limit:
            return False
        if self._queue:
            data = self._queue.take(limit)
            size = len(data)
            header = _DATA_HEADER.pack(self._recipient, size)
            number = MSG_CHANNEL_DATA
        elif self._extended:
            data = self._extended.take(limit)
            size = len(data)
            header = _EXTENDED_HEADER.pack(self._recipient, EXTENDED_DATA_STDERR, size)
            number = MSG_CHANNEL_EXTENDED_DATA
        else:
            return False
        self._send_window.remaining -= size
        self.connection.send(number, header + data)
        return True

    def _drained(self) -> None:
        """Everything written has been sent: go on to what comes next."""
        if self._eof_wanted and not self._eof_sent and not self._close_sent:
            self._eof_sent = True
            self.connection.send(MSG_CHANNEL_EOF, uint32(self._recipient))
        if self._closing:
            # An answer that the handler is about to give goes before CLOSE.
            if not self._handling_request:
                self._send_close()
        elif self._producer is not None and self._producer_paused:
            if not self.connection.is_congested:
                self._producer_paused = False
                self._tell_producer(self._producer.resumeProducing)
            else:
                self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        if not self._has_turn:
            self._has_turn = True
            self.connection.wait_for_turn(self)

    def _pause_producer(self) -> None:
        if (
            self._producer is not None
            and not self._producer_paused
            and self.queued
            and (
                self.queued > self.connection.limits.queue
                or not self.connection.is_writable
            )
        ):
            self._producer_paused = True
            self._tell_producer(self._producer.pauseProducing)

    def _tell_producer(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:
            self._log.failure(
                "The producer of a {kind} channel failed.", kind=self.kind
            )
            self.abort("internal error")

    # Requests.

    def _answer_request(self, success: bool) -> None:
        if not self._close_sent:
            number = MSG_CHANNEL_SUCCESS if success else MSG_CHANNEL_FAILURE
            self.connection.answer(number, uint32(self._recipient))

    def _request_raised(self, failure: Failure) -> None:
        self._log.failure(
            "A request on a {kind} channel failed.", failure, kind=self.kind
        )
        self.abort("internal error")

    # The end.

    def _send_close(self) -> None:
        """Drop what was not sent, and send CLOSE unless it was sent already."""
        if self._queue:
            self._queue.clear()
        if self._extended:
            self._extended.clear()
        if self._close_sent:
            return
        self._close_sent = self._eof_wanted = True
        self.connection.send(MSG_CHANNEL_CLOSE, uint32(self._recipient))
        self._end_requests()

    def _end_requests(self) -> None:
        received, self._received_requests = self._received_requests, None
        if received is not None:
            received.stop()
        if self._sent_requests is not None:
            self._sent_requests.fail(ConnectionClosed("the channel is closed"))

    def _finish(self, reason: str | None) -> None:
        """Call ``closed``, now or when there is somebody to call, and only once."""
        if self._finished:
            return
        self._finished = self._deaf = True
        self._reason = reason
        if self._held:
            self._held.clear()
        if self._queue:
            self._queue.clear()
        if self._extended:
            self._extended.clear()
        self._receive_window.release()
        self._end_requests()
        self.connection.channel_finished(self)
        producer, self._producer = self._producer, None
        if producer is not None:
            self._tell_producer(producer.stopProducing)
        if self._receiver is not None:
            self._tell_closed()

    def _tell_closed(self) -> None:
        assert self._receiver is not None
        try:
            self._receiver.closed(self._reason)
        except Exception:
            self._log.failure(
                "The receiver of a {kind} channel failed.", kind=self.kind
            )


def _nothing(data: bytes) -> None:
    """The answer to a channel request carries no data."""
