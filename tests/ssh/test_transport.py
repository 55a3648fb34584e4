"""Tests for :mod:`rtunnel.ssh.transport` and :mod:`rtunnel.ssh.packet_transport`."""

from __future__ import annotations

from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_MAC_ERROR,
    DISCONNECT_SERVICE_NOT_AVAILABLE,
    AuthenticationFailed,
    ConnectionFailed,
)
from rtunnel.ssh.log_rate import LogRate
from rtunnel.ssh.transport import ServerTransport
from rtunnel.ssh.userauth_client import Credentials
from rtunnel.wire.data_types import string, text, uint32
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.negotiation import SERVER_SIG_ALGS, encode_ext_info
from rtunnel.wire.numbers import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_OPEN,
    MSG_DISCONNECT,
    MSG_EXT_INFO,
    MSG_GLOBAL_REQUEST,
    MSG_NEWKEYS,
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_SUCCESS,
)
from tests.ssh.transports import (
    ADDRESS,
    Pair,
    RawClient,
    RecordingService,
    make_client,
    make_server,
)


class RunningTests(SynchronousTestCase):
    """After the login."""

    def logged_in(self) -> tuple[RawClient, ServerTransport, RecordingService]:
        """A client, the server's end, and the service that runs there."""
        server = make_server(Clock())
        raw = RawClient(server).log_in()
        assert isinstance(server.service, RecordingService)
        return raw, server, server.service

    def test_messages_from_80_to_127_are_the_service_s(self) -> None:
        """Number and payload, as they came."""
        raw, _, service = self.logged_in()
        for number in range(80, 128):
            raw.send(number, b"payload")
        self.assertEqual(
            service.received, [(number, b"payload") for number in range(80, 128)]
        )

    def test_messages_we_do_not_know_are_named_to_the_peer(self) -> None:
        """By the sequence number that they had (RFC 4253 section 11.4)."""
        raw, server, service = self.logged_in()
        for number in (0, 6, 8, 19, 128, 192, 255):
            sequence = raw.sealer.sequence
            raw.send(number, b"x")
            self.assertEqual(raw.take(MSG_UNIMPLEMENTED), uint32(sequence))
        raw.sealer.sequence = server._opener.sequence = 0
        raw.send(200)
        self.assertEqual(raw.take(MSG_UNIMPLEMENTED), uint32(0))
        self.assertEqual(service.received, [])

    def test_a_flood_of_messages_leaves_others_their_turn(self) -> None:
        """256, then the reactor goes round before the next 256, and nothing is lost."""
        raw, server, service = self.logged_in()
        clock = cast(Clock, server.clock)
        payloads = [uint32(number) for number in range(600)]
        server.dataReceived(b"".join(raw.packet(80, each) for each in payloads))
        self.assertEqual(len(service.received), 256)
        self.assertEqual(raw.wire.producerState, "paused")
        # What TLS had read already comes all the same, and waits.
        server.dataReceived(raw.packet(80, b"last"))
        others: list[int] = []
        clock.callLater(0, lambda: others.append(len(service.received)))
        clock.advance(0)
        self.assertEqual(others, [512])
        self.assertEqual(raw.wire.producerState, "producing")
        self.assertEqual(
            [payload for _, payload in service.received], [*payloads, b"last"]
        )
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_messages_that_take_long_leave_others_their_turn(self) -> None:
        """10 ms of work, then the reactor goes round, and nothing is lost."""
        raw, server, service = self.logged_in()
        clock = cast(Clock, server.clock)
        take = service.packetReceived

        def work(number: int, payload: bytes) -> None:
            clock.rightNow += 0.003
            take(number, payload)

        server._deliver = work  # type: ignore[assignment]
        payloads = [uint32(number) for number in range(10)]
        server.dataReceived(b"".join(raw.packet(80, each) for each in payloads))
        self.assertEqual(len(service.received), 4)
        self.assertEqual(raw.wire.producerState, "paused")
        others: list[int] = []
        clock.callLater(0, lambda: others.append(len(service.received)))
        clock.advance(0)
        self.assertEqual(others, [8])
        self.assertEqual([payload for _, payload in service.received], payloads)
        self.assertEqual(raw.wire.producerState, "producing")

    def test_a_flood_ends_with_its_connection(self) -> None:
        """Whoever ends it, and the end of the TCP connection is still noticed."""
        for end in ("disconnect", "lose"):
            raw, server, service = self.logged_in()
            clock = cast(Clock, server.clock)
            server.dataReceived(b"".join(raw.packet(80) for _ in range(600)))
            if end == "disconnect":
                server.disconnect(11, "enough")
                clock.advance(0)
                self.assertEqual(raw.wire.producerState, "producing")
            else:
                server.connectionLost()
                self.assertEqual(clock.getDelayedCalls(), [])
            self.assertEqual(len(service.received), 256)

    def test_messages_we_do_not_know_are_counted(self) -> None:
        """256 between two key exchanges."""
        raw, server, _ = self.logged_in()
        for _ in range(256):
            raw.send(200)
        self.assertEqual(server.close_reason, "")
        raw.exchange_keys()
        for _ in range(256):
            raw.send(200)
        self.assertEqual(server.close_reason, "")
        raw.send(200)
        self.assertEqual(server.close_reason, "too many messages that we do not know")

    def test_logins_are_over(self) -> None:
        """Messages 50 to 79 are ignored after the first success (RFC 4252, 5.1)."""
        raw, server, service = self.logged_in()
        before = server.identity
        for number in range(50, 80):
            raw.send(number, raw.auth_request(PrivateKey.generate()))
        self.assertEqual(raw.received, [])
        self.assertEqual(service.received, [])
        self.assertIs(server.identity, before)
        self.assertEqual(server.close_reason, "")

    def test_there_is_no_other_service_to_ask_for(self) -> None:
        """Not even authentication again."""
        for name in (b"ssh-userauth", b"ssh-connection"):
            raw, server, service = self.logged_in()
            raw.send(MSG_SERVICE_REQUEST, string(name))
            reason = raw.disconnect_reason()
            assert reason is not None
            self.assertEqual(reason[0], DISCONNECT_SERVICE_NOT_AVAILABLE)
            self.assertIs(server.service, service)

    def test_packets_of_256_kib_of_data_are_taken(self) -> None:
        """As large as OpenSSH's, and no larger."""
        pair = Pair().log_in()
        data = bytes(2**18)
        for origin, target in (
            (pair.client_transport, pair.server.service),
            (pair.server_transport, pair.client.service),
        ):
            origin.sendPacket(MSG_CHANNEL_DATA, uint32(0) + uint32(len(data)), data)
            pair.pump()
            self.assertEqual(len(target.received[0][1]), len(data) + 8)
        pair.client_transport.sendPacket(MSG_CHANNEL_DATA, bytes(2**18 + 2048))
        pair.pump()
        self.assertIn("packet length", pair.server_transport.close_reason)

    def test_a_packet_that_is_not_authentic_ends_the_connection(self) -> None:
        """With nothing of it delivered."""
        pair = Pair().log_in()
        pair.client_transport.sendPacket(MSG_CHANNEL_DATA, b"payload")
        data = bytearray(pair.client.wire.take())
        data[-1] ^= 1
        pair.server_transport.dataReceived(bytes(data))
        self.assertEqual(
            pair.server_transport.close_reason, "a packet is not authentic"
        )
        self.assertEqual(pair.server.service.received, [])
        pair.pump()
        self.assertIn("not authentic", pair.client_transport.close_reason)
        self.assertTrue(DISCONNECT_MAC_ERROR)

    def test_an_error_of_ours_ends_the_connection_and_is_logged(self) -> None:
        """The peer hears no more than that."""
        raw, _, service = self.logged_in()

        def answer(number: int, payload: bytes) -> None:
            raise ZeroDivisionError("a secret")

        service.answer = answer
        raw.send(MSG_CHANNEL_DATA, b"x")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(
            raw.disconnect_reason(), (DISCONNECT_BY_APPLICATION, "internal error")
        )

    @settings(deadline=None, max_examples=150)
    @given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=8))
    def test_nothing_raises(self, messages: list[tuple[int, bytes]]) -> None:
        """Whatever messages a peer sends."""
        server = make_server(Clock())
        raw = RawClient(server).log_in()
        for number, payload in messages:
            server.dataReceived(raw.packet(number, payload))
        self.assertNotEqual(server.close_reason, "internal error")
        self.assertEqual(self.flushLoggedErrors(), [])


class EndTests(SynchronousTestCase):
    """How connections end."""

    def test_disconnect_says_why_hangs_up_and_is_not_kept_waiting(self) -> None:
        """SSH_MSG_DISCONNECT, then TCP is closed, then after 2 seconds cut."""
        pair = Pair().log_in()
        server = pair.server_transport
        server.disconnect(DISCONNECT_BY_APPLICATION, "going away")
        self.assertTrue(pair.server.wire.disconnecting)
        self.assertIsNone(pair.server.wire.producer)
        self.assertEqual(server.close_reason, "going away")
        pair.clock.advance(1.9)
        self.assertFalse(pair.server.wire.disconnected)
        pair.clock.advance(0.1)
        self.assertTrue(pair.server.wire.disconnected)
        pair.pump()
        self.assertEqual(
            pair.client_transport.close_reason, "the peer disconnected: going away"
        )
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_nothing_is_sent_or_read_after_the_end(self) -> None:
        """And saying goodbye twice says it once."""
        pair = Pair().log_in()
        service = pair.server.service
        pair.client_transport.sendPacket(MSG_CHANNEL_DATA, b"late")
        pair.server_transport.disconnect(DISCONNECT_BY_APPLICATION, "first")
        size = len(pair.server.wire.value())
        pair.server_transport.sendPacket(MSG_CHANNEL_DATA, b"x")
        pair.server_transport.disconnect(DISCONNECT_BY_APPLICATION, "second")
        pair.server_transport.loseConnection()
        self.assertEqual(len(pair.server.wire.value()), size)
        self.assertEqual(pair.server_transport.close_reason, "first")
        pair.pump()
        self.assertEqual(service.received, [])

    def test_a_fault_is_one_log_line_without_a_traceback(self) -> None:
        """It names the peer and what was wrong."""
        with capturedLogs() as events:
            raw = RawClient(make_server(Clock())).connect()
            raw.send(MSG_NEWKEYS)
        logged = [e for e in events if e["log_level"] >= LogLevel.info]
        self.assertEqual(len(logged), 1)
        self.assertEqual(logged[0]["address"], ADDRESS)
        self.assertEqual(logged[0]["reason"], "message 21 outside of a key exchange")
        self.assertNotIn("log_failure", logged[0])

    def test_what_a_peer_says_is_escaped(self) -> None:
        """In the reason and in the log, and cut."""
        raw = RawClient(make_server(Clock())).connect()
        with capturedLogs() as events:
            raw.send(
                MSG_DISCONNECT, uint32(11) + string(b"bye\r\n\x1b[2J" + b"x" * 5000)
            )
        reason = raw.server.close_reason
        self.assertTrue(reason.isprintable())
        self.assertTrue(reason.startswith("the peer disconnected: bye\\r\\n\\x1b"))
        self.assertLess(len(reason), 400)
        self.assertIn(events[0]["reason"], reason)
        self.assertTrue(raw.wire.disconnecting)

    def test_strangers_cannot_fill_the_log(self) -> None:
        """100 lines at once, then 10 a second, and how many were left out."""
        clock = Clock()
        log_rate = LogRate(clock)
        with capturedLogs() as events:
            for _ in range(150):
                server = make_server(clock, log_rate=log_rate)
                RawClient(server).send_bytes(b"GET / HTTP/1.0\r\n")
            self.assertEqual(len(events), 100)
            clock.advance(1)
            server = make_server(clock, log_rate=log_rate)
            RawClient(server).send_bytes(b"GET / HTTP/1.0\r\n")
        self.assertEqual(events[100]["suppressed"], 50)
        self.assertEqual(len(events), 102)

    def test_the_service_is_stopped_once(self) -> None:
        """When TCP is gone, and every timer with it."""
        pair = Pair().log_in()
        services = [end.service for end in pair.ends]
        for end in pair.ends:
            end.lose()
            end.transport.connectionLost()
        for service in services:
            self.assertEqual(service.told, ["started", "stopped"])
        self.assertIn("connection was lost", pair.server_transport.close_reason)
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_a_state_in_words(self) -> None:
        """For logs and tests."""
        pair = Pair()
        server = pair.server_transport
        seen = [repr(server)]
        pair.log_in()
        seen.append(repr(server))
        server.disconnect(DISCONNECT_BY_APPLICATION, "bye")
        seen.append(repr(server))
        pair.pump()
        seen.append(repr(server))
        self.assertEqual(
            seen,
            [
                f"<ServerTransport {ADDRESS} {state}>"
                for state in ("not authenticated", "authenticated", "closing", "closed")
            ],
        )


class ReadyTests(SynchronousTestCase):
    """What the client's owner hears: ``ready``, once."""

    def test_it_fires_with_the_running_service(self) -> None:
        """Which has been started by then."""
        pair = Pair().log_in()
        self.assertEqual(pair.ready, [pair.client.service])
        self.assertEqual(pair.client.service.told, ["started"])
        for end in pair.ends:
            end.lose()
        self.assertEqual(len(pair.ready), 1)

    def test_it_fails_when_the_connection_is_lost(self) -> None:
        """At whatever point of the handshake."""
        for steps in range(5):
            pair = Pair()
            for step in range(steps):
                pair.move(pair.ends[step % 2])
            self.assertEqual(pair.ready, [])
            pair.client.lose()
            self.assertEqual(len(pair.ready), 1)
            self.assertIs(pair.ready[0].type, ConnectionFailed)

    def test_it_fails_when_the_server_says_goodbye(self) -> None:
        """With what the server said."""
        pair = Pair()
        pair.server_transport.disconnect(DISCONNECT_BY_APPLICATION, "too busy")
        pair.pump()
        self.assertEqual(str(pair.ready[0].value), "the peer disconnected: too busy")

    def test_it_fails_when_the_login_takes_too_long(self) -> None:
        """The same 20 seconds, from connect."""
        clock = Clock()
        client = make_client(clock)
        pair = Pair(client=client, clock=clock)
        clock.advance(20)
        self.assertTrue(pair.client.wire.disconnecting)
        pair.client.lose()
        self.assertIn("20 seconds", str(pair.ready[0].value))

    def test_it_fails_when_the_key_is_refused(self) -> None:
        """And says what the server takes."""
        clock = Clock()
        credentials = Credentials("x", PrivateKey.generate())
        pair = Pair(client=make_client(clock, credentials=credentials))
        pair.pump()
        self.assertIsInstance(pair.ready[0].value, AuthenticationFailed)
        self.assertIn("publickey", str(pair.ready[0].value))

    def test_cancelling_hangs_up(self) -> None:
        """And nothing else is heard."""
        pair = Pair(client=make_client(Clock()))
        pair.move(pair.client)
        pair.client_transport.ready.cancel()
        self.assertIs(pair.ready[0].type, CancelledError)
        self.assertTrue(pair.client.wire.disconnecting)
        pair.pump()
        self.assertEqual(len(pair.ready), 1)

    def test_the_server_s_banner_is_logged_escaped(self) -> None:
        """A few of them; more are passed over."""
        pair = Pair()
        # To where the client waits for the answer to its request.
        for end in (*pair.ends, *pair.ends, pair.client):
            pair.move(end)
        with capturedLogs() as events:
            for _ in range(5):
                pair.server_transport.sendPacket(53, text("hello\n\x1b[0m") + text(""))
            pair.pump()
        banners = [event["banner"] for event in events if "banner" in event]
        self.assertEqual(banners, ["hello\\n\\x1b[0m"] * 3)

    def test_a_server_cannot_let_us_in_twice(self) -> None:
        """After the first success its messages of authentication are ignored."""
        pair = Pair().log_in()
        service = pair.client.service
        for number in (MSG_USERAUTH_SUCCESS, MSG_USERAUTH_FAILURE, 60):
            pair.server_transport.sendPacket(number, b"")
        pair.pump()
        self.assertIs(pair.client_transport.service, service)
        self.assertEqual(pair.client_transport.close_reason, "")

    def test_a_server_that_takes_something_else_ends_it(self) -> None:
        """Another service accepted, or an unexpected message of authentication."""
        for number, payload in (
            (MSG_SERVICE_ACCEPT, string(b"ssh-connection")),
            (60, b""),
            (MSG_USERAUTH_SUCCESS, b"x"),
            (MSG_CHANNEL_OPEN, b""),
            (MSG_GLOBAL_REQUEST, b""),
        ):
            server = make_server(Clock())
            pair = Pair(server)
            server.service_message = (  # type: ignore[method-assign]
                lambda *message, server=server, number=number, payload=payload: (
                    server.sendPacket(number, payload)
                )
            )
            pair.pump()
            self.assertIs(pair.ready[0].type, ConnectionFailed)
            # It is we who have a fault to find, and not the server in what we answer.
            self.assertNotIn("the peer", pair.client_transport.close_reason, number)

    def test_success_is_a_message_of_no_content(self) -> None:
        """One that has some lets nobody in."""
        pair = Pair()
        # To where the client waits for the answer to its request.
        for end in (*pair.ends, *pair.ends, pair.client):
            pair.move(end)
        pair.server_transport.sendPacket(MSG_USERAUTH_SUCCESS, b"x")
        pair.move(pair.server)
        self.assertFalse(pair.client_transport.authenticated)
        self.assertIn("too many", pair.client_transport.close_reason)

    def test_the_server_s_extensions_are_bounded(self) -> None:
        """An EXT_INFO that is too much ends the connection."""
        server = make_server(Clock())
        pair = Pair(server)
        server.first_keys_in_use = lambda: server.sendPacket(  # type: ignore[method-assign]
            MSG_EXT_INFO, encode_ext_info([(SERVER_SIG_ALGS, bytes(20_000))])
        )
        pair.pump()
        self.assertIn("EXT_INFO", str(pair.ready[0].value))
