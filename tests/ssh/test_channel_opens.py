"""Tests for :mod:`rtunnel.ssh.channel_opens`, through connections."""

from __future__ import annotations

import contextlib
import struct

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    ConnectionClosed,
    OpenRefused,
)
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, OpenRequest
from rtunnel.testing import (
    AcceptingHandler,
    ConnectionPair,
    RecordingHandler,
    RecordingReceiver,
)
from rtunnel.wire.data_types import Reader
from rtunnel.wire.numbers import (
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
)
from rtunnel.wire.packet_cipher import Buffer
from tests.ssh.opens import DecidingHandler, open_message, opening


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
        pair.client._channels._next_number = 2**32 - 1
        second, third = opening(pair.client), opening(pair.client)
        pair.pump()
        numbers = [self.successResultOf(d).number for d in (first, second, third)]
        self.assertEqual(numbers, [0, 2**32 - 1, 1])
