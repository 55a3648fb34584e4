"""Tests for :mod:`rtunnel.ssh.packet_output`; most are in ``test_exchanges``."""

from __future__ import annotations

import os
import struct

from twisted.internet.interfaces import IPushProducer
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from rtunnel.ssh.limits import DEFAULT_LIMITS
from rtunnel.ssh.packet_output import MAX_CORKED, PacketOutput
from rtunnel.wire.packet_stream import PacketOpener, PacketSealer
from rtunnel.write_batch import BATCH


class PacketOutputTests(SynchronousTestCase):
    """:class:`PacketOutput`."""

    def setUp(self) -> None:
        """An output on a transport that keeps what it gets."""
        self.changes: list[bool] = []
        self.reasons: list[str] = []
        self.output = PacketOutput(
            PacketSealer(os.urandom),
            DEFAULT_LIMITS,
            lambda: self.changes.append(self.output.is_writable),
            self.reasons.append,
        )
        self.transport = StringTransport(lenient=True)
        self.output.connect(self.transport)

    def sent(self) -> list[tuple[int, bytes]]:
        """The packets that have reached TCP."""
        opener = PacketOpener(2**20)
        opener.feed(self.transport.value())
        return [
            (number, bytes(payload))
            for number, payload in iter(opener.next_packet, None)
        ]

    def test_is_the_producer_of_its_transport(self) -> None:
        """A push producer, as TCP sees it."""
        verifyObject(IPushProducer, self.output)
        self.assertIs(self.transport.producer, self.output)
        self.assertTrue(self.transport.streaming)

    def test_sends_at_once_unless_told_to_collect(self) -> None:
        """And what is collected leaves when the outermost block ends."""
        self.output.send(94, b"a", b"b")
        self.assertEqual(self.sent(), [(94, b"ab")])
        with BATCH:
            self.output.send(95, b"c")
            with BATCH:
                self.output.send(96, b"d")
            self.assertEqual(len(self.sent()), 1)
        self.assertEqual(self.sent(), [(94, b"ab"), (95, b"c"), (96, b"d")])

    def test_collects_no_more_than_it_should(self) -> None:
        """So that TCP can say that it has enough while a read goes on."""
        with BATCH:
            for _ in range(3):
                self.output.send(94, bytes(MAX_CORKED // 2))
            self.assertEqual(len(self.sent()), 2)

    def test_a_batch_holds_what_goes_to_other_connections(self) -> None:
        """What one read causes leaves at its end, wherever it goes."""
        other = PacketOutput(
            PacketSealer(os.urandom), DEFAULT_LIMITS, lambda: None, self.reasons.append
        )
        transport = StringTransport()
        other.connect(transport)
        with BATCH:
            self.output.send(94, b"here")
            other.send(94, b"there")
            self.assertEqual((self.sent(), transport.value()), ([], b""))
        self.assertEqual(self.sent(), [(94, b"here")])
        self.assertIn(b"there", transport.value())

    def test_data_without_a_direct_way_goes_as_any_message(self) -> None:
        """Over TLS, say; in packets of its own."""
        with BATCH:
            for _ in range(2):
                self.output.send_data(7, b"x" * 3000, 2000)
        packets = [
            (94, struct.pack(">II", 7, size) + b"x" * size) for size in (2000, 1000)
        ]
        self.assertEqual(self.sent(), packets * 2)

    def test_closing_sends_what_was_collected_and_nothing_after(self) -> None:
        """The producer is taken off first, or TCP would not close."""
        with BATCH:
            self.output.send(1, b"bye")
            self.output.close(linger=True)
            self.output.send(94, b"late")
        self.assertEqual(self.sent(), [(1, b"bye")])
        self.assertIsNone(self.transport.producer)
        self.assertTrue(self.transport.disconnecting)

    def test_says_when_it_is_writable(self) -> None:
        """Only when that changes, and never after the end."""
        self.output.pauseProducing()
        self.output.hold()
        self.output.resumeProducing()
        self.output.release()
        self.assertEqual(self.changes, [False, True])
        self.output.drop()
        self.output.pauseProducing()
        self.assertEqual(self.changes, [False, True])
        self.output.send(94, b"x")
        self.assertEqual(self.sent(), [])
        self.assertEqual(self.reasons, [])
