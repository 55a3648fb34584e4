"""Logging in with a token, which takes its time to be checked."""

from __future__ import annotations

import random
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import (
    DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE,
    AuthenticationRefused,
    ProtocolError,
)
from rtunnel.ssh.factory import JoinFactory
from rtunnel.ssh.limits import DEFAULT_LIMITS
from rtunnel.ssh.userauth import LoginRules
from rtunnel.testing import RecordingHandler
from rtunnel.trust.identity import Identity, UserIdentity
from rtunnel.trust.join_token import TOKEN_REFUSED
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.data_types import boolean, name_list, string, text
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.numbers import (
    MSG_CHANNEL_OPEN,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)
from tests.ssh.transports import (
    ADDRESS,
    USER_KEY,
    Pair,
    RawClient,
    RecordingEvents,
    RecordingService,
    believe,
    identify,
    identity,
    make_server,
)

PASSWORD_ONLY = name_list([b"password"]) + boolean(False)
PUBLICKEY_ONLY = name_list([b"publickey"]) + boolean(False)

#: A key exchange that costs little, for tests that do many.
CHEAP = Algorithms(key_exchanges=(b"curve25519-sha256",))


def token_request(
    token: bytes, username: bytes = b"join", *, change: bool = False
) -> bytes:
    """The payload of a ``password`` request."""
    return b"".join(
        (
            string(username),
            string(b"ssh-connection"),
            string(b"password"),
            boolean(change),
            string(token),
            string(b"new") if change else b"",
        )
    )


STRANGER = PrivateKey.generate()


def name_of(who: Identity) -> str:
    """The name of a user."""
    assert isinstance(who, UserIdentity)
    return who.name


class Checker:
    """Checks tokens when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Deferred[Identity]]] = []
        self.cancelled = 0

    async def __call__(self, token: str, source: str) -> Identity:
        """Wait for a decision."""
        assert source == ADDRESS
        deciding: Deferred[Identity] = Deferred(self._cancelled)
        self.waiting.append((token, deciding))
        return await deciding

    def _cancelled(self, deciding: Deferred[Identity]) -> None:
        self.cancelled += 1

    def decide(self) -> None:
        """Let "good..." in, under that name."""
        token, deciding = self.waiting.pop(0)
        if token.startswith("good"):
            deciding.callback(identity(token))
        else:
            deciding.errback(AuthenticationRefused("no such token"))


class TokenLoginTests(SynchronousTestCase):
    """At the server."""

    def setUp(self) -> None:
        self.events = RecordingEvents()
        self.checker = Checker()
        self.clock = Clock()

    def client(
        self, make_service: Callable[..., RecordingService] | None = None
    ) -> RawClient:
        """A client that may ask to log in."""
        rules = LoginRules(
            identify,
            make_service or (lambda who: RecordingService()),
            self.events,
            self.checker,
        )
        raw = RawClient(make_server(self.clock, rules=rules, algorithms=CHEAP))
        raw.algorithms = CHEAP
        raw.start_userauth()
        raw.received.clear()
        return raw

    def ask(self, raw: RawClient, request: bytes) -> None:
        """Ask to log in, and read what comes of it."""
        raw.received.clear()
        raw.send(MSG_USERAUTH_REQUEST, request)

    def test_a_good_token_logs_in(self) -> None:
        """When that is decided, not before."""
        raw = self.client()
        self.ask(raw, token_request(b"good"))
        self.assertEqual(raw.received, [])
        self.checker.decide()
        raw.read()
        self.assertEqual(raw.received, [(MSG_USERAUTH_SUCCESS, b"")])
        self.assertEqual(raw.server.identity, identity("good"))
        self.assertIsNone(raw.server.login_proof)
        self.assertEqual(self.events.accepted, [(identity("good"), ADDRESS)])

    def test_every_refusal_looks_the_same(self) -> None:
        """A bad token, one that is none, and a change of password; the first time there
        is a sentence for the user."""
        raw = self.client()
        banner = text(f"rtunnel: {TOKEN_REFUSED}\r\n") + text("")
        expected = [(MSG_USERAUTH_BANNER, banner)]
        for request in (
            token_request(b"bad"),
            token_request(b"\xff\x00"),
            token_request(b"good", change=True),
        ):
            self.ask(raw, request)
            self.checker.decide()
            raw.read()
            expected.append((MSG_USERAUTH_FAILURE, PASSWORD_ONLY))
            self.assertEqual(raw.received, expected)
            expected = []
        self.ask(raw, token_request(b"good" * 1000))
        self.assertEqual(raw.received, [(MSG_USERAUTH_FAILURE, PASSWORD_ONLY)])
        self.assertEqual(self.checker.waiting, [])
        self.assertEqual(len(self.events.tokens_refused), 4)
        self.assertEqual(
            self.events.tokens_refused[0], (ADDRESS, "bad", "no such token")
        )
        self.assertEqual(self.events.refused, [])
        self.assertTrue(raw.server.login_attempted)

    def test_no_other_name_takes_a_token(self) -> None:
        """Nor does ``join`` take a key."""
        raw = self.client()
        for username in (b"alice", b"JOIN", b"join ", b""):
            self.ask(raw, token_request(b"good", username))
            self.assertEqual(raw.received, [(MSG_USERAUTH_FAILURE, PUBLICKEY_ONLY)])
        self.ask(raw, raw.auth_request(username=b"join"))
        self.assertEqual(raw.received, [(MSG_USERAUTH_FAILURE, PASSWORD_ONLY)])
        self.assertEqual(self.checker.waiting, [])
        self.assertFalse(raw.server.authenticated)

    def test_where_nobody_can_join_it_is_a_name_like_any_other(self) -> None:
        """Then there is no login without a key at all."""
        rules = LoginRules(identify, lambda who: RecordingService(), self.events)
        raw = RawClient(make_server(Clock(), rules=rules)).start_userauth()
        self.ask(raw, token_request(b"good"))
        self.assertEqual(raw.received, [(MSG_USERAUTH_FAILURE, PUBLICKEY_ONLY)])
        self.ask(raw, raw.auth_request(username=b"join"))
        self.assertIn(MSG_USERAUTH_SUCCESS, raw.numbers())

    def test_six_attempts_and_no_more(self) -> None:
        """Each token is one."""
        raw = self.client()
        for _ in range(6):
            self.ask(raw, token_request(b"bad"))
            self.checker.decide()
        self.ask(raw, token_request(b"good"))
        self.assertEqual(self.checker.waiting, [])
        reason = raw.disconnect_reason()
        assert reason is not None
        self.assertEqual(reason[0], DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE)

    def test_what_follows_waits_and_is_then_taken(self) -> None:
        """In order; nothing is lost, and nothing overtakes."""
        raw = self.client()
        raw.send_bytes(
            raw.packet(MSG_USERAUTH_REQUEST, token_request(b"bad"))
            + raw.packet(MSG_USERAUTH_REQUEST, token_request(b"good 1"))
            + raw.packet(MSG_USERAUTH_REQUEST, token_request(b"good 2"))
        )
        raw.send_bytes(raw.packet(MSG_CHANNEL_OPEN, b"first"))
        raw.send_bytes(raw.packet(MSG_GLOBAL_REQUEST, b"second"))
        self.assertEqual([token for token, _ in self.checker.waiting], ["bad"])
        self.checker.decide()
        self.assertEqual([token for token, _ in self.checker.waiting], ["good 1"])
        self.checker.decide()
        raw.read()
        self.assertEqual(
            raw.numbers(),
            [MSG_USERAUTH_BANNER, MSG_USERAUTH_FAILURE, MSG_USERAUTH_SUCCESS],
        )
        self.assertEqual(self.checker.waiting, [])
        self.assertEqual(raw.server.identity, identity("good 1"))
        service = raw.server.service
        assert isinstance(service, RecordingService)
        self.assertEqual(
            service.received,
            [(MSG_CHANNEL_OPEN, b"first"), (MSG_GLOBAL_REQUEST, b"second")],
        )

    def test_the_check_is_given_up_when_the_client_is_gone(self) -> None:
        """And nobody is told of a login that never was."""
        raw = self.client()
        self.ask(raw, token_request(b"good"))
        raw.server.connectionLost()
        self.assertEqual(self.checker.cancelled, 1)
        self.assertEqual(self.events.accepted, [])

    def test_the_time_to_log_in_goes_on_meanwhile(self) -> None:
        """A check that takes for ever lets nobody stay."""
        raw = self.client()
        self.ask(raw, token_request(b"good"))
        self.clock.advance(DEFAULT_LIMITS.login_grace)
        self.assertTrue(raw.wire.disconnecting)
        self.checker.decide()
        self.assertFalse(raw.server.authenticated)
        self.assertEqual(self.events.accepted, [])

    def test_an_error_of_ours_lets_nobody_in(self) -> None:
        """It is a refusal, and in the log."""
        raw = self.client()
        self.ask(raw, token_request(b"good"))
        self.checker.waiting.pop()[1].errback(ZeroDivisionError())
        raw.read()
        self.assertEqual(raw.received[1:], [(MSG_USERAUTH_FAILURE, PASSWORD_ONLY)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_login_that_must_not_be_after_all_ends_the_connection(self) -> None:
        """As when it has to be recorded and cannot be."""

        def refuse(who: Identity, address: str) -> None:
            raise ProtocolError("not now", 7)

        self.patch(self.events, "login_accepted", refuse)
        raw = self.client()
        self.ask(raw, token_request(b"good"))
        self.checker.decide()
        raw.read()
        self.assertEqual(raw.disconnect_reason(), (7, "not now"))
        self.assertFalse(raw.server.authenticated)

    def test_who_gets_in_is_who_was_asked_about(self) -> None:
        """In a thousand schedules of requests, segments and decisions."""
        for seed in range(1000):
            self.schedule(random.Random(seed))

    def schedule(self, chance: random.Random) -> None:
        """Requests in any order and any segments, decided at any time."""
        self.setUp()
        raw = self.client()
        plan = []
        for number in range(chance.randint(1, 6)):
            name = f"{chance.choice(['good', 'bad', 'bad'])} {number}"
            kind = chance.choice(["token", "token", "key", "ping"])
            plan.append((kind, name))
        packets = []
        for kind, name in plan:
            if kind == "token":
                packets.append(
                    raw.packet(MSG_USERAUTH_REQUEST, token_request(name.encode()))
                )
            elif kind == "key":
                key = USER_KEY if name.startswith("good") else STRANGER
                packets.append(raw.packet(MSG_USERAUTH_REQUEST, raw.auth_request(key)))
            else:
                packets.append(raw.packet(MSG_IGNORE, string(name.encode())))
        data = b"".join(packets)
        while data or self.checker.waiting:
            self.assertLessEqual(len(self.checker.waiting), 1)
            if data and (not self.checker.waiting or chance.random() < 0.5):
                size = chance.choice([7, 100, len(data)])
                raw.send_bytes(data[:size])
                data = data[size:]
            else:
                self.checker.decide()
                raw.read()
        expected = next(
            (
                name if kind == "token" else "alice"
                for kind, name in plan
                if name.startswith("good") and kind != "ping"
            ),
            None,
        )
        found = raw.server.identity
        self.assertEqual(found and name_of(found), expected)
        self.assertEqual(
            [name_of(who) for who, _ in self.events.accepted],
            [expected] if expected else [],
        )


class TokenClientTests(SynchronousTestCase):
    """At the client."""

    def test_the_token_is_shown_once_to_who_was_believed(self) -> None:
        """As the password of ``join``."""
        checker = Checker()
        clock = Clock()
        rules = LoginRules(identify, lambda who: RecordingService(), None, checker)
        factory = JoinFactory(
            clock=clock, token="good", check_host=believe, handler=RecordingHandler()
        )
        pair = Pair(make_server(clock, rules=rules), factory.buildProtocol(None), clock)
        pair.pump()
        self.assertEqual([token for token, _ in checker.waiting], ["good"])
        checker.decide()
        pair.pump()
        self.assertEqual(pair.ready, [pair.client_transport.service])
