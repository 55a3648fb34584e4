"""Tests for :mod:`rtunnel.ssh.connection`."""

from __future__ import annotations

import struct
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.connection import Connection
from rtunnel.testing import (
    AcceptingHandler,
    ConnectionPair,
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
from tests.ssh.opens import opening


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
