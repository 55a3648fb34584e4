"""One channel of an SSH connection: a byte stream each way, and requests beside it.

A :class:`Channel` is a :class:`~rtunnel.splice.Stream`, made of a receiving and a
sending half. Its own part is how it ends:

- EOF follows all data, CLOSE follows EOF, nothing follows CLOSE (RFC 4254 section 5.3).
- The peer's CLOSE is answered at once, and what was not sent by then is dropped; what
  the peer sent before is still delivered.
- ``closed`` is called exactly once, and nothing is called after it.
- What a receiver, producer or request handler raises ends this channel and no more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import ConnectionClosed, ProtocolError
from rtunnel.naming import printable
from rtunnel.splice import StreamReceiver
from rtunnel.ssh.channel_input import ChannelInput
from rtunnel.ssh.channel_output import ChannelOutput
from rtunnel.ssh.requests import ReceivedRequests, SentRequests
from rtunnel.wire.data_types import boolean, string, uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from rtunnel.wire.packet_cipher import Buffer
from rtunnel.wire.window import ReceiveWindow, SendWindow

if TYPE_CHECKING:
    from rtunnel.ssh.connection import Connection

#: What answers a channel request, by its name and data: whether it succeeded.
OnRequest: TypeAlias = Callable[[bytes, bytes], bool | Awaitable[bool]]


def refuse_request(name: bytes, data: bytes) -> bool:
    """What becomes of channel requests when nobody asked for them."""
    return False


@implementer(IConsumer, IPushProducer)
class Channel:
    """An open channel. Made by its connection.

    :param kind: channel type, e.g. ``b"direct-tcpip"``.
    :param connection: what it runs over.
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
        "_eof_sent",
        "_eof_wanted",
        "_finished",
        "_handling_request",
        "_input",
        "_output",
        "_reason",
        "_received_requests",
        "_recipient",
        "_sent_requests",
        "connection",
        "kind",
        "number",
        "on_request",
        "on_stderr",
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
        #: May be set at any time; a request is answered by what is set when it comes.
        self.on_request: OnRequest = refuse_request
        #: Takes data of another stream (stderr), which raises nothing; else it is
        #: dropped. Its window is refilled at once, so whoever takes it sees to a limit.
        self.on_stderr: Callable[[bytes], None] | None = None
        limits = connection.limits
        self._input = ChannelInput(self, receive_window, limits.packet(kind))
        self._output = ChannelOutput(
            self, recipient, send_window, max_packet, limits.queue
        )
        self._recipient = recipient
        self._eof_wanted = False
        self._eof_sent = False
        self._closing = False
        self._close_sent = False
        self._close_received = False
        self._finished = False
        self._reason: str | None = None
        self._handling_request = False
        self._sent_requests: SentRequests | None = None
        self._received_requests: ReceivedRequests | None = None

    def __repr__(self) -> str:
        state = "closed" if self._finished else "open" if self.is_open else "closing"
        return f"<Channel {printable(self.kind)} {self.number} {state}>"

    @property
    def is_open(self) -> bool:
        """Whether nobody has closed it yet."""
        return not (self._closing or self._close_sent or self._finished)

    @property
    def is_finished(self) -> bool:
        """Whether ``closed`` was called, or waits for nothing but ``start``."""
        return self._finished

    @property
    def queued(self) -> int:
        """Bytes written and not sent yet."""
        return self._output.queued

    @property
    def held(self) -> int:
        """Bytes that came and were not delivered yet."""
        return self._input.held

    # Stream.

    def start(self, receiver: StreamReceiver) -> None:
        """Deliver what comes, and what came already, to ``receiver``. Once only.

        Data of another stream (stderr) is taken and dropped, see :attr:`on_stderr`.
        """
        if self._input.receiver is not None:
            raise RuntimeError("this channel has a receiver already")
        self._input.receiver = receiver
        if self._finished:
            self._tell_closed(receiver)
        else:
            self._input.deliver_held()
            self._finish_if_over()

    def write(self, data: bytes) -> None:
        """Send ``data``, or queue it. Ignored after :meth:`write_eof` or the end."""
        self._output.write(data)

    def write_buffer(self, data: memoryview) -> None:
        """The same; the memory is the caller's again when this returns."""
        self._output.write(data)

    def write_stderr(self, data: bytes) -> None:
        """Send ``data`` as standard error; what :meth:`write` queued goes first."""
        self._output.write_extended(data)

    def write_eof(self) -> None:
        """Send EOF once everything written has been sent. The peer may go on."""
        self._eof_wanted = self._output.ended = True
        self._output.flush()

    def close(self) -> None:
        """Send what was written, then EOF and CLOSE. Nothing more is delivered.

        ``closed`` is called when the peer has closed too, or had
        ``limits.close_seconds`` to do so.
        """
        if self.is_open:
            self._closing = self._eof_wanted = self._output.ended = True
            self._input.discard()
            self._output.flush()

    def abort(self, reason: str = "aborted") -> None:
        """Drop what was not sent and CLOSE now; ``closed`` is called at once.

        :param reason: what ``closed`` is told.
        """
        self._send_close()
        self._finish(reason)

    # IConsumer: what writes to us.

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Pause ``producer`` while what it writes cannot be sent.

        :param streaming: has to be true: push producers only.
        """
        if not streaming:
            raise RuntimeError("a channel takes push producers only")
        if self.is_open:
            self._output.register_producer(cast(IPushProducer, producer))
        else:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        """The producer writes no more."""
        self._output.unregister_producer()

    # IPushProducer: what we deliver.

    def pauseProducing(self) -> None:
        """Deliver no data, and give the peer no more window."""
        self._input.pause()

    def resumeProducing(self) -> None:
        """Deliver again."""
        self._input.resume()
        self._finish_if_over()

    def stopProducing(self) -> None:
        """Nothing more is wanted: the same as :meth:`close`."""
        self.close()

    # Requests.

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
        payload = uint32(self._recipient) + string(name) + boolean(want_reply) + data
        if not want_reply:
            self.send(MSG_CHANNEL_REQUEST, payload)
            return succeed(None)
        requests = self._sent_requests
        if requests is None:
            limit = self.connection.limits.outstanding_requests
            requests = self._sent_requests = SentRequests(limit)
        refusal = requests.refusal()
        if refusal is not None:
            return fail(refusal)
        answer = requests.add(name).addCallback(_without_data)
        self.send(MSG_CHANNEL_REQUEST, payload)
        return answer

    # What the connection calls, for the peer's messages. None of it raises anything
    # but ProtocolError, which ends the connection.

    def data_arrived(self, data: Buffer, largest: int) -> None:
        """CHANNEL_DATA: one message, or several of at most ``largest`` bytes."""
        violation = self._input.violation(len(data), largest)
        if violation:
            self._violated(violation)
            return
        self._input.receive(data)
        if self._close_received:
            self._finish_if_over()

    def extended_data_arrived(self, data: bytes) -> None:
        """CHANNEL_EXTENDED_DATA: counted, and dropped unless somebody wants it."""
        size = len(data)
        violation = self._input.violation(size, size)
        if violation:
            self._violated(violation)
            return
        self._input.drop(size)
        if self.on_stderr is not None:
            self.on_stderr(data)

    def window_adjusted(self, count: int) -> None:
        """CHANNEL_WINDOW_ADJUST.

        :raises ProtocolError: when the window would exceed 2^32-1 bytes.
        """
        self._output.window.adjusted(count)
        self._output.flush()

    def eof_arrived(self) -> None:
        """CHANNEL_EOF."""
        self._input.receive_eof()

    def close_arrived(self) -> None:
        """CHANNEL_CLOSE: what we have not sent can never be, what we hold still counts.

        RFC 4254 section 5.3 has it answered.
        """
        self._close_received = True
        self._send_close()
        self._finish_if_over()

    def close_overdue(self) -> None:
        """The peer does not answer our CLOSE; nobody here waits for it any longer."""
        self._finish("the peer did not close the channel")

    def request_arrived(self, name: bytes, want_reply: bool, data: bytes) -> None:
        """CHANNEL_REQUEST."""
        if not self.is_open:
            return
        limit = self.connection.limits.outstanding_requests
        requests = self._received_requests
        if requests is None:
            requests = self._received_requests = ReceivedRequests(
                limit, self._answer_request, self._request_raised
            )
        if requests.is_full:
            self.abort(f"the peer made more than {limit} requests at a time")
            return
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
            self._output.flush()

    def request_answered(self, success: bool) -> None:
        """CHANNEL_SUCCESS or CHANNEL_FAILURE.

        :raises ProtocolError: when no request waits for an answer.
        """
        if self._sent_requests is None:
            raise ProtocolError("an answer to a request that was never made")
        self._sent_requests.answered(success, b"")

    def connection_lost(self, reason: str) -> None:
        """The connection is gone, and what was not delivered with it."""
        # A client that has had everything may hang up without answering our CLOSE, as
        # ``ssh -W`` does: that is an orderly end.
        orderly = self._closing and self._close_sent
        self._close_sent = self._close_received = True
        self._finish(None if orderly else reason)

    def take_turn(self) -> bool:
        """The connection has room and it is our turn.

        :returns: whether we want another turn.
        """
        return self._output.take_turn()

    # What the two halves call.

    @property
    def is_writable(self) -> bool:
        """Whether data may be sent without waiting for a turn."""
        return self.connection.is_writable and not self._close_sent

    @property
    def packet_size(self) -> int:
        """Bytes of data that the next packet may have, whatever the peer allows."""
        return self.connection.packet_size(self.number)

    @property
    def is_congested(self) -> bool:
        """Whether the connection takes no data from any channel."""
        return self.connection.is_congested

    def send(self, number: int, payload: bytes, data: Buffer = b"") -> None:
        """Send a message of this channel's."""
        self.connection.send(number, payload, data)

    def send_data(self, data: Buffer, limit: int) -> None:
        """Send data of this channel's, ``limit`` bytes in a packet."""
        self.connection.send_data(self._recipient, data, limit)

    def wait_for_turn(self) -> None:
        """Have :meth:`take_turn` called."""
        self.connection.wait_for_turn(self)

    def grant(self, window: ReceiveWindow) -> None:
        """Let the peer send more, if it still can."""
        if not (self._input.eof or self._close_sent):
            count = window.credit(self.connection.transport.clock.seconds())
            if count:
                self.send(
                    MSG_CHANNEL_WINDOW_ADJUST, uint32(self._recipient) + uint32(count)
                )

    def output_drained(self) -> None:
        """Everything written has been sent: send what comes after."""
        if self._close_sent:
            return
        if self._eof_wanted and not self._eof_sent:
            self._eof_sent = True
            self.send(MSG_CHANNEL_EOF, uint32(self._recipient))
        # The answer that a request handler is about to give goes before CLOSE.
        if self._closing and not self._handling_request:
            self._send_close()
            self.connection.close_sent(self)

    def receiver_raised(self) -> None:
        """The receiver raised what is being handled now."""
        self._log.failure("the receiver of a {kind} channel", kind=printable(self.kind))
        self.abort("internal error")

    def producer_raised(self) -> None:
        """The producer raised what is being handled now."""
        self._log.failure("a producer of a {kind} channel", kind=printable(self.kind))
        self.abort("internal error")

    def _answer_request(self, success: bool) -> None:
        if not self._close_sent:
            number = MSG_CHANNEL_SUCCESS if success else MSG_CHANNEL_FAILURE
            self.send(number, uint32(self._recipient))

    def _request_raised(self, failure: Failure) -> None:
        self._log.failure(
            "a request on a {kind} channel", failure, kind=printable(self.kind)
        )
        self.abort("internal error")

    # The end.

    def _violated(self, violation: str) -> None:
        # After our CLOSE it is dropped unseen, whatever its size.
        if not self._close_sent:
            self.abort(violation)

    def _send_close(self) -> None:
        """Drop what was not sent, and send CLOSE unless it was sent already."""
        self._output.drop()
        if not self._close_sent:
            self._close_sent = True
            self.send(MSG_CHANNEL_CLOSE, uint32(self._recipient))
            self._end_requests()

    def _end_requests(self) -> None:
        if self._received_requests is not None:
            self._received_requests.stop()
        if self._sent_requests is not None:
            self._sent_requests.fail(ConnectionClosed("the channel is closed"))

    def _finish_if_over(self) -> None:
        if self._close_received and self._input.is_drained:
            self._finish(None)

    def _finish(self, reason: str | None) -> None:
        """Call ``closed``, now or at ``start``, and only once."""
        if self._finished:
            return
        self._finished = True
        self._reason = reason
        self._input.end()
        self._output.drop()
        self._end_requests()
        self.connection.channel_finished(self)
        producer = self._output.unregister_producer()
        if producer is not None:
            try:
                producer.stopProducing()
            except Exception:
                self.producer_raised()
        if self._input.receiver is not None:
            self._tell_closed(self._input.receiver)

    def _tell_closed(self, receiver: StreamReceiver) -> None:
        try:
            receiver.closed(self._reason)
        except Exception:
            self.receiver_raised()


def _without_data(data: bytes) -> None:
    """The answer to a channel request carries no data."""
