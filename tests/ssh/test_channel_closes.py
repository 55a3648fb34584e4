"""Tests for :mod:`rtunnel.ssh.channel_closes`, alone and in a connection."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.channel_closes import SentCloses
from rtunnel.wire.data_types import uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from tests.ssh.channel_ends import Ends

#: The default.
SECONDS = 60


class SentClosesTests(SynchronousTestCase):
    """:class:`SentCloses` alone."""

    def setUp(self) -> None:
        """Nothing sent yet."""
        self.clock = Clock()
        self.late: list[int] = []
        self.closes = SentCloses(self.clock, 10.0, self.late.append)

    def test_each_has_its_own_time(self) -> None:
        """Counted from its own CLOSE."""
        for number in range(3):
            self.closes.sent(number)
            self.clock.advance(4)
        self.assertEqual(self.late, [0])
        self.clock.advance(2)
        self.assertEqual(self.late, [0, 1])
        self.clock.advance(4)
        self.assertEqual(self.late, [0, 1, 2])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_is_answered_is_forgotten(self) -> None:
        """And so is what never was sent."""
        self.closes.sent(1)
        self.closes.answered(1)
        self.closes.answered(2)
        self.clock.advance(10)
        self.assertEqual((self.late, len(self.closes)), ([], 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.closes.sent(3)
        self.clock.advance(10)
        self.assertEqual(self.late, [3])

    def test_one_timer_for_all(self) -> None:
        """However many channels close at the same time."""
        for number in range(1000):
            self.closes.sent(number)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.closes.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_hears_of_one_may_end_them_all(self) -> None:
        """Nothing follows that."""
        closes = SentCloses(self.clock, 10.0, lambda number: closes.stop())
        closes.sent(1)
        closes.sent(2)
        self.clock.advance(30)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CloseTests(SynchronousTestCase):
    """A channel whose peer does not answer our CLOSE."""

    def setUp(self) -> None:
        """The client has closed, and the server's answer is on its way for ever."""
        self.ends = Ends()
        self.pair = self.ends.pair
        self.receiver = self.ends.near_receiver
        self.ends.near.write(b"the last word")
        self.ends.near.close()
        while self.pair.step(self.pair.client_transport):
            pass
        answers = []
        while packet := self.pair.server_transport.take_packet():
            answers.append(packet)
        self.assertIn(MSG_CHANNEL_CLOSE, [number for number, _ in answers])
        self.answers = answers

    def test_it_is_closed_for_its_user_after_a_minute(self) -> None:
        """Once, and with the reason."""
        self.pair.clock.advance(SECONDS - 1)
        self.assertEqual(self.receiver.reasons, [])
        self.pair.clock.advance(1)
        self.assertEqual(self.receiver.reasons, ["the peer did not close the channel"])
        self.assertTrue(self.pair.client.is_open)

    def test_it_counts_as_open_until_the_peer_has_closed_it(self) -> None:
        """What is on its way for it breaks nothing, and its CLOSE ends it."""
        self.pair.clock.advance(SECONDS)
        self.assertEqual(self.pair.client.open_channels, 1)
        number = uint32(self.ends.near.number)
        transport = self.pair.client_transport
        transport.receive(MSG_CHANNEL_WINDOW_ADJUST, number + uint32(1))
        transport.receive(MSG_CHANNEL_DATA, number + uint32(1) + b"x")
        for answer in self.answers:
            transport.receive(*answer)
        self.assertEqual(self.pair.client.open_channels, 0)
        self.assertEqual(len(self.receiver.reasons), 1)
        self.assertTrue(self.pair.client.is_open)

    def test_an_answer_in_time_is_the_end(self) -> None:
        """And nothing is left to wait for."""
        self.pair.clock.advance(SECONDS - 1)
        for answer in self.answers:
            self.pair.client_transport.receive(*answer)
        self.assertEqual(self.receiver.reasons, [None])
        self.pair.clock.advance(SECONDS)
        self.assertEqual(self.receiver.reasons, [None])
        self.assertEqual(self.pair.clock.getDelayedCalls(), [])

    def test_nothing_is_left_when_the_connection_goes(self) -> None:
        """No timer either."""
        self.pair.lose("gone")
        self.assertEqual(len(self.receiver.reasons), 1)
        self.assertEqual(self.pair.clock.getDelayedCalls(), [])
