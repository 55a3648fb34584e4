"""Tests for :mod:`rtunnel.ssh.channel_table`, alone and in a connection."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ProtocolError
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_table import ChannelTable
from tests.ssh.channel_ends import Ends


def channels(count: int) -> list[Channel]:
    """So many channels of one connection, which :class:`Ends` has opened."""
    ends = Ends()
    opened: list[Channel] = [ends.near]
    for _ in range(count - 1):
        Deferred.fromCoroutine(ends.pair.client.open_channel(b"test")).addCallback(
            opened.append
        )
    ends.pair.pump()
    return opened


class ChannelTableTests(SynchronousTestCase):
    """:class:`ChannelTable` alone."""

    def setUp(self) -> None:
        """No channel yet."""
        self.clock = Clock()
        self.table = ChannelTable(60.0)

    def test_numbers_of_channels_that_are_there_are_passed_over(self) -> None:
        """Be they open, or asked for only."""
        self.table.open[1] = channels(1)[0]
        numbers = [self.table.allocate_number({2, 4}) for _ in range(3)]
        self.assertEqual(numbers, [0, 3, 5])

    def test_numbers_begin_anew_after_the_largest(self) -> None:
        """A uint32 (RFC 4254 section 5.1)."""
        self.table._next_number = 0xFFFFFFFF
        self.table.open[0] = channels(1)[0]
        numbers = [self.table.allocate_number(()) for _ in range(2)]
        self.assertEqual(numbers, [0xFFFFFFFF, 1])
        self.assertEqual(self.table.allocate_number({2}), 3)

    def test_number_that_nothing_has_is_the_fault_of_the_peer(self) -> None:
        """The others are found."""
        self.table.open[7] = channel = channels(1)[0]
        self.assertIs(self.table.find(7), channel)
        error = self.assertRaises(ProtocolError, self.table.find, 8)
        self.assertIn("not open", str(error))

    def test_close_of_a_channel_that_the_peer_has_closed_is_not_waited_for(
        self,
    ) -> None:
        """Its answer is there already."""
        self.table.close_sent(channels(1)[0], self.clock)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_channel_counts_until_its_receiver_has_taken_what_came(self) -> None:
        """Though both ends have closed it."""
        ends = Ends(start=False)
        ends.far.write(b"the last word")
        ends.far.close()
        ends.pair.pump()
        ends.near.close()
        ends.pair.pump()
        self.assertEqual(ends.pair.client.open_channels, 1)
        ends.near.start(ends.near_receiver)
        self.assertEqual(bytes(ends.near_receiver.data), b"the last word")
        self.assertEqual(ends.pair.client.open_channels, 0)

    def test_lost_connection_leaves_no_channel_and_no_timer(self) -> None:
        """Every channel is told, also one whose CLOSE is unanswered."""
        both = channels(2)
        self.table.open = {channel.number: channel for channel in both}
        self.table.close_sent(both[0], self.clock)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.table.connection_lost("the cable")
        self.assertEqual((len(self.table), self.clock.getDelayedCalls()), (0, []))
        self.assertEqual([channel.is_open for channel in both], [False, False])
