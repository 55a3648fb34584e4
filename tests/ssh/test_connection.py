"""Tests for :mod:`rtunnel.ssh.connection` and :mod:`rtunnel.ssh.channel_opens`."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    ConnectionClosed,
    OpenRefused,
    RequestFailed,
)
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits, TokenBucket
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.testing import (
    AcceptingHandler,
    ConnectionPair,
    RecordingHandler,
    RecordingProducer,
    RecordingReceiver,
)
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
    MSG_DISCONNECT,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
    MSG_UNIMPLEMENTED,
)
from rtunnel.wire.packet_cipher import Buffer


class DecidingHandler(RecordingHandler):
    """Leaves every open to the test: ``decisions`` fire with what to do."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.decisions: list[Deferred[Attach]] = []

    async def _wait(self, request: OpenRequest) -> Attach:
        decision: Deferred[Attach] = Deferred()
        self.decisions.append(decision)
        return await decision


def opening(
    connection: Connection, kind: bytes = b"test", data: bytes = b"data"
) -> Deferred[Channel]:
    """Ask for a channel."""
    return Deferred.fromCoroutine(connection.open_channel(kind, data))


def open_message(
    number: int = 0, window: int = 2**20, max_packet: int = 32768
) -> bytes:
    """The payload of a CHANNEL_OPEN."""
    return string(b"test") + struct.pack(">III", number, window, max_packet)


class OpeningTests(SynchronousTestCase):
    """Channels are opened when what they lead to is there."""

    def test_confirmed_only_after_the_decision(self) -> None:
        """No confirmation goes out while the handler's coroutine still runs."""
        handler = DecidingHandler()
        pair = ConnectionPair(server_handler=handler)
        opened = opening(pair.client)
        pair.pump()
        self.assertNoResult(opened)
        self.assertEqual(pair.server_transport.sent, [])
        attached: list[Channel] = []
        handler.decisions[0].callback(attached.append)
        self.assertEqual(pair.server_transport.sent, [MSG_CHANNEL_OPEN_CONFIRMATION])
        pair.pump()
        channel = self.successResultOf(opened)
        self.assertEqual(channel.kind, b"test")
        self.assertEqual(len(attached), 1)
        self.assertEqual(handler.requests, [OpenRequest(b"test", b"data")])

    def test_attached_after_the_confirmation(self) -> None:
        """What the attachment writes follows the confirmation."""

        async def opener(request: OpenRequest) -> Attach:
            return lambda channel: channel.write(b"hello")

        pair = ConnectionPair(server_handler=RecordingHandler(opener))
        opened = opening(pair.client)
        pair.pump()
        receiver = RecordingReceiver()
        self.successResultOf(opened).start(receiver)
        self.assertEqual(bytes(receiver.data), b"hello")

    def test_both_ends_may_open(self) -> None:
        """The end that stands for the SSH server opens channels just as well."""
        handler = AcceptingHandler()
        pair = ConnectionPair(client_handler=handler)
        opened = opening(pair.server)
        pair.pump()
        self.successResultOf(opened)
        self.assertEqual(len(handler.channels), 1)

    def test_refused_with_code_and_sentence(self) -> None:
        """The peer's reason code and text come back as OpenRefused."""

        async def opener(request: OpenRequest) -> Attach:
            raise OpenRefused(2, "connection to web1:22 refused")

        pair = ConnectionPair(server_handler=RecordingHandler(opener))
        opened = opening(pair.client)
        pair.pump()
        refused = self.failureResultOf(opened, OpenRefused).value
        self.assertEqual(refused.reason_code, 2)
        self.assertEqual(refused.text, "connection to web1:22 refused")
        self.assertEqual(pair.client.open_channels, 0)
        self.assertEqual(pair.server.open_channels, 0)

    def test_a_refused_open_gives_its_window_back(self) -> None:
        """An open that came to nothing leaves the window budget as it was."""
        pair = ConnectionPair(server_handler=RecordingHandler())
        for _ in range(10):
            opening(pair.client).addErrback(lambda failure: failure.trap(OpenRefused))
        pair.pump()
        self.assertEqual(pair.client._budget.granted, 0)

    def test_our_sentence_is_cut(self) -> None:
        """A refusal of ours is no larger than 1 KiB, whatever the handler says."""

        async def opener(request: OpenRequest) -> Attach:
            raise OpenRefused(2, "x" * 5000)

        pair = ConnectionPair(server_handler=RecordingHandler(opener))
        pair.server.packetReceived(MSG_CHANNEL_OPEN, open_message())
        self.assertLess(pair.server_transport.outbox_size, 1100)

    def test_the_peers_sentence_is_made_printable(self) -> None:
        """Control characters in a refusal do not reach our log or our caller."""

        async def opener(request: OpenRequest) -> Attach:
            raise OpenRefused(2, "no\r\n\x1b[2Jline" + "x" * 5000)

        pair = ConnectionPair(server_handler=RecordingHandler(opener))
        opened = opening(pair.client)
        pair.pump()
        sentence = self.failureResultOf(opened, OpenRefused).value.text
        self.assertTrue(sentence.isprintable())
        self.assertLess(len(sentence), 1024)

    def test_a_refusal_need_not_have_a_sentence(self) -> None:
        """A CHANNEL_OPEN_FAILURE that ends after its reason code is taken."""
        pair = ConnectionPair()
        opened = opening(pair.client)
        pair.client.packetReceived(MSG_CHANNEL_OPEN_FAILURE, struct.pack(">II", 0, 1))
        self.assertEqual(self.failureResultOf(opened, OpenRefused).value.text, "")

    def test_a_malformed_request_is_refused_and_ends_nothing_else(self) -> None:
        """Nor is it a failure of ours, so nothing is logged."""

        async def opener(request: OpenRequest) -> Attach:
            Reader(request.data).uint32()
            return lambda channel: None

        pair = ConnectionPair(server_handler=RecordingHandler(opener))
        bad, good = opening(pair.client, data=b"\0"), opening(pair.client)
        pair.pump()
        refused = self.failureResultOf(bad, OpenRefused).value
        self.assertEqual(refused.reason_code, OPEN_ADMINISTRATIVELY_PROHIBITED)
        self.assertIn("shorter", refused.text)
        self.successResultOf(good)

    def test_a_failing_handler_refuses(self) -> None:
        """Any other exception is logged once, and the peer hears "internal error"."""

        async def opener(request: OpenRequest) -> Attach:
            raise ValueError("a bug")

        pair = ConnectionPair(server_handler=RecordingHandler(opener))
        opened = opening(pair.client)
        pair.pump()
        refused = self.failureResultOf(opened, OpenRefused).value
        self.assertEqual(refused.text, "internal error")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertTrue(pair.server.is_open)

    def test_a_failing_attachment_closes_the_channel(self) -> None:
        """An attachment that raises costs its own channel only."""

        def attach(channel: Channel) -> None:
            raise ValueError("a bug")

        async def opener(request: OpenRequest) -> Attach:
            return attach

        pair = ConnectionPair(server_handler=RecordingHandler(opener))
        opened = opening(pair.client)
        pair.pump()
        receiver = RecordingReceiver()
        self.successResultOf(opened).start(receiver)
        self.assertEqual(receiver.events, ["closed"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertTrue(pair.server.is_open)
        self.assertEqual(pair.server.open_channels, 0)

    def test_cancelled_when_the_connection_goes(self) -> None:
        """The handler's coroutine is cancelled with the connection, quietly."""
        cancelled: list[OpenRequest] = []

        async def opener(request: OpenRequest) -> Attach:
            try:
                return await Deferred[Attach]()
            except CancelledError:
                cancelled.append(request)
                raise

        handler = RecordingHandler(opener)
        pair = ConnectionPair(server_handler=handler)
        opened = opening(pair.client)
        pair.pump()
        pair.lose()
        self.failureResultOf(opened, ConnectionClosed)
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(pair.server.open_channels, 0)
        self.assertEqual(handler.lost, ["the connection was lost"])

    def test_a_decision_after_the_end_gets_a_closed_channel(self) -> None:
        """What a stubborn handler opened can be let go through its attachment."""
        attached: list[Channel] = []

        async def opener(request: OpenRequest) -> Attach:
            with contextlib.suppress(CancelledError):
                await Deferred[None]()
            return attached.append

        pair = ConnectionPair(server_handler=RecordingHandler(opener))
        opened = opening(pair.client)
        pair.pump()
        pair.lose("cut")
        self.failureResultOf(opened, ConnectionClosed)
        receiver = RecordingReceiver()
        attached[0].start(receiver)
        self.assertEqual(receiver.reasons, ["cut"])
        self.assertEqual(pair.server.open_channels, 0)

    def test_a_late_confirmation_of_a_cancelled_open_is_closed(self) -> None:
        """A caller who gave up leaves no channel behind, at either end."""
        handler = DecidingHandler()
        pair = ConnectionPair(server_handler=handler)
        opened = opening(pair.client)
        pair.pump()
        opened.cancel()
        self.failureResultOf(opened, CancelledError)
        self.assertEqual(pair.client.open_channels, 1)
        receiver = RecordingReceiver()
        handler.decisions[0].callback(lambda channel: channel.start(receiver))
        pair.pump()
        self.assertEqual(receiver.events, ["closed"])
        self.assertEqual(pair.client.open_channels, 0)
        self.assertEqual(pair.server.open_channels, 0)

    def test_a_late_refusal_of_a_cancelled_open_is_dropped(self) -> None:
        """Nobody hears the refusal of an open that was given up."""
        handler = DecidingHandler()
        pair = ConnectionPair(server_handler=handler)
        opened = opening(pair.client)
        pair.pump()
        opened.cancel()
        self.failureResultOf(opened, CancelledError)
        handler.decisions[0].errback(OpenRefused(2, "no"))
        pair.pump()
        self.assertEqual(pair.client.open_channels, 0)

    def test_opening_on_a_lost_connection(self) -> None:
        """open_channel says at once that the connection is closed."""
        pair = ConnectionPair()
        pair.lose()
        self.failureResultOf(opening(pair.client), ConnectionClosed)

    def test_opening_while_the_transport_gives_up(self) -> None:
        """A connection that ends while CHANNEL_OPEN is being sent ends the open too."""
        pair = ConnectionPair()
        transport = pair.client_transport
        send_packet = transport.sendPacket

        def give_up(messageType: int, payload: bytes, data: Buffer = b"") -> None:
            send_packet(messageType, payload, data)
            transport.lose("the peer does not read")

        transport.sendPacket = give_up  # type: ignore[method-assign]
        self.failureResultOf(opening(pair.client), ConnectionClosed)

    def test_numbers_go_round(self) -> None:
        """After channel number 2^32-1 comes 0, and numbers in use are passed over."""
        pair = ConnectionPair()
        first = opening(pair.client)
        pair.client._next_number = 2**32 - 1
        second, third = opening(pair.client), opening(pair.client)
        pair.pump()
        numbers = [self.successResultOf(d).number for d in (first, second, third)]
        self.assertEqual(numbers, [0, 2**32 - 1, 1])


class LimitTests(SynchronousTestCase):
    """What one peer may use."""

    def refusals(self, pair: ConnectionPair, count: int) -> list[tuple[int, str]]:
        """Ask for ``count`` channels; code and text of those refused."""
        refused = []
        opens = [opening(pair.client) for _ in range(count)]
        pair.pump()
        for opened in opens:
            failures: list[Failure] = []
            opened.addErrback(failures.append)
            for failure in failures:
                assert isinstance(failure.value, OpenRefused)
                refused.append((failure.value.reason_code, failure.value.text))
        return refused

    def test_channels_per_connection(self) -> None:
        """The channel after the last that is allowed is refused with code 4."""
        pair = ConnectionPair(server_limits=ChannelLimits(channels=3))
        self.assertEqual(
            self.refusals(pair, 5),
            [(4, "3 channels are open on this connection already")] * 2,
        )

    def test_our_own_opens_are_limited_too(self) -> None:
        """We do not ask for more channels than a connection may have."""
        pair = ConnectionPair(client_limits=ChannelLimits(channels=3))
        self.assertEqual([code for code, _ in self.refusals(pair, 5)], [4, 4])
        self.assertEqual(pair.client_transport.sent, [MSG_CHANNEL_OPEN] * 3)

    def test_a_closed_channel_makes_room(self) -> None:
        """Channels that are gone do not count."""
        pair = ConnectionPair(server_limits=ChannelLimits(channels=1))
        for _ in range(3):
            opened = opening(pair.client)
            pair.pump()
            self.successResultOf(opened).close()
            pair.pump()
        self.assertEqual(pair.server.open_channels, 0)

    def test_a_channel_whose_data_nobody_took_still_counts(self) -> None:
        """Closing does not free the place of a channel that still holds data."""
        pair = ConnectionPair(server_limits=ChannelLimits(channels=1))
        opened = opening(pair.client)
        pair.pump()
        channel = self.successResultOf(opened)
        channel.write(b"x" * 1000)
        channel.close()
        pair.pump()
        self.assertEqual(len(self.refusals(pair, 1)), 1)
        handler = pair.server_handler
        assert isinstance(handler, AcceptingHandler)
        handler.channels[0].start(RecordingReceiver())
        self.assertEqual(self.refusals(pair, 1), [])

    def test_pending_opens(self) -> None:
        """Only so many opens may wait for the handler."""
        handler = DecidingHandler()
        pair = ConnectionPair(
            server_handler=handler, server_limits=ChannelLimits(pending_opens=2)
        )
        self.assertEqual(
            self.refusals(pair, 3), [(4, "2 channels are being opened already")]
        )
        handler.decisions[0].errback(OpenRefused(2, "no"))
        pair.pump()
        self.assertEqual(self.refusals(pair, 1), [])

    def test_opens_per_second(self) -> None:
        """A burst is allowed, then so many a second."""
        limits = ChannelLimits(opens_per_second=10, opens_burst=20)
        pair = ConnectionPair(server_limits=limits)
        self.assertEqual(
            self.refusals(pair, 22), [(4, "more than 10 channels a second")] * 2
        )
        pair.clock.advance(0.5)
        self.assertEqual(len(self.refusals(pair, 6)), 1)

    def test_rejected_opens_leave_nothing_behind(self) -> None:
        """Ten thousand refused opens leave no trace in any table."""
        handler = RecordingHandler()
        limits = ChannelLimits(opens_per_second=1e9, opens_burst=10**9)
        pair = ConnectionPair(server_handler=handler, server_limits=limits)
        for number in range(10_000):
            pair.server.packetReceived(MSG_CHANNEL_OPEN, open_message(number))
            pair.server_transport.take_packet()
            handler.requests.clear()
        self.assertEqual(pair.server.open_channels, 0)
        self.assertEqual(pair.server._budget.granted, 0)
        self.assertEqual(len(pair.server._lingering), 0)

    def test_least_maximum_packet_of_a_peer_that_asks(self) -> None:
        """A peer that takes packets of 0 or 1023 bytes gets no channel."""
        pair = ConnectionPair()
        for max_packet in (0, 1, 1023):
            pair.server.packetReceived(
                MSG_CHANNEL_OPEN, open_message(7, max_packet=max_packet)
            )
            packet = pair.server_transport.take_packet()
            assert packet is not None
            number, payload = packet
            self.assertEqual(number, MSG_CHANNEL_OPEN_FAILURE)
            self.assertEqual(payload[:8], struct.pack(">II", 7, 1))
            self.assertIn(b"1024 is the least", payload)
        pair.server.packetReceived(MSG_CHANNEL_OPEN, open_message(7, max_packet=1024))
        self.assertEqual(pair.server.open_channels, 1)

    def test_least_maximum_packet_of_a_peer_that_confirms(self) -> None:
        """A channel confirmed with packets too small is refused and closed."""
        pair = ConnectionPair()
        opened = opening(pair.client)
        pair.client.packetReceived(
            MSG_CHANNEL_OPEN_CONFIRMATION, struct.pack(">IIII", 0, 9, 1000, 1023)
        )
        self.failureResultOf(opened, OpenRefused)
        self.assertEqual(
            pair.client_transport.sent, [MSG_CHANNEL_OPEN, MSG_CHANNEL_CLOSE]
        )
        pair.client.packetReceived(MSG_CHANNEL_CLOSE, uint32(0))
        self.assertEqual(pair.client.open_channels, 0)

    def test_held_data_of_all_channels(self) -> None:
        """A peer that fills all its windows on many channels meets the budget.

        Nobody takes the data; what the peer can make us hold stays near the budget
        although each window alone could be large.
        """
        limits = ChannelLimits(
            window_budget=2**20, opens_burst=1000, initial_window=2**18
        )
        pair = ConnectionPair(server_limits=limits, capacity=2**30)
        opens = [opening(pair.client) for _ in range(50)]
        pair.pump()
        for opened in opens:
            self.successResultOf(opened).write(bytes(2**19))
        pair.pump()
        handler = pair.server_handler
        assert isinstance(handler, AcceptingHandler)
        held = sum(channel.held for channel in handler.channels)
        self.assertLessEqual(held, 2**20 + 50 * limits.least_window)
        self.assertGreaterEqual(held, 50 * limits.least_window)

    def test_outstanding_global_requests(self) -> None:
        """We do not send more global requests than may wait for an answer."""
        limits = ChannelLimits(outstanding_requests=2)
        pair = ConnectionPair(client_limits=limits)
        waiting = [pair.client.send_global_request(b"x") for _ in range(2)]
        self.failureResultOf(pair.client.send_global_request(b"x"), RequestFailed)
        pair.pump()
        for request in waiting:
            self.failureResultOf(request, RequestFailed)


class TokenBucketTests(SynchronousTestCase):
    """A rate with a burst."""

    def test_never_holds_more_than_the_burst(self) -> None:
        """A long silence earns no more than the burst."""
        bucket = TokenBucket(10, 3, 0.0)
        taken = [bucket.take(1000.0) for _ in range(5)]
        self.assertEqual(taken, [True, True, True, False, False])

    def test_refills_with_time(self) -> None:
        """A tenth of a second earns one token of ten a second."""
        bucket = TokenBucket(10, 1, 0.0)
        self.assertTrue(bucket.take(0.0))
        self.assertFalse(bucket.take(0.05))
        self.assertTrue(bucket.take(0.1))


class GlobalRequestTests(SynchronousTestCase):
    """Requests that concern no channel."""

    def ask(self, pair: ConnectionPair, name: bytes, want_reply: bool) -> list[int]:
        """Send a global request to the server; the numbers of what it answers."""
        pair.server.packetReceived(
            MSG_GLOBAL_REQUEST, string(name) + boolean(want_reply)
        )
        return pair.server_transport.sent

    def test_keepalive_is_answered(self) -> None:
        """keepalive@openssh.com gets REQUEST_FAILURE, which is all that ssh wants."""
        pair = ConnectionPair()
        self.assertEqual(
            self.ask(pair, b"keepalive@openssh.com", True), [MSG_REQUEST_FAILURE]
        )

    def test_no_answer_unless_wanted(self) -> None:
        """A request without want_reply gets none."""
        pair = ConnectionPair()
        self.assertEqual(self.ask(pair, b"no-more-sessions@openssh.com", False), [])

    def test_answer_with_data(self) -> None:
        """What the handler returns travels in REQUEST_SUCCESS."""
        pair = ConnectionPair()
        pair.server_handler.global_answers[b"tcpip-forward"] = uint32(4711)
        answer = pair.client.send_global_request(b"tcpip-forward", b"x")
        pair.pump()
        self.assertEqual(self.successResultOf(answer), uint32(4711))
        self.assertEqual(
            pair.server_handler.global_requests, [(b"tcpip-forward", b"x")]
        )
        self.assertEqual(pair.server_transport.sent, [MSG_REQUEST_SUCCESS])

    def test_a_failing_handler_is_a_failure(self) -> None:
        """An exception is logged, the peer hears failure, the connection stays."""
        pair = ConnectionPair()

        def fail(name: bytes, data: bytes) -> bytes | None:
            raise ValueError("a bug")

        pair.server_handler.global_request = fail  # type: ignore[method-assign]
        self.assertEqual(self.ask(pair, b"x", True), [MSG_REQUEST_FAILURE])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_answers_come_in_order(self) -> None:
        """Answers are matched to requests by their order."""
        pair = ConnectionPair()
        pair.server_handler.global_answers[b"b"] = b"yes"
        first = pair.client.send_global_request(b"a")
        second = pair.client.send_global_request(b"b")
        pair.pump()
        self.failureResultOf(first, RequestFailed)
        self.assertEqual(self.successResultOf(second), b"yes")

    def test_a_request_nobody_waits_for_is_still_matched(self) -> None:
        """Cancelling a request does not shift the answers of later ones."""
        pair = ConnectionPair()
        pair.server_handler.global_answers[b"b"] = b"yes"
        first = pair.client.send_global_request(b"a")
        second = pair.client.send_global_request(b"b")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        pair.pump()
        self.assertEqual(self.successResultOf(second), b"yes")

    def test_fails_when_the_connection_goes(self) -> None:
        """A request without an answer fails with the connection."""
        pair = ConnectionPair()
        answer = pair.client.send_global_request(b"a")
        pair.lose()
        self.failureResultOf(answer, ConnectionClosed)
        self.failureResultOf(pair.client.send_global_request(b"a"), ConnectionClosed)

    def test_without_want_reply_it_is_done_at_once(self) -> None:
        """Nothing is waited for that does not come."""
        pair = ConnectionPair()
        self.successResultOf(pair.client.send_global_request(b"a", want_reply=False))
        pair.pump()
        self.assertEqual(pair.server_handler.global_requests, [(b"a", b"")])
        self.assertEqual(pair.server_transport.sent, [])


class ProtocolErrorTests(SynchronousTestCase):
    """What breaks the protocol ends the connection, and nothing else is raised."""

    def assert_ends(self, number: int, payload: bytes) -> None:
        """The message ends the server's connection with a DISCONNECT of code 2."""
        pair = ConnectionPair()
        opened = opening(pair.client)
        pair.pump()
        self.successResultOf(opened)
        pair.server_transport.receive(number, payload)
        self.assertEqual(pair.server_transport.sent[-1], MSG_DISCONNECT)
        code = Reader(pair.server_transport.outbox[-1][1]).uint32()
        self.assertEqual(code, 2)
        pair.pump()
        self.assertFalse(pair.server.is_open)
        self.assertFalse(pair.client.is_open)

    def test_unknown_channel_number(self) -> None:
        """Any message for a channel that is not open."""
        for number, rest in [
            (MSG_CHANNEL_WINDOW_ADJUST, uint32(1)),
            (MSG_CHANNEL_DATA, string(b"x")),
            (MSG_CHANNEL_EXTENDED_DATA, uint32(1) + string(b"x")),
            (MSG_CHANNEL_EOF, b""),
            (MSG_CHANNEL_CLOSE, b""),
            (MSG_CHANNEL_REQUEST, string(b"x") + boolean(True)),
            (MSG_CHANNEL_SUCCESS, b""),
            (MSG_CHANNEL_FAILURE, b""),
        ]:
            self.assert_ends(number, uint32(1) + rest)

    def test_answers_that_nobody_asked_for(self) -> None:
        """Unsolicited answers to requests and opens."""
        for number, payload in [
            (MSG_REQUEST_SUCCESS, b""),
            (MSG_REQUEST_FAILURE, b""),
            (MSG_CHANNEL_SUCCESS, uint32(0)),
            (MSG_CHANNEL_FAILURE, uint32(0)),
            (MSG_CHANNEL_OPEN_CONFIRMATION, struct.pack(">IIII", 0, 0, 9, 9999)),
            (MSG_CHANNEL_OPEN_FAILURE, struct.pack(">IIII", 0, 1, 0, 0)),
        ]:
            self.assert_ends(number, payload)

    def test_truncated_messages(self) -> None:
        """Messages that end before their fields do."""
        for number in range(MSG_GLOBAL_REQUEST, MSG_CHANNEL_FAILURE + 1):
            if MSG_REQUEST_FAILURE >= number > MSG_GLOBAL_REQUEST:
                continue
            if number in range(83, 90):
                continue
            self.assert_ends(number, b"")
            self.assert_ends(number, b"\x00\x00")

    def test_data_of_another_length_than_it_says(self) -> None:
        """The length field and the message have to agree."""
        self.assert_ends(MSG_CHANNEL_DATA, struct.pack(">II", 0, 5) + b"1234")
        self.assert_ends(MSG_CHANNEL_DATA, struct.pack(">II", 0, 3) + b"1234")
        self.assert_ends(
            MSG_CHANNEL_EXTENDED_DATA, struct.pack(">III", 0, 1, 3) + b"1234"
        )

    def test_window_above_its_maximum(self) -> None:
        """A window and its adjustments may not exceed 2^32-1 bytes."""
        self.assert_ends(MSG_CHANNEL_WINDOW_ADJUST, struct.pack(">II", 0, 2**32 - 1))

    def test_names_are_limited(self) -> None:
        """A channel type or request name over 255 bytes."""
        self.assert_ends(MSG_GLOBAL_REQUEST, string(b"x" * 256) + boolean(True))
        self.assert_ends(
            MSG_CHANNEL_OPEN, string(b"x" * 256) + struct.pack(">III", 0, 1, 32768)
        )

    def test_unknown_messages_are_answered(self) -> None:
        """Numbers that RFC 4250 leaves free get UNIMPLEMENTED."""
        pair = ConnectionPair()
        for number in (83, 89, 101, 127):
            pair.server.packetReceived(number, b"")
        self.assertEqual(pair.server_transport.sent, [MSG_UNIMPLEMENTED] * 4)

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([80, 81, 82, *range(90, 101)]),
                st.one_of(
                    st.binary(max_size=64),
                    st.tuples(st.integers(0, 2), st.binary(max_size=40)).map(
                        lambda pair: uint32(pair[0]) + pair[1]
                    ),
                    st.tuples(st.integers(0, 2), st.integers(0, 2**32 - 1)).map(
                        lambda pair: struct.pack(">II", *pair)
                    ),
                    st.tuples(st.integers(0, 2), st.binary(max_size=40)).map(
                        lambda pair: uint32(pair[0]) + string(pair[1])
                    ),
                ),
            ),
            max_size=20,
        )
    )
    def test_anything_at_all(self, messages: list[tuple[int, bytes]]) -> None:
        """Whatever comes, nothing but ProtocolError is raised, and all is undone.

        :class:`MemoryTransport` lets every other exception through to the test.
        """
        pair = ConnectionPair()
        receiver = RecordingReceiver()
        opened = opening(pair.client)
        pair.pump()
        self.successResultOf(opened)
        handler = pair.server_handler
        assert isinstance(handler, AcceptingHandler)
        handler.channels[0].start(receiver)
        waiting = opening(pair.server).addErrback(lambda _: None)
        for number, payload in messages:
            pair.server_transport.receive(number, payload)
        pair.lose()
        self.successResultOf(waiting.addCallback(lambda _: None))
        self.assertEqual(receiver.events.count("closed"), 1)
        self.assertEqual(pair.server.open_channels, 0)
        self.assertEqual(pair.server._budget.granted, 0)
        self.assertEqual(len(pair.server_handler.lost), 1)


class EndTests(SynchronousTestCase):
    """A connection's end reaches everybody, once, and in order."""

    def test_everybody_is_told_before_the_handler(self) -> None:
        """Channels are closed with the reason, then the handler hears it."""
        order: list[str] = []

        class Receiver(RecordingReceiver):
            def closed(self, reason: str | None) -> None:
                order.append(f"channel: {reason}")

        class Handler(AcceptingHandler):
            def connection_lost(self, reason: str) -> None:
                order.append(f"handler: {reason}")

        handler = Handler()
        pair = ConnectionPair(server_handler=handler)
        for _ in range(2):
            opening(pair.client).addErrback(lambda _: None)
        pair.pump()
        for channel in handler.channels:
            channel.start(Receiver())
        pair.server_transport.lose("cut")
        pair.server_transport.lose("again")
        pair.server.serviceStopped()
        self.assertEqual(order, ["channel: cut", "channel: cut", "handler: cut"])

    def test_close_tells_the_peer_why(self) -> None:
        """The text goes into DISCONNECT, and ends channels at both ends."""
        pair = ConnectionPair()
        opened = opening(pair.client)
        pair.pump()
        receiver = RecordingReceiver()
        self.successResultOf(opened).start(receiver)
        pair.server.close("draining")
        self.assertEqual(pair.server_handler.lost, ["draining"])
        pair.pump()
        self.assertEqual(pair.client_handler.lost, ["the peer disconnected: draining"])
        self.assertEqual(receiver.reasons, ["the peer disconnected: draining"])
        self.assertEqual(len(pair.server_handler.lost), 1)

    def test_nothing_is_sent_or_heard_after_close(self) -> None:
        """A closed connection ignores what still comes and what is still written."""
        pair = ConnectionPair()
        opened = opening(pair.client)
        pair.pump()
        channel = self.successResultOf(opened)
        pair.client.close("bye")
        sent = len(pair.client_transport.sent)
        channel.write(b"x")
        channel.close()
        pair.client.packetReceived(MSG_CHANNEL_EOF, uint32(99))
        self.assertEqual(len(pair.client_transport.sent), sent)

    def test_a_failing_start_closes(self) -> None:
        """A handler that cannot start gets no half-started connection."""

        class Handler(AcceptingHandler):
            def connection_started(self, connection: Connection) -> None:
                raise ValueError("a bug")

        handler = Handler()
        pair = ConnectionPair(server_handler=handler)
        self.assertFalse(pair.server.is_open)
        self.assertEqual(len(handler.lost), 1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_failing_receivers_do_not_spare_the_others(self) -> None:
        """Every channel is closed even when the first one's receiver raises."""
        pair = ConnectionPair()
        closed: list[str | None] = []

        class Receiver(RecordingReceiver):
            def closed(self, reason: str | None) -> None:
                closed.append(reason)
                raise ValueError("a bug")

        for _ in range(3):
            opened = opening(pair.client)
            pair.pump()
            self.successResultOf(opened).start(Receiver())
        pair.lose("cut")
        self.assertEqual(closed, ["cut"] * 3)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 3)
        self.assertEqual(pair.client_handler.lost, ["cut"])


class FairnessTests(SynchronousTestCase):
    """Channels take turns when the transport has no room for all."""

    def setUp(self) -> None:
        """A pair whose transports take 64 KiB at a time, and three open channels."""
        self.pair = ConnectionPair(capacity=65536)
        opens = [opening(self.pair.client) for _ in range(3)]
        self.pair.pump()
        self.channels = [self.successResultOf(opened) for opened in opens]
        self.pair.client_transport.sent.clear()

    def sent_to(self) -> list[int]:
        """Whom the data on its way is for, by channel number."""
        return [
            Reader(payload).uint32()
            for number, payload in self.pair.client_transport.outbox
            if number == MSG_CHANNEL_DATA
        ]

    def drain(self, look: Callable[[], None]) -> None:
        """Take everything off the client's transport, as often as it fills."""
        transport = self.pair.client_transport
        while transport.outbox:
            look()
            while transport.take_packet():
                pass
            transport.drained()

    def test_no_data_is_sent_while_there_is_no_room(self) -> None:
        """After pause_writing data stays in the channels."""
        self.pair.client.pause_writing()
        for channel in self.channels:
            channel.write(b"x" * 100)
        self.assertEqual(self.pair.client_transport.sent, [])
        self.assertEqual([c.queued for c in self.channels], [100] * 3)

    def test_small_channels_do_not_wait_for_a_bulk_channel(self) -> None:
        """What two channels wrote goes out in the first round beside bulk data."""
        bulk, first, second = self.channels
        bulk.write(bytes(100_000))
        bulk.write(bytes(100_000))
        first.write(b"a")
        second.write(b"b")
        rounds: list[list[int]] = []
        self.drain(lambda: rounds.append(self.sent_to()))
        self.assertEqual(set(rounds[0]), {0})
        self.assertEqual(rounds[1][:3], [0, 1, 2])

    def test_bulk_channels_share_evenly(self) -> None:
        """Three bulk channels get a packet each in turn."""
        self.pair.client.pause_writing()
        for channel in self.channels:
            channel.write(bytes(200_000))
        self.pair.client.resume_writing()
        sent: list[int] = []
        self.drain(lambda: sent.extend(self.sent_to()))
        self.assertEqual(sent[:18], [0, 1, 2] * 6)

    def test_a_producer_that_writes_in_its_turn_waits_for_the_others(self) -> None:
        """What a channel's producer writes when resumed goes behind those waiting."""
        eager, other, _ = self.channels

        class Producer(RecordingProducer):
            def resumeProducing(self) -> None:
                super().resumeProducing()
                eager.write(bytes(32768 * 4))

        eager.registerProducer(Producer(), True)
        self.pair.client.pause_writing()
        eager.write(b"x")
        other.write(b"y")
        self.pair.client.resume_writing()
        self.assertEqual(self.sent_to()[:3], [0, 1, 0])

    def test_a_channel_waits_once(self) -> None:
        """Many writes while there is no room take one place in the queue."""
        first, second, _ = self.channels
        self.pair.client.pause_writing()
        for _ in range(100):
            first.write(bytes(32768))
        second.write(b"x")
        self.pair.client.resume_writing()
        self.assertEqual(self.sent_to()[:2], [0, 1])

    def test_a_channel_without_window_does_not_hold_up_the_others(self) -> None:
        """A channel whose peer takes nothing is left out of the rounds."""
        stalled, live, _ = self.channels
        stalled._output.window.remaining = 0
        self.pair.client.pause_writing()
        stalled.write(bytes(1000))
        live.write(bytes(1000))
        self.pair.client.resume_writing()
        self.assertEqual(self.sent_to(), [1])
        self.assertEqual(stalled.queued, 1000)
