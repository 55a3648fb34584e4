"""Who is logged in, and audited, is who has proven it, whatever comes when.

Requests pipelined, cut anywhere, and decided late: a token is looked up in the
registry, and keys wait for their turn. A server that remembers only the
newest request while it waits lets one in under the name of another (the class of
CVE-2024-45337).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.events import event_line
from rtunnel.errors import AuthenticationRefused
from rtunnel.proxy.login_events import login_accepted
from rtunnel.ssh.userauth import JOIN_USERNAME, LoginRules
from rtunnel.trust.identity import Identity, JoinIdentity, UserIdentity
from rtunnel.wire.data_types import boolean, string
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.numbers import MSG_USERAUTH_REQUEST, MSG_USERAUTH_SUCCESS
from tests.ssh.transports import (
    ADDRESS,
    RawClient,
    RecordingEvents,
    RecordingService,
    identity,
    make_server,
)

SCHEDULES = 1000

#: Requests on one connection; more would be too many attempts.
MOST = 5

PEOPLE = {name: PrivateKey.generate() for name in ("alice", "bob", "carol")}


def person(name: str) -> UserIdentity:
    """Who holds the key of that name."""
    return identity(name)


def bearer(token: str) -> JoinIdentity:
    """Who has that token."""
    return JoinIdentity(
        kind="agent",
        cluster="b",
        token_id=token,
        token=token,
        source=ADDRESS,
        valid_before=2**40,
    )


@attrs.frozen
class Request:
    """One request, and whom it lets in; None when nobody."""

    payload: bytes
    winner: Identity | None


class Schedule:
    """One connection, and everything that happens on it in an order of chance."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = Clock()
        self.events = RecordingEvents()
        self.waiting: list[tuple[str, Deferred[Identity]]] = []
        self.most_at_once = 0
        rules = LoginRules(
            self.identify,
            lambda who: RecordingService(),
            self.events,
            check_token=self.check_token,
        )
        self.raw = RawClient(make_server(self.clock, rules=rules)).start_userauth()
        self.raw.received.clear()

    def identify(self, algorithm: bytes, blob: bytes, source: str) -> Identity:
        """Everybody in :data:`PEOPLE`."""
        for name, key in PEOPLE.items():
            if key.public.blob == blob:
                return person(name)
        raise AuthenticationRefused("nobody's key")

    async def check_token(self, token: str, source: str) -> Identity:
        """Later."""
        decided: Deferred[Identity] = Deferred()
        self.waiting.append((token, decided))
        self.most_at_once = max(self.most_at_once, len(self.waiting))
        return await decided

    def decide(self) -> None:
        """Answer about a token; those that begin with "good" are."""
        token, decided = self.waiting.pop(self.random.randrange(len(self.waiting)))
        if token.startswith("good"):
            decided.callback(bearer(token))
        else:
            decided.errback(AuthenticationRefused("no such token"))
        self.raw.read()

    def request(self) -> Request:
        """Some request."""
        raw, chance = self.raw, self.random
        name, other = chance.sample(sorted(PEOPLE), 2)
        key = PEOPLE[name]
        username = chance.choice([b"alice", b"bob", b"root"])
        match chance.choice(["proof", "claim", "question", "token", "token", "none"]):
            case "proof":
                return Request(raw.auth_request(key, username=username), person(name))
            case "claim":
                # The key of one, the signature of another.
                shown = PEOPLE[other].public.blob
                return Request(
                    raw.auth_request(key, blob=shown, username=username), None
                )
            case "question":
                question = raw.auth_request(key, signed=False, username=username)
                return Request(question, None)
            case "token":
                token = f"{chance.choice(['good', 'bad'])}-{chance.random()}"
                fields = (JOIN_USERNAME, b"ssh-connection", b"password")
                winner = bearer(token) if token.startswith("good") else None
                return Request(
                    b"".join(map(string, fields))
                    + boolean(False)
                    + string(token.encode()),
                    winner,
                )
            case _:
                fields = (username, b"ssh-connection", b"none")
                return Request(b"".join(map(string, fields)), None)

    def run(self) -> Identity | None:
        """Let it all happen; who should be in then."""
        requests = [self.request() for _ in range(self.random.randint(1, MOST))]
        stream = b"".join(
            self.raw.packet(MSG_USERAUTH_REQUEST, each.payload) for each in requests
        )

        def send() -> None:
            nonlocal stream
            count = self.random.choice([1, 50, 200, len(stream)])
            sent, stream = stream[:count], stream[count:]
            self.raw.send_bytes(sent)

        def wait() -> None:
            self.clock.advance(0.05)
            self.raw.read()

        idle = 0
        while idle < 3:
            steps: list[Callable[[], None]] = []
            # TCP delivers nothing to who has paused it.
            if stream and self.raw.wire.producerState == "producing":
                steps.append(send)
            if self.waiting:
                steps.append(self.decide)
            idle = 0 if steps else idle + 1
            self.random.choice([*steps, wait] if steps else [wait])()
        assert not stream or self.raw.server.authenticated
        winners = (each.winner for each in requests if each.winner is not None)
        return next(winners, None)


class LoginScheduleTests(SynchronousTestCase):
    """1,000 of them, the same each time."""

    def test_who_has_proven_it_is_who_is_in_and_audited(self) -> None:
        """The first request that is good, and no other; or nobody."""
        kinds = set()
        for seed in range(SCHEDULES):
            schedule = Schedule(seed)
            winner = schedule.run()
            kinds.add(type(winner))
            accepted = [] if winner is None else [(winner, ADDRESS)]
            self.assertEqual(schedule.events.accepted, accepted, seed)
            self.assertEqual(schedule.raw.server.identity, winner, seed)
            self.assertEqual(schedule.raw.server.authenticated, winner is not None)
            successes = schedule.raw.numbers().count(MSG_USERAUTH_SUCCESS)
            self.assertEqual(successes, len(accepted), seed)
            self.assertLessEqual(schedule.most_at_once, 1, seed)
            if isinstance(winner, UserIdentity):
                self.assertEqual(self.audited(schedule)["user"], winner.name, seed)
            elif isinstance(winner, JoinIdentity):
                self.assertIn(winner.token_id, json.dumps(self.audited(schedule)), seed)
        self.assertEqual(kinds, {type(None), UserIdentity, JoinIdentity})

    def audited(self, schedule: Schedule) -> dict[str, object]:
        """The line in the audit file."""
        ((who, address),) = schedule.events.accepted
        line: dict[str, object] = json.loads(
            event_line(login_accepted(who, "p-1", address), 0)
        )
        return line
