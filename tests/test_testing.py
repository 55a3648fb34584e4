"""Tests for :mod:`rtunnel.testing`."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from rtunnel.errors import OpenRefused, ProtocolError
from rtunnel.testing import (
    AcceptingHandler,
    ConnectionPair,
    MemoryStream,
    RecordingHandler,
    RecordingProducer,
    RecordingReceiver,
)
from rtunnel.wire.numbers import MSG_CHANNEL_EOF, MSG_DISCONNECT


class MemoryStreamTests(SynchronousTestCase):
    """A stream whose far end is the test."""

    def test_provides_twisteds_interfaces(self) -> None:
        """It is what any stream is."""
        for interface in (IConsumer, IPushProducer):
            self.assertTrue(verifyObject(interface, MemoryStream()))

    def test_pauses_and_resumes_its_producer(self) -> None:
        """Above its capacity the producer is paused, until all is taken."""
        stream, producer = MemoryStream(10), RecordingProducer()
        stream.registerProducer(producer, True)
        stream.write(b"x" * 10)
        self.assertFalse(producer.paused)
        stream.write(b"x")
        self.assertTrue(producer.paused)
        self.assertEqual(stream.take(), b"x" * 11)
        self.assertFalse(producer.paused)

    def test_closes_when_everything_was_taken(self) -> None:
        """close waits for what was written; abort does not."""
        for end, reason in (("close", None), ("abort", "aborted")):
            stream, receiver = MemoryStream(), RecordingReceiver()
            stream.start(receiver)
            stream.write(b"x")
            getattr(stream, end)()
            self.assertEqual(receiver.is_closed, end == "abort")
            stream.take()
            stream.write(b"late")
            self.assertEqual(receiver.reasons, [reason])
            self.assertEqual(stream.written, b"")

    def test_tells_a_late_receiver(self) -> None:
        """A stream that ended before start says so then."""
        stream, receiver = MemoryStream(), RecordingReceiver()
        stream.finish("gone")
        stream.start(receiver)
        self.assertEqual(receiver.reasons, ["gone"])


class ConnectionPairTests(SynchronousTestCase):
    """Two connections joined in memory."""

    def test_nothing_moves_by_itself(self) -> None:
        """Messages wait for pump, and step moves one."""
        handler = RecordingHandler()
        pair = ConnectionPair(server_handler=handler)
        opened = Deferred.fromCoroutine(pair.client.open_channel(b"x"))
        self.assertEqual(handler.requests, [])
        self.assertTrue(pair.step(pair.client_transport))
        self.assertFalse(pair.step(pair.client_transport))
        self.assertEqual(len(handler.requests), 1)
        self.assertNoResult(opened)
        pair.pump()
        self.failureResultOf(opened, OpenRefused)

    def test_a_full_transport_pauses_its_connection(self) -> None:
        """Above its capacity a transport is not writable until it has drained."""
        pair = ConnectionPair(capacity=100)
        opened = Deferred.fromCoroutine(pair.client.open_channel(b"x"))
        pair.pump()
        self.successResultOf(opened).write(bytes(1000))
        self.assertFalse(pair.client_transport.is_writable)
        self.assertTrue(pair.client.is_congested)
        pair.pump()
        self.assertFalse(pair.client.is_congested)

    def test_a_protocol_error_disconnects(self) -> None:
        """As the real transport does; both ends hear of it."""
        pair = ConnectionPair()
        with self.assertRaises(ProtocolError):
            pair.server.packetReceived(MSG_CHANNEL_EOF, b"")
        pair.server_transport.receive(MSG_CHANNEL_EOF, b"")
        self.assertEqual(pair.server_transport.sent, [MSG_DISCONNECT])
        pair.pump()
        self.assertEqual(len(pair.client_handler.lost), 1)
        self.assertEqual(len(pair.server_handler.lost), 1)

    def test_a_malformed_disconnect_is_a_protocol_error_too(self) -> None:
        """Nothing is raised, and both ends hear of it."""
        for payload in (b"", b"\x00\x00\x00", b"\x00" * 4 + b"\xff" * 4):
            pair = ConnectionPair()
            pair.server_transport.receive(MSG_DISCONNECT, payload)
            self.assertEqual(pair.server_transport.sent, [MSG_DISCONNECT])
            pair.pump()
            self.assertEqual(len(pair.client_handler.lost), 1)
            self.assertEqual(len(pair.server_handler.lost), 1)

    def test_a_disconnect_may_say_anything(self) -> None:
        """What is not UTF-8 is shown escaped."""
        pair = ConnectionPair()
        pair.server_transport.receive(
            MSG_DISCONNECT, b"\x00\x00\x00\x0b\x00\x00\x00\x01\xff"
        )
        self.assertIn("\\xff", pair.server_transport.close_reason)

    def test_losing_both_ends(self) -> None:
        """A cut connection is lost once at each end."""
        handler = AcceptingHandler()
        pair = ConnectionPair(server_handler=handler)
        pair.lose("cut")
        pair.lose("again")
        self.assertEqual(pair.client_handler.lost, ["cut"])
        self.assertEqual(handler.lost, ["cut"])
