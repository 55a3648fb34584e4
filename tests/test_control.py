"""Tests for :mod:`rtunnel.control`."""

from __future__ import annotations

from collections.abc import Awaitable

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.control import ControlChannel
from rtunnel.discovery.liveness import Liveness
from rtunnel.discovery.messages import (
    DiscoveryRequest,
    Drain,
    Hello,
    Message,
    ProxyAdvert,
    encode,
)
from rtunnel.errors import ConnectionClosed, MessageError, RequestFailed
from rtunnel.ssh.channel import Channel
from rtunnel.testing import AcceptingHandler, ConnectionPair
from rtunnel.wire.data_types import boolean, string, uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_DISCONNECT,
)

INSTANCE = "7d9ab1c4-6f0e-4d56-9c1e-0f8f5b1a2c3d"
HELLO = Hello("1.0", INSTANCE, ("web1",), {"channels": 1000})
DRAIN = Drain("going away", 30.0)
DISCOVERY = DiscoveryRequest(
    (ProxyAdvert(INSTANCE, ("proxy-1:3023",), 3, "active", 60.0),), 20.0
)


class Owner:
    """Keeps what its control channel tells it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.dead: list[str] = []
        self.answer: bool | Awaitable[bool] = True

    def message_received(self, message: Message) -> bool | Awaitable[bool]:
        """Keep it, and answer as told."""
        self.messages.append(message)
        return self.answer

    def peer_dead(self, reason: str) -> None:
        """Keep the reason."""
        self.dead.append(reason)


class ControlChannelTests(SynchronousTestCase):
    """Both ends of a control channel over a pair of connections."""

    def setUp(self) -> None:
        """Open the channel; heartbeats every 5 s, dead after 3 missed."""
        handler = AcceptingHandler()
        self.pair = ConnectionPair(server_handler=handler)
        self.clock = self.pair.clock
        opened = Deferred.fromCoroutine(
            self.pair.client.open_channel(b"control@rtunnel")
        )
        self.pair.pump()
        self.near_channel: Channel = self.successResultOf(opened)
        self.far_channel = handler.channels[0]
        self.near_owner, self.far_owner = Owner(), Owner()
        self.near = self.control(self.near_channel, self.near_owner)
        self.far = self.control(self.far_channel, self.far_owner)
        self.pair.pump()

    def tearDown(self) -> None:
        """No end leaves a timer behind."""
        self.pair.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def control(self, channel: Channel, owner: Owner) -> ControlChannel:
        """One end."""
        return ControlChannel(channel, self.clock, Liveness(5.0, 3), owner)

    def run_for(self, seconds: int, latency: float = 0.0) -> None:
        """Let time pass, with messages moving ``latency`` seconds after each tick."""
        for _ in range(seconds):
            self.clock.advance(latency)
            self.pair.pump()
            self.clock.advance(1 - latency)

    def raw(self, name: bytes, payload: bytes, want_reply: bool = True) -> None:
        """The far end gets this request."""
        self.pair.server_transport.sent.clear()
        self.pair.server_transport.receive(
            MSG_CHANNEL_REQUEST,
            uint32(self.far_channel.number)
            + string(name)
            + boolean(want_reply)
            + payload,
        )

    def test_messages_travel_both_ways(self) -> None:
        """What one end sends, the other receives as an equal value."""
        for message in (HELLO, DRAIN, DISCOVERY):
            there, back = self.near.send(message), self.far.send(message)
            self.pair.pump()
            self.successResultOf(there)
            self.successResultOf(back)
        self.assertEqual(self.far_owner.messages, [HELLO, DRAIN, DISCOVERY])
        self.assertEqual(self.near_owner.messages, [HELLO, DRAIN, DISCOVERY])

    def test_the_receiver_decides(self) -> None:
        """A message that the receiver does not accept fails at the sender."""
        self.far_owner.answer = False
        refused = self.near.send(HELLO)
        self.pair.pump()
        self.failureResultOf(refused, RequestFailed)
        self.assertTrue(self.pair.client.is_open)

    def test_the_receiver_may_take_its_time(self) -> None:
        """The answer is sent when the receiver's awaitable says what it is."""
        decision: Deferred[bool] = Deferred()
        self.far_owner.answer = decision
        sent = self.near.send(HELLO)
        self.pair.pump()
        self.assertNoResult(sent)
        decision.callback(True)
        self.pair.pump()
        self.successResultOf(sent)

    def test_sending_when_the_tunnel_is_gone(self) -> None:
        """What was not answered, and what comes later, fails."""
        sent = self.near.send(HELLO)
        self.pair.lose()
        self.failureResultOf(sent, ConnectionClosed)
        self.failureResultOf(self.near.send(HELLO), ConnectionClosed)

    def test_a_message_too_large_to_send(self) -> None:
        """What is over the limit of a payload is the sender's own error."""
        advert = DISCOVERY.proxies[0]
        adverts = tuple(
            ProxyAdvert(
                f"{INSTANCE[:-2]}{number:02x}",
                tuple("x" * 250 for _ in range(16)),
                advert.generation,
                advert.state,
                advert.ttl,
            )
            for number in range(64)
        )
        with self.assertRaises(MessageError):
            self.near.send(DiscoveryRequest(adverts, 20.0))
        self.assertTrue(self.pair.client.is_open)

    def test_unknown_messages_are_refused_and_logged(self) -> None:
        """The peer hears failure, the log gets some lines, the tunnel goes on."""
        with capturedLogs() as logged:
            for _ in range(50):
                self.raw(b"gossip\x1b[2J", b"{}")
                self.assertEqual(self.pair.server_transport.sent, [MSG_CHANNEL_FAILURE])
        lines = [event for event in logged if event["log_level"] is LogLevel.warn]
        self.assertEqual(len(lines), 8)
        self.assertTrue(str(lines[0]["error"]).isprintable())
        self.assertEqual(self.far_owner.messages, [])
        self.assertTrue(self.pair.server.is_open)

    def test_malformed_messages_end_the_tunnel(self) -> None:
        """The peer hears in DISCONNECT what was wrong."""
        for name, payload in [
            (b"hello", b"{"),
            (b"hello", b"\xff"),
            (b"heartbeat", b'{"sequence": -1}'),
            (b"discovery", b"[" * 60_000),
            (b"drain", b"{}"),
        ]:
            self.setUp()
            self.raw(name, payload)
            self.assertEqual(self.pair.server_transport.sent, [MSG_DISCONNECT])
            self.pair.pump()
            self.assertEqual(len(self.pair.client_handler.lost), 1)
            self.assertIn("malformed control message", self.pair.client_handler.lost[0])
            self.assertEqual(self.far_owner.dead, [])
            self.tearDown()

    def test_a_failing_receiver_ends_the_tunnel(self) -> None:
        """A bug in the receiver is logged, and costs no more than this tunnel."""

        def fail(message: Message) -> bool:
            raise ValueError("a bug")

        self.far_owner.message_received = fail  # type: ignore[method-assign]
        sent = self.near.send(HELLO)
        self.pair.pump()
        self.failureResultOf(sent, ConnectionClosed)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertFalse(self.pair.server.is_open)

    def test_closing_the_channel_ends_the_tunnel(self) -> None:
        """A tunnel cannot do without its control channel."""
        self.near_channel.close()
        self.pair.pump()
        self.assertFalse(self.pair.server.is_open)
        self.assertFalse(self.pair.client.is_open)

    def test_a_stopped_channel_may_close(self) -> None:
        """After stop, its end is nobody's business here."""
        self.far.stop()
        self.far_channel.abort()
        self.assertTrue(self.pair.server.is_open)

    def test_data_has_no_meaning(self) -> None:
        """A little data is passed over; more than 1024 bytes end the tunnel."""
        self.near_channel.write(bytes(1024))
        self.pair.pump()
        self.assertTrue(self.pair.server.is_open)
        self.near_channel.write(b"x")
        self.pair.pump()
        self.assertFalse(self.pair.server.is_open)

    def test_heartbeats_measure_the_round_trip(self) -> None:
        """The time from a heartbeat to its answer is the rtt, at both ends."""
        self.assertEqual(self.near.rtt, 0.0)
        self.clock.advance(5)
        self.clock.advance(0.25)
        self.pair.pump()
        self.assertAlmostEqual(self.near.rtt or 0.0, 0.25 / 8)
        self.assertAlmostEqual(self.far.rtt or 0.0, 0.25 / 8)

    def test_a_live_tunnel_stays(self) -> None:
        """With answers coming, neither end is suspect or dead."""
        for _ in range(120):
            self.run_for(1, latency=0.3)
            self.assertFalse(self.near.suspect or self.far.suspect)
        self.assertEqual(self.near_owner.dead + self.far_owner.dead, [])

    def test_a_silent_peer_is_suspect_then_dead(self) -> None:
        """Suspect after one missed heartbeat, dead within 20 s, told once."""
        self.clock.advance(5)
        self.pair.pump()
        suspect_after = dead_after = 0
        for second in range(1, 60):
            self.clock.advance(1)
            if self.near.suspect and not suspect_after:
                suspect_after = second
            if self.near_owner.dead and not dead_after:
                dead_after = second
        self.assertTrue(0 < suspect_after <= 10)
        self.assertTrue(suspect_after < dead_after <= 20)
        self.assertEqual(self.near_owner.dead, ["nothing was heard for 15 seconds"])

    def test_any_byte_counts_as_life(self) -> None:
        """A peer that sends anything at all is not dead, though it answers nothing."""
        for _ in range(60):
            self.clock.advance(1)
            self.pair.client_transport.last_received = self.clock.seconds()
        self.assertEqual(self.near_owner.dead, [])
        self.assertFalse(self.near.suspect)

    def test_a_peer_that_refuses_heartbeats_lives(self) -> None:
        """A refusal is an answer."""
        self.far_channel.on_request = lambda name, data: False
        self.run_for(60)
        self.assertEqual(self.near_owner.dead, [])

    def test_probe(self) -> None:
        """A probe says whether the peer answers in time."""
        alive = Deferred.fromCoroutine(self.near.probe(2.0))
        self.pair.pump()
        self.assertTrue(self.successResultOf(alive))
        silent = Deferred.fromCoroutine(self.near.probe(2.0))
        self.clock.advance(2.0)
        self.assertFalse(self.successResultOf(silent))
        lost = Deferred.fromCoroutine(self.near.probe(2.0))
        self.pair.lose()
        self.assertFalse(self.successResultOf(lost))

    def test_probe_of_a_peer_that_answers_nothing(self) -> None:
        """Requests that pile up without an answer are no sign of life."""
        for _ in range(64):
            self.near.send(DRAIN).addErrback(lambda failure: None)
        self.clock.advance(1)
        probe = Deferred.fromCoroutine(self.near.probe(2.0))
        self.assertFalse(self.successResultOf(probe))

    def test_probe_of_a_peer_that_refuses(self) -> None:
        """A peer that refuses a heartbeat is there."""
        self.far_channel.on_request = lambda name, data: False
        probe = Deferred.fromCoroutine(self.near.probe(2.0))
        self.pair.pump()
        self.assertTrue(self.successResultOf(probe))

    def test_heartbeats_are_answered_without_the_receiver(self) -> None:
        """The receiver never hears of heartbeats."""
        name, payload = b"heartbeat", b'{"sequence":7}'
        self.raw(name, payload)
        self.assertEqual(self.pair.server_transport.sent, [MSG_CHANNEL_SUCCESS])
        self.assertEqual(self.far_owner.messages, [])

    def test_hello_on_the_wire(self) -> None:
        """A message is a channel request of its name with JSON for a payload."""
        self.assertEqual(encode(DRAIN)[0], b"drain")
        self.raw(b"drain", b'{"reason":"going away","seconds":30,"new":1}')
        self.assertEqual(self.far_owner.messages, [DRAIN])
