"""Tests for :mod:`rtunnel.ssh.channel_limits`, through connections."""

from __future__ import annotations

import struct

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import OpenRefused, RequestFailed
from rtunnel.ssh.channel_limits import ChannelLimits, TokenBucket
from rtunnel.testing import (
    AcceptingHandler,
    ConnectionPair,
    RecordingHandler,
    RecordingReceiver,
)
from rtunnel.wire.data_types import uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
)
from tests.ssh.opens import DecidingHandler, open_message, opening


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
        self.assertEqual(len(pair.server._channels), 0)

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
