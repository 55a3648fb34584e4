"""Keepalives on links between proxies, and the end of links that nobody needs."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.proxy.link_watch import KEEPALIVE, LinkWatch
from rtunnel.ssh.channel import Channel
from rtunnel.testing import ConnectionPair
from rtunnel.wire.data_types import Reader
from rtunnel.wire.numbers import MSG_GLOBAL_REQUEST


class LinkWatchTests(SynchronousTestCase):
    """Heartbeats every 5 s, 3 may be missed, and 60 s without channels."""

    def setUp(self) -> None:
        self.pair = ConnectionPair()
        self.clock = self.pair.clock
        self.link = self.pair.client
        self.silences: list[float] = []
        self.watch = LinkWatch(
            self.link,
            self.clock,
            5,
            3,
            idle=60,
            silent=lambda: self.silences.append(self.clock.seconds()),
        )
        self.addCleanup(self.watch.stop)

    def open_channel(self) -> Channel:
        """A channel through the link."""
        opening = Deferred.fromCoroutine(self.link.open_channel(b"test"))
        self.pair.pump()
        return self.successResultOf(opening)

    def pass_time(self, seconds: float, *, heard: bool = True) -> None:
        """A second at a time; what the peer says comes through or does not."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            if heard:
                self.pair.pump()

    def keepalives(self) -> int:
        """How many were sent."""
        transport: Any = self.link.transport
        return int(transport.sent.count(MSG_GLOBAL_REQUEST))

    def test_an_idle_link_is_left_in_peace_for_its_time(self) -> None:
        """Then it is closed."""
        self.pass_time(59)
        self.assertTrue(self.link.is_open)
        self.assertEqual(self.keepalives(), 0)
        self.pass_time(2)
        self.assertFalse(self.link.is_open)

    def test_keepalives_are_sent_while_a_channel_is_open(self) -> None:
        """Every 5 s, and a refusal is a fine answer."""
        channel = self.open_channel()
        self.pass_time(121)
        self.assertTrue(self.link.is_open)
        self.assertEqual(self.keepalives(), 24)
        self.assertEqual(self.silences, [])
        self.assertFalse(self.watch.suspect)
        channel.abort()
        self.pair.pump()
        self.pass_time(60)
        self.assertEqual(self.keepalives(), 24)
        self.assertTrue(self.link.is_open)
        self.pass_time(10)
        self.assertFalse(self.link.is_open)

    def test_a_keepalive_is_the_one_of_openssh(self) -> None:
        """keepalive@openssh.com, with a reply wanted."""
        self.watch.wake()
        transport: Any = self.link.transport
        number, payload = transport.take_packet()
        reader = Reader(payload)
        self.assertEqual(
            (number, reader.string(), reader.boolean()),
            (MSG_GLOBAL_REQUEST, KEEPALIVE, True),
        )

    def test_a_silent_peer_is_suspect_first_and_dropped_then(self) -> None:
        """After one keepalive that nothing followed, and after three."""
        self.open_channel()
        self.pass_time(5)
        self.pass_time(4, heard=False)
        self.assertFalse(self.watch.suspect)
        self.clock.advance(1)
        self.pass_time(5, heard=False)
        self.assertTrue(self.watch.suspect)
        self.assertTrue(self.silences)
        self.assertTrue(self.link.is_open)
        self.pass_time(10, heard=False)
        self.assertFalse(self.link.is_open)

    def test_a_peer_that_comes_back_in_time_is_trusted_again(self) -> None:
        """Any byte will do."""
        self.open_channel()
        self.pass_time(5)
        self.pass_time(10, heard=False)
        self.assertTrue(self.watch.suspect)
        self.pair.pump()
        self.assertFalse(self.watch.suspect)
        self.pass_time(60)
        self.assertTrue(self.link.is_open)

    def test_waking_asks_at_once_and_only_an_idle_link(self) -> None:
        """So that a peer which died meanwhile is found out soon."""
        self.pass_time(33)
        self.watch.wake()
        self.assertEqual(self.keepalives(), 1)
        self.watch.wake()
        self.assertEqual(self.keepalives(), 1)
        self.open_channel()
        self.pass_time(11)
        self.assertEqual(self.keepalives(), 3)

    def test_nothing_happens_after_the_end(self) -> None:
        """No timer is left."""
        self.open_channel()
        self.pass_time(7)
        self.watch.stop()
        self.watch.wake()
        self.assertEqual(self.clock.getDelayedCalls(), [])
