"""Tokens in a registry."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rtunnel.audit.events import Event, TokenAdded, TokenRemoved
from rtunnel.errors import RtunnelError, SigningRefused
from rtunnel.proxy.tokens import Tokens
from rtunnel.registry.memory import MemoryRegistry
from rtunnel.registry.sqlite import SqliteRegistry, ThreadWorker
from rtunnel.trust.join_token import TokenRecord, hash_of, new_token
from rtunnel.trust.signing_request import JoinRequest
from rtunnel.trust.signing_role import Role
from rtunnel.wire.keys import PrivateKey

T = TypeVar("T")

_reactor: Any = reactor

KEY = PrivateKey.generate().public
NOW = 1_000_000.0


def record(token: str, **changes: Any) -> TokenRecord:
    """A token for one agent of cluster b, good for an hour."""
    made = TokenRecord(hash_of(token), "agent", "b", 1, NOW, NOW + 3600)
    return attrs.evolve(made, **changes)


def request(token: str, role: Role = "agent", cluster: str = "") -> JoinRequest:
    """Somebody wants to join."""
    return JoinRequest("192.0.2.1", role, cluster, KEY, token)


class TokensTests(SynchronousTestCase):
    """Alone."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        registry = MemoryRegistry(self.clock)
        self.events: list[Event] = []
        self.tokens = Tokens(
            registry, self.clock.seconds, record=self.events.append, proxy_id="p-1"
        )
        self.now(registry.start())
        self.token = new_token()

    def now(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that must have one at once."""
        result: T = self.successResultOf(Deferred.fromCoroutine(work))
        return result

    def refused(self, work: Coroutine[Any, Any, object]) -> str:
        """Why it was."""
        failure = self.failureResultOf(Deferred.fromCoroutine(work), RtunnelError)
        return str(failure.value)

    def test_a_token_is_used_once(self) -> None:
        """Looking it up changes nothing."""
        self.now(self.tokens.add(record(self.token)))
        for _ in range(2):
            self.assertEqual(self.now(self.tokens.look_up(self.token)).cluster, "b")
        self.now(self.tokens.redeem(request(self.token)))
        for again in (
            self.tokens.redeem(request(self.token)),
            self.tokens.look_up(self.token),
        ):
            self.assertIn("used up", self.refused(again))

    def test_a_token_may_have_several_uses(self) -> None:
        """And no more than these."""
        self.now(self.tokens.add(record(self.token, uses=3)))
        for left in (3, 2, 1):
            self.assertEqual(self.now(self.tokens.list())[0].uses, left)
            self.now(self.tokens.redeem(request(self.token)))
        self.assertIn("used up", self.refused(self.tokens.redeem(request(self.token))))
        self.assertEqual(self.now(self.tokens.list()), ())

    def test_a_token_expires(self) -> None:
        """After it, it is as if it had never been."""
        self.now(self.tokens.add(record(self.token, uses=2)))
        self.clock.advance(1800)
        self.now(self.tokens.redeem(request(self.token)))
        self.clock.advance(1800)
        self.assertEqual(self.now(self.tokens.list()), ())
        self.refused(self.tokens.redeem(request(self.token)))
        self.refused(self.tokens.look_up(self.token))

    def test_a_token_is_withdrawn_by_its_id(self) -> None:
        """Or by as much of it as is unique."""
        made = record(self.token)
        self.now(self.tokens.add(made))
        for wrong in ("", "x", made.id[1:] + "z"):
            self.assertIn("id of a token", self.refused(self.tokens.remove(wrong)))
        self.assertEqual(self.now(self.tokens.remove(made.id[:6])), made)
        self.refused(self.tokens.look_up(self.token))

    def test_what_is_added_and_removed_is_audited(self) -> None:
        """By its id; the token itself is in no line."""
        made = record(self.token, uses=2, label="shop 7")
        self.now(self.tokens.add(made))
        self.now(self.tokens.remove(made.id))
        self.assertEqual(
            self.events,
            [
                TokenAdded(
                    proxy="p-1",
                    target=f"token:{made.id}",
                    cluster="b",
                    seconds=3600.0,
                    reason="for an agent, 2 times, shop 7",
                ),
                TokenRemoved(
                    proxy="p-1",
                    target=f"token:{made.id}",
                    cluster="b",
                    reason="shop 7",
                ),
            ],
        )

    def test_an_id_that_two_tokens_share_withdraws_neither(self) -> None:
        """More of it has to be said."""
        for end in "01":
            self.now(self.tokens.add(record(self.token, hash="ab" * 31 + "a" + end)))
        self.assertIn("beginning of 2 ids", self.refused(self.tokens.remove("ab")))
        self.assertEqual(len(self.now(self.tokens.list())), 2)

    def test_a_token_for_something_else_is_not_used_up(self) -> None:
        """Another role, another cluster, another token."""
        self.now(self.tokens.add(record(self.token)))
        for wrong in (
            request(self.token, "proxy"),
            request(self.token, cluster="c"),
            request(self.token + "x"),
            request(""),
            request("\udcff"),
        ):
            self.failureResultOf(
                Deferred.fromCoroutine(self.tokens.redeem(wrong)), SigningRefused
            )
        self.now(self.tokens.redeem(request(self.token, cluster="b")))

    def test_no_token_is_recorded_twice_or_too_late(self) -> None:
        """The first record stays."""
        self.now(self.tokens.add(record(self.token)))
        self.refused(self.tokens.add(record(self.token, cluster="c")))
        self.refused(self.tokens.add(record(new_token(), expires=NOW)))
        self.assertEqual(self.now(self.tokens.look_up(self.token)).cluster, "b")


class SharedTokensTests(TestCase):
    """Many proxies on one registry file."""

    async def test_of_many_uses_at_once_as_many_succeed_as_there_are(self) -> None:
        """Whichever proxies they are made at."""
        path = Path(self.mktemp())
        registries = [
            SqliteRegistry(path, Clock(), ThreadWorker(_reactor), lambda: NOW)
            for _ in range(4)
        ]
        for registry in registries:
            await registry.start()
            self.addCleanup(registry.close)
        proxies = [
            Tokens(registry, lambda: NOW, record=lambda event: None, proxy_id="p-1")
            for registry in registries
        ]
        for uses in (1, 3):
            token = new_token()
            await proxies[0].add(record(token, uses=uses))
            attempts = [
                Deferred.fromCoroutine(proxy.redeem(request(token)))
                for proxy in proxies * 2
            ]
            outcomes = []
            for attempt in attempts:
                try:
                    await attempt
                except SigningRefused:
                    outcomes.append(False)
                else:
                    outcomes.append(True)
            self.assertEqual(sum(outcomes), uses)
