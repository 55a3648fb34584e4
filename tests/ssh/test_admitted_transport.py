"""Tests for :mod:`rtunnel.ssh.admitted_transport`."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any, cast

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_HOST_KEY_NOT_VERIFIABLE,
    DISCONNECT_PROTOCOL_ERROR,
    DISCONNECT_TOO_MANY_CONNECTIONS,
)
from rtunnel.ssh.admission import Admission
from rtunnel.ssh.handshake_turns import HandshakeTurns
from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.ssh.transport import ServerTransport
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.data_types import string, uint32
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.numbers import (
    MSG_DISCONNECT,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_REQUEST,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_REQUEST,
)
from rtunnel.wire.proxy_protocol import V2_SIGNATURE
from tests.ssh.transports import ADDRESS, Pair, RawClient, make_server

BALANCER = "203.0.113.1"
BALANCERS = (ip_network("203.0.113.0/24"),)
#: What a client says when the host key is not the one.
WANTS_ANOTHER_HOST = (
    uint32(DISCONNECT_HOST_KEY_NOT_VERIFIABLE) + string(b"") + string(b"")
)
HEADER = b"PROXY TCP4 198.51.100.7 203.0.113.1 40000 3023\r\n"


class ListenerCase(SynchronousTestCase):
    """Connections of one listener, in memory."""

    limits = DEFAULT_LIMITS

    def setUp(self) -> None:
        """A listener of our own."""
        self.clock = Clock()
        self.listen(self.limits)

    def listen(self, limits: TransportLimits) -> None:
        """Begin again, with these limits."""
        self.limits = limits
        self.admission = Admission(limits, self.clock, lambda: 1.0)
        self.turns = HandshakeTurns(self.clock, limits.handshake_share)

    def server(self) -> ServerTransport:
        """One more connection, that nobody is on yet."""
        return make_server(
            self.clock,
            limits=self.limits,
            admission=self.admission,
            turns=self.turns,
            proxy_protocol_from=BALANCERS,
        )

    def client(self, address: str = ADDRESS) -> RawClient:
        """One more client."""
        return RawClient(self.server(), address=address)

    def penalty(self, address: str = ADDRESS) -> float:
        """Seconds that have come together, whether they act or not."""
        assert self.admission.penalties is not None
        penalty = self.admission.penalties._penalties.get(address)
        return 0.0 if penalty is None else penalty.until - self.clock.seconds()


class ProxyProtocolTests(ListenerCase):
    """The header that balancers send, and nobody else may."""

    def balanced(self) -> RawClient:
        """A connection from a balancer."""
        return self.client(BALANCER)

    def test_nothing_is_said_before_the_header(self) -> None:
        """The real source is known then, and counts; the balancer's does not."""
        client = self.balanced()
        self.assertEqual(client.wire.value(), b"")
        client.send_bytes(HEADER + b"SSH-2.0-test\r\n")
        self.assertEqual(client.numbers(), [MSG_KEXINIT])
        self.assertEqual(client.server.peer_address, "198.51.100.7")
        client.exchange_keys()

    def test_one_logs_in_from_the_real_source(self) -> None:
        """In pieces, version 2 too."""
        header = V2_SIGNATURE + bytes([0x21, 0x11, 0, 12, 198, 51, 100, 7])
        header += bytes(4) + bytes(4)
        client = self.balanced()
        for byte in header:
            client.send_bytes(bytes([byte]))
        client.log_in()
        self.assertEqual(client.server.peer_address, "198.51.100.7")
        assert self.admission.penalties is not None
        self.assertTrue(self.admission.penalties._is_known("198.51.100.7", 0.0))

    def test_sources_behind_a_balancer_are_limited_one_by_one(self) -> None:
        """Ten from one, and another one still gets in."""
        for _ in range(10):
            self.balanced().send_bytes(HEADER)
        refused = self.balanced()
        refused.send_bytes(HEADER)
        self.assertTrue(refused.wire.disconnected or refused.disconnect_reason())
        other = self.balanced()
        other.send_bytes(HEADER.replace(b".7", b".8"))
        self.assertEqual(other.numbers(), [MSG_KEXINIT])

    def test_the_real_source_gets_the_penalty(self) -> None:
        """Not the balancer."""
        client = self.balanced()
        client.send_bytes(HEADER + b"SSH-2.0-test\r\n" + bytes(100))
        client.server.connectionLost()
        self.assertEqual(self.penalty("198.51.100.7"), 90)
        self.assertEqual(self.penalty(BALANCER), 0)

    def test_a_balancer_without_a_header(self) -> None:
        """Ends the connection, and is no offence: somebody's mistake."""
        client = self.balanced()
        client.send_bytes(b"SSH-2.0-test\r\n")
        self.assertEqual(
            client.disconnect_reason(),
            (
                DISCONNECT_PROTOCOL_ERROR,
                "no PROXY header from a balancer that has to send one",
            ),
        )
        client.server.connectionLost()
        self.assertEqual(self.penalty(BALANCER), 0)

    def test_a_health_check_is_answered_and_never_punished(self) -> None:
        """It speaks for the balancer itself, however often."""
        for header in (
            b"PROXY UNKNOWN\r\n",
            V2_SIGNATURE + bytes([0x20, 0, 0, 0]),
        ):
            for _ in range(50):
                check = self.balanced()
                check.send_bytes(header)
                self.assertEqual(check.numbers(), [MSG_KEXINIT])
                check.server.connectionLost()
        self.assertEqual(self.penalty(BALANCER), 0)
        self.assertEqual(self.admission.unauthenticated, 0)

    def test_a_header_from_anybody_else(self) -> None:
        """Is not believed, and says where to list a balancer."""
        for header in (HEADER, V2_SIGNATURE + bytes([0x21, 0x11, 0, 12]) + bytes(12)):
            client = self.client()
            client.send_bytes(header + b"SSH-2.0-test\r\n")
            reason = client.disconnect_reason()
            assert reason is not None
            self.assertEqual(reason[0], DISCONNECT_PROTOCOL_ERROR)
            self.assertIn("not listed in ssh.proxy_protocol_from", reason[1])
            self.assertEqual(client.server.peer_address, ADDRESS)

    def test_a_balancer_that_says_nothing(self) -> None:
        """Has the grace time, as everybody."""
        client = self.balanced()
        self.clock.advance(20)
        client.read()
        reason = client.disconnect_reason()
        assert reason is not None
        self.assertIn("within 20 seconds", reason[1])

    def test_who_has_to_wait_is_read_then(self) -> None:
        """What came behind the header is not lost."""
        for _ in range(10):
            client = self.balanced()
            client.send_bytes(HEADER)
            client.server.connectionLost()
        client = self.balanced()
        client.send_bytes(HEADER + b"SSH-2.0-test\r\n")
        self.assertEqual(client.numbers(), [])
        self.clock.advance(0.125)
        client.read()
        client.exchange_keys()


class PaceTests(ListenerCase):
    """How fast strangers are answered."""

    def test_the_eleventh_waits_for_its_answer(self) -> None:
        """An eighth of a second, unread; then all is as ever."""
        for _ in range(10):
            client = self.client()
            self.assertTrue(client.wire.value())
            client.server.connectionLost()
        client = self.client()
        self.assertEqual(client.wire.value(), b"")
        self.assertEqual(client.wire.producerState, "paused")
        self.clock.advance(0.125)
        self.assertEqual(client.wire.producerState, "producing")
        client.log_in()

    def test_who_waits_may_hang_up(self) -> None:
        """No timer is left, nor a place taken."""
        for _ in range(10):
            self.client().server.connectionLost()
        client = self.client()
        client.server.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.admission.unauthenticated, 0)

    def test_logins_are_not_slowed_down(self) -> None:
        """However many there are."""
        for _ in range(50):
            self.client().log_in()


class TurnTests(ListenerCase):
    """Key exchanges and login attempts wait for their turn."""

    def busy(self) -> None:
        """Somebody's work has just been done."""
        with self.turns.working():
            self.clock.rightNow += 0.01

    def test_a_key_exchange_waits_and_then_goes_on(self) -> None:
        """What comes behind it in the meantime, too."""
        client = self.client()
        client.send_version()
        ours = client.kexinit()
        client.send(MSG_KEXINIT, ours.payload[1:])
        self.busy()
        # Not answered: what exchange_keys wants to read next is not there yet.
        with self.assertRaises(AssertionError):
            client.exchange_keys(ours)
        self.assertEqual(client.wire.producerState, "paused")
        self.assertEqual(len(self.turns), 1)
        self.clock.advance(0)
        self.assertEqual(client.wire.producerState, "producing")
        client.read()
        self.assertIn(MSG_NEWKEYS, client.numbers())

    def test_a_login_attempt_waits(self) -> None:
        """And what was sent behind it is taken after it, in order."""
        client = self.client().start_userauth()
        self.busy()
        login = client.packet(MSG_USERAUTH_REQUEST, client.auth_request())
        request = client.packet(MSG_GLOBAL_REQUEST, string(b"x@example.com") + b"\x01")
        client.send_bytes(login)
        client.send_bytes(request)
        self.assertFalse(client.server.authenticated)
        self.clock.advance(0)
        self.assertTrue(client.server.authenticated)
        service: Any = client.server.service
        self.assertEqual([number for number, _ in service.received], [80])

    def test_who_has_logged_in_does_not_wait(self) -> None:
        """Renewing keys is limited by other means."""
        client = self.client().log_in()
        self.busy()
        client.exchange_keys()
        self.assertEqual(client.server.exchanges.completed, 2)

    def test_what_is_sent_by_those_who_have_logged_in_counts(self) -> None:
        """So that they come first."""
        client = self.client().log_in()
        before = self.turns.traffic
        client.send(MSG_IGNORE, string(b""))
        self.assertEqual(self.turns.traffic, before + 1)
        self.client().send_version()
        self.assertEqual(self.turns.traffic, before + 1)

    def test_a_login_that_waited_is_not_what_others_wait_for(self) -> None:
        """Else a thousand that come at once would wait for each other."""
        client = self.client().start_userauth()
        self.busy()
        client.send(MSG_USERAUTH_REQUEST, client.auth_request())
        before = self.turns.traffic
        self.clock.advance(0)
        self.assertTrue(client.server.authenticated)
        self.assertEqual(self.turns.traffic, before)

    def test_who_waits_may_hang_up(self) -> None:
        """Its turn is nobody's."""
        client = self.client().start_userauth()
        self.busy()
        client.send(MSG_USERAUTH_REQUEST, client.auth_request())
        client.server.connectionLost()
        self.assertEqual(len(self.turns), 0)
        self.clock.advance(0)

    def test_the_grace_time_goes_on(self) -> None:
        """Waiting ends with it."""
        client = self.client().start_userauth()
        self.busy()
        client.send(MSG_USERAUTH_REQUEST, client.auth_request())
        client.server.login_grace_over()
        self.clock.advance(0)
        self.assertFalse(client.server.authenticated)

    def test_a_fault_in_its_turn_ends_that_connection(self) -> None:
        """As at any other time."""
        client = self.client().start_userauth()
        self.busy()
        client.send(MSG_USERAUTH_REQUEST, b"\xff")
        self.clock.advance(0)
        client.read()
        reason = client.disconnect_reason()
        assert reason is not None
        self.assertEqual(reason[0], DISCONNECT_PROTOCOL_ERROR)

    def test_two_of_our_own_ends_get_through(self) -> None:
        """With every step having to wait."""
        pair = Pair(self.server(), None, self.clock)
        while not pair.ready:
            self.busy()
            pair.pump()
            self.clock.advance(0)
        pair.log_in()


class OffenceTests(ListenerCase):
    """What each way to go without a login costs."""

    def lose(self, client: RawClient) -> float:
        """The penalty, once TCP is gone."""
        client.server.connectionLost()
        return self.penalty()

    def test_going_without_a_try(self) -> None:
        """1 s, at whatever stage."""
        self.assertEqual(self.lose(self.client()), 1)
        self.assertEqual(self.lose(self.client().start_userauth()), 2)
        # A client of another kind, too.
        client = self.client()
        client.send_bytes(b"GET / HTTP/1.1\r\n")
        self.assertEqual(self.lose(client), 3)

    def test_a_refused_login(self) -> None:
        """5 s, however many keys were shown."""
        client = self.client().start_userauth()
        for _ in range(3):
            stranger = PrivateKey.generate()
            client.send(MSG_USERAUTH_REQUEST, client.auth_request(stranger))
        self.assertEqual(client.numbers().count(MSG_USERAUTH_FAILURE), 3)
        self.assertEqual(self.lose(client), 5)

    def test_asking_for_no_method_is_no_try(self) -> None:
        """As a scanner does: 1 s."""
        client = self.client().start_userauth()
        client.send(
            MSG_USERAUTH_REQUEST,
            string(b"x") + string(b"ssh-connection") + string(b"none"),
        )
        self.assertEqual(self.lose(client), 1)

    def test_wanting_another_host(self) -> None:
        """Nothing: agents do, whom a balancer sends where they have a tunnel."""
        for _ in range(30):
            client = self.client()
            client.algorithms = Algorithms(key_exchanges=(b"curve25519-sha256",))
            client.send_version()
            client.send(MSG_KEXINIT, client.kexinit().payload[1:])
            client.send(MSG_KEX_ECDH_INIT, string(bytes(31) + b"\x09"))
            self.assertIn(MSG_KEX_ECDH_REPLY, client.numbers())
            client.server.dataReceived(
                client.packet(MSG_DISCONNECT, WANTS_ANOTHER_HOST)
            )
            self.assertEqual(self.lose(client), 0)
            # Their pace is another matter.
            self.clock.advance(0.125)

    def test_wanting_another_host_unseen(self) -> None:
        """1 s: nobody does who has not seen the key."""
        client = self.client()
        client.send_version()
        client.send(MSG_DISCONNECT, WANTS_ANOTHER_HOST)
        self.assertEqual(self.lose(client), 1)

    def test_staying_for_too_long(self) -> None:
        """10 s."""
        client = self.client()
        self.clock.advance(20)
        self.assertEqual(self.lose(client), 10)

    def test_breaking_the_protocol(self) -> None:
        """90 s, and that acts at once."""
        client = self.client().connect()
        client.send(MSG_SERVICE_REQUEST, b"\xff")
        self.assertEqual(self.lose(client), 90)
        client = self.client()
        client.read()
        reason = client.disconnect_reason()
        assert reason is not None
        self.assertEqual(reason[0], DISCONNECT_TOO_MANY_CONNECTIONS)
        self.assertIn("again in 90 seconds", reason[1])
        client.server.connectionLost()
        self.assertEqual(self.penalty(), 90)

    def test_an_error_of_ours(self) -> None:
        """As breaking the protocol: it may be meant to be met again."""
        client = self.client().connect()

        def fail(number: int, payload: bytes) -> None:
            raise RuntimeError("ours")

        client.server.service_message = fail  # type: ignore[method-assign]
        client.send(MSG_SERVICE_REQUEST, string(b"ssh-userauth"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        reason = client.disconnect_reason()
        self.assertEqual(reason, (DISCONNECT_BY_APPLICATION, "internal error"))
        self.assertEqual(self.lose(client), 90)

    def test_a_login(self) -> None:
        """Nothing, whatever comes after."""
        client = self.client().log_in()
        client.send(MSG_SERVICE_REQUEST, b"\xff")
        self.assertEqual(self.lose(client), 0)

    def test_there_being_no_place(self) -> None:
        """Nothing."""
        for _ in range(10):
            self.client()
        self.assertEqual(self.lose(self.client()), 0)


class DisplacedTests(ListenerCase):
    """Who is silent when many come."""

    def test_it_is_told_why(self) -> None:
        """And the newcomer gets in."""
        self.listen(attrs.evolve(DEFAULT_LIMITS, unauthenticated=1))
        first = self.client()
        self.clock.advance(2)
        second = self.client("192.0.2.8")
        first.read()
        self.assertEqual(
            first.disconnect_reason(),
            (
                DISCONNECT_TOO_MANY_CONNECTIONS,
                "too many connections, and this one was silent",
            ),
        )
        second.log_in()

    def test_what_means_nothing_is_no_step(self) -> None:
        """Only those who get on with it stay."""
        self.listen(attrs.evolve(DEFAULT_LIMITS, unauthenticated=2))
        idle, working = self.client().connect(), self.client("192.0.2.8").connect()
        self.clock.advance(1.9)
        idle.send(MSG_IGNORE, string(b""))
        working.send(MSG_SERVICE_REQUEST, string(b"ssh-userauth"))
        # Services are no step either, their own messages are.
        working.send(
            MSG_USERAUTH_REQUEST,
            string(b"x") + string(b"ssh-connection") + string(b"none"),
        )
        self.clock.advance(0.1)
        self.client("192.0.2.9")
        self.assertTrue(cast(Any, idle.server)._closing)
        self.assertFalse(cast(Any, working.server)._closing)
