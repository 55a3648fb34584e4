"""Tests for :mod:`rtunnel.proxy.fair_shares`."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ConnectionClosed
from rtunnel.proxy.fair_shares import FairShares, ShareTaken
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.testing import AcceptingHandler, ConnectionPair, RecordingReceiver


class FairSharesTests(SynchronousTestCase):
    """:class:`FairShares`, of a connection with ten channels."""

    def setUp(self) -> None:
        self.server = AcceptingHandler()
        limits = ChannelLimits(channels=10)
        self.pair = ConnectionPair(
            client_limits=limits, server_handler=self.server, server_limits=limits
        )
        self.shares = FairShares(self.pair.client)

    def asked(self, person: str) -> Deferred[Channel]:
        """A channel that is being opened."""
        return Deferred.fromCoroutine(self.shares.open(person, b"test", b""))

    def opened(self, person: str) -> Channel:
        """A channel that is open."""
        opening = self.asked(person)
        self.pair.pump()
        channel = self.successResultOf(opening)
        channel.start(RecordingReceiver())
        return channel

    def refused(self, person: str) -> int:
        """How many channels somebody has who gets no more."""
        failure = self.failureResultOf(self.asked(person), ShareTaken)
        assert isinstance(failure.value, ShareTaken)
        return failure.value.count

    def test_who_is_alone_gets_half(self) -> None:
        """And the next one half of the rest, and so on: there is always room."""
        for person, count in (("alice", 5), ("bob", 3), ("carol", 1)):
            for _ in range(count):
                self.opened(person)
            self.assertEqual(self.refused(person), count)

    def test_what_is_open_for_nobody_takes_its_place(self) -> None:
        """As an agent's control channel."""
        for _ in range(2):
            Deferred.fromCoroutine(self.pair.client.open_channel(b"test"))
        for _ in range(4):
            self.opened("alice")
        self.assertEqual(self.refused("alice"), 4)

    def test_channels_that_are_being_opened_count(self) -> None:
        """Or a crowd of them would pass at once."""
        opening = [self.asked("alice") for _ in range(5)]
        self.assertEqual(self.refused("alice"), 5)
        self.pair.pump()
        for each in opening:
            self.successResultOf(each)

    def test_what_has_ended_is_given_back(self) -> None:
        """The next one finds room."""
        channels = [self.opened("alice") for _ in range(5)]
        self.refused("alice")
        channels[0].abort()
        self.pair.pump()
        self.opened("alice")
        self.refused("alice")

    def test_what_never_opened_is_given_back(self) -> None:
        """The connection broke meanwhile."""
        opening = self.asked("alice")
        self.pair.lose()
        self.failureResultOf(opening, ConnectionClosed)
        self.assertEqual(self.shares._shares, {})
