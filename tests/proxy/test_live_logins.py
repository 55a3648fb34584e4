"""How long a login lasts: revocation, the end of a certificate, other rules."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.events import Event, LoginEnded
from rtunnel.naming import Target
from rtunnel.proxy.live_logins import (
    LOOK_INTERVAL,
    NOT_TRUSTED,
    REVOKED,
    LiveLogins,
)
from rtunnel.trust.identity import Identity, UserIdentity
from rtunnel.trust.policy import Allow, AllowRule, Deny, Policy
from rtunnel.trust.revocation import Revocation, RevocationKind, Revocations
from tests.trust.test_revocation import agent, certificate, peer, user
from tests.wire.examples import NOW

WEB1 = Target("web1", "b", 22)
DB1 = Target("db1", "b", 22)


class SomeLogin:
    """Somebody who is logged in."""

    def __init__(
        self, identity: Identity, *, finishing: bool = False, connections: int = 0
    ) -> None:
        self.identity = identity
        self.open_connections = connections
        self.lets_connections_finish = finishing
        self.told: list[str] = []

    def close(self, reason: str) -> None:
        """End it."""
        self.told.append(reason)


class SomeConnection:
    """A connection to a target."""

    def __init__(self, user: UserIdentity, target: Target = WEB1) -> None:
        self.user = user
        self.target = target
        self.ended: list[str] = []
        self.forbidden = ""

    def forbid(self, reason: str) -> None:
        """It has to end."""
        self.forbidden = reason

    def end(self) -> None:
        """End it."""
        self.ended.append(self.forbidden)


class LiveLoginsTestCase(SynchronousTestCase):
    """A proxy's logins, with both of its clocks in hand."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.jumped = 0.0
        self.revocations = Revocations()
        self.policy = Policy((AllowRule.parse(["*"], ["*"], ["*:*"]),))
        self.events: list[Event] = []
        self.logins = self.make()

    def make(self, **settings: Any) -> LiveLogins:
        """The logins of a proxy with other settings."""
        return LiveLogins(
            clock=self.clock,
            now=self.now,
            revocations=lambda: self.revocations,
            policy=lambda: self.policy,
            may_reach=self.may_reach,
            record=self.events.append,
            proxy_id="p",
            **settings,
        )

    def now(self) -> float:
        """The wall clock, which begins at NOW and may be set."""
        return NOW + self.clock.seconds() + self.jumped

    def may_reach(self, user: UserIdentity, target: Target) -> Allow | Deny:
        """As the dispatcher asks the policy."""
        return self.policy.decide(
            user, target.cluster, target.host, target.port, self.now()
        )

    def login(self, identity: Identity, **settings: Any) -> SomeLogin:
        """Somebody logs in."""
        login = SomeLogin(identity, **settings)
        self.logins.add(login)
        return login

    def connection(self, user: UserIdentity, target: Target = WEB1) -> SomeConnection:
        """Somebody reaches a target."""
        connection = SomeConnection(user, target)
        self.logins.add_connection(connection)
        return connection

    def revoke(self, kind: RevocationKind, value: str) -> None:
        """From now on."""
        record = Revocation.make(kind, value, reason="lost", created=NOW)
        self.revocations = Revocations([record])
        self.logins.revocations_changed()


class RevokedTests(LiveLoginsTestCase):
    """Something else is revoked."""

    def test_login_is_ended_and_audited(self) -> None:
        """The other end hears that, and not why; others stay."""
        alice, bob = self.login(user()), self.login(user("bob", serial=7))
        through_alice = self.connection(user())
        through_bob = self.connection(user("bob", serial=7))
        self.revoke(RevocationKind.SERIAL, "42")
        self.assertEqual((alice.told, bob.told), ([REVOKED], []))
        reason = "serial 42 is revoked: lost"
        self.assertEqual((through_alice.ended, through_bob.ended), ([reason], []))
        self.assertEqual(
            self.events,
            [
                LoginEnded(
                    proxy="p",
                    source="192.0.2.1",
                    user="alice",
                    key_id="alice",
                    reason=reason,
                )
            ],
        )

    def test_agents_and_proxies_too(self) -> None:
        """Each as what it is."""
        tunnel, other = self.login(agent()), self.login(peer(), finishing=True)
        self.revoke(RevocationKind.CLUSTER, "b")
        self.assertEqual((tunnel.told, other.told), ([REVOKED], []))
        self.revoke(RevocationKind.KEY_ID, peer().proxy_id)
        self.assertEqual(other.told, [REVOKED])
        ended, ended_peer = self.events
        assert isinstance(ended, LoginEnded) and isinstance(ended_peer, LoginEnded)
        self.assertEqual((ended.cluster, ended.agent), ("b", agent().instance))
        self.assertEqual(ended_peer.key_id, peer().proxy_id)

    def test_login_is_ended_once(self) -> None:
        """Though it takes a while to go."""
        alice = self.login(user())
        self.revoke(RevocationKind.USER, "alice")
        self.revoke(RevocationKind.SERIAL, "42")
        self.clock.advance(4000)
        self.logins.remove(alice)
        self.assertEqual((len(alice.told), len(self.events)), (1, 1))

    def test_certificate_of_the_login_counts_though_it_was_renewed_since(self) -> None:
        """And so does the new one."""
        for serial in ("7", "43"):
            tunnel = self.login(agent())
            tunnel.identity = attrs.evolve(
                agent(), certificate=certificate(agent().instance, "b", serial=43)
            )
            self.revoke(RevocationKind.SERIAL, "1")
            self.assertEqual(tunnel.told, [])
            self.revoke(RevocationKind.SERIAL, serial)
            self.assertEqual(tunnel.told, [REVOKED])

    def test_connection_of_a_peers_client_is_ended(self) -> None:
        """The peer stays logged in; its other clients stay connected."""
        other_proxy = self.login(peer(), finishing=True)
        theirs = [self.connection(user()), self.connection(user("bob", serial=7))]
        self.revoke(RevocationKind.USER, "alice")
        self.assertEqual([len(each.ended) for each in theirs], [1, 0])
        self.assertEqual(other_proxy.told, [])

    def test_user_who_was_revoked_while_connecting_gets_no_connection(self) -> None:
        """It is ended as soon as it is there."""
        self.revoke(RevocationKind.USER, "alice")
        self.assertEqual(len(self.connection(user()).ended), 1)
        self.assertEqual(len(self.connection(user("bob", serial=7)).ended), 0)

    def test_who_is_gone_is_not_ended(self) -> None:
        """Neither login nor connection."""
        alice = self.login(user())
        connection = self.connection(user())
        self.logins.remove(alice)
        self.logins.remove_connection(connection)
        self.revoke(RevocationKind.USER, "alice")
        self.assertEqual((alice.told, connection.ended, self.events), ([], [], []))

    def test_one_that_fails_to_end_keeps_no_other(self) -> None:
        """It is logged."""

        class Broken(SomeLogin):
            def close(self, reason: str) -> None:
                raise ZeroDivisionError

        self.logins.add(Broken(user()))
        alice = self.login(user())
        self.revoke(RevocationKind.USER, "alice")
        self.assertEqual(alice.told, [REVOKED])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class ExpiryTests(LiveLoginsTestCase):
    """Certificates end an hour after they begin."""

    def test_login_ends_with_its_certificate(self) -> None:
        """On the second, and so do the connections; others stay."""
        alice = self.login(user())
        bob = self.login(attrs.evolve(user("bob"), valid_before=None))
        connection = self.connection(user())
        tunnel = self.login(agent(), connections=3)
        self.clock.advance(3599)
        self.assertEqual((alice.told, connection.ended), ([], []))
        self.clock.advance(1)
        for told in (alice.told, tunnel.told):
            self.assertEqual(len(told), 1)
            self.assertIn("expired at 2027-01-15T09:00:00.000Z", told[0])
        self.assertEqual(len(connection.ended), 1)
        self.assertEqual(bob.told, [])
        self.assertEqual(len(self.events), 2)

    def test_connection_of_a_peers_client_ends_with_its_own_certificate(self) -> None:
        """Whatever the peer has."""
        self.login(attrs.evolve(peer(), valid_before=None), finishing=True)
        connection = self.connection(user())
        self.clock.advance(3600)
        self.assertEqual(len(connection.ended), 1)

    def test_clock_that_is_set_is_noticed(self) -> None:
        """Within half a minute, however long the certificate had."""
        alice = self.login(user())
        self.clock.advance(1)
        self.jumped = 400 * 86400.0
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(len(alice.told), 1)

    def test_clock_that_is_set_back_gives_time(self) -> None:
        """Validity is a matter of the wall clock."""
        alice = self.login(user())
        self.jumped = -600.0
        self.clock.pump([30] * 120)
        self.assertEqual(alice.told, [])
        self.clock.pump([30] * 20)
        self.assertEqual(len(alice.told), 1)

    def test_many_logins_have_one_timer(self) -> None:
        """Which is not set anew for each, and is gone with the last."""
        logins = [
            self.login(attrs.evolve(user(), valid_before=NOW + 100.0 + n / 1000))
            for n in range(1000)
        ]
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        looks = 0
        while any(not login.told for login in logins):
            (call,) = self.clock.getDelayedCalls()
            self.clock.advance(max(0.0, call.getTime() - self.clock.seconds()))
            looks += 1
        self.assertLess(looks, 100 / LOOK_INTERVAL + 1 / 0.05 + 10)
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_renewed_identity_has_more_time(self) -> None:
        """It is asked for at each look."""
        tunnel = self.login(agent())
        self.clock.advance(1800)
        tunnel.identity = attrs.evolve(agent(), valid_before=NOW + 7200.0)
        self.clock.advance(1801)
        self.assertEqual(tunnel.told, [])
        self.clock.pump([60] * 60)
        self.assertEqual(len(tunnel.told), 1)

    def test_what_is_open_may_finish_if_the_operator_says_so(self) -> None:
        """The login ends when nothing is open any more."""
        self.logins = self.make(outlive=True)
        alice, idle = self.login(user(), connections=1), self.login(user())
        connection = self.connection(user())
        self.clock.advance(3600)
        self.assertEqual((alice.told, connection.ended), ([], []))
        self.assertEqual(len(idle.told), 1)
        self.assertTrue(self.logins.has_expired(user()))
        self.clock.pump([30] * 20)
        self.assertEqual((alice.told, connection.ended), ([], []))
        alice.open_connections = 0
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(len(alice.told), 1)

    def test_peers_connections_may_always_finish(self) -> None:
        """A renewed peer makes a new link, and the old one loses nothing."""
        other_proxy = self.login(peer(), finishing=True, connections=1)
        self.clock.advance(3600)
        self.assertEqual(other_proxy.told, [])
        other_proxy.open_connections = 0
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(len(other_proxy.told), 1)

    def test_identity_expires_at_its_end(self) -> None:
        """Not before, and never when it has none."""
        self.clock.advance(3599)
        self.assertFalse(self.logins.has_expired(user()))
        self.clock.advance(1)
        self.assertTrue(self.logins.has_expired(user()))
        endless = attrs.evolve(user(), valid_before=None)
        self.assertFalse(self.logins.has_expired(endless))

    def test_stopped_proxy_leaves_no_timer(self) -> None:
        """However many are logged in."""
        self.login(user())
        self.logins.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RetiredTests(LiveLoginsTestCase):
    """Authorities that are trusted no longer."""

    def setUp(self) -> None:
        super().setUp()
        self.retired = False
        self.logins = self.make(retired=self.why)

    def why(self, identity: Identity) -> str | None:
        """Certificates that are not renewed are of the old one."""
        renewed = getattr(identity, "fingerprint", "") == "renewed"
        return "retired" if self.retired and not renewed else None

    def retire(self) -> None:
        """From now on."""
        self.retired = True
        self.logins.authorities_changed()

    def test_login_ends_when_nothing_is_open(self) -> None:
        """At once, or as soon as that is so."""
        idle, busy = self.login(user()), self.login(user(), connections=1)
        connection = self.connection(user())
        self.retire()
        self.assertEqual((idle.told, busy.told), ([NOT_TRUSTED], []))
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual((busy.told, connection.ended), ([], []))
        busy.open_connections = 0
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(busy.told, [NOT_TRUSTED])
        self.assertEqual(len(self.events), 2)
        for event in self.events:
            assert isinstance(event, LoginEnded)
            self.assertEqual(event.reason, "retired")

    def test_who_has_followed_is_not_hit(self) -> None:
        """Whatever was shown at the login."""
        for close in (False, True):
            self.logins.close_on_change = close
            tunnel = self.login(agent())
            tunnel.identity = attrs.evolve(agent(), fingerprint="renewed")
            self.retire()
            self.assertEqual(tunnel.told, [])
            self.assertFalse(self.logins.has_lapsed(tunnel.identity))
            self.assertTrue(self.logins.has_lapsed(agent()))

    def test_all_of_it_ends_if_the_operator_wants_it(self) -> None:
        """But for what passes through proxies, which stands on people's own logins."""
        self.logins.close_on_change = True
        alice = self.login(user(), connections=1)
        passing = self.login(peer(), finishing=True, connections=1)
        alices = self.connection(user())
        others = self.connection(attrs.evolve(user("bob"), fingerprint="renewed"))
        self.retire()
        self.assertEqual((alice.told, alices.ended), ([NOT_TRUSTED], ["retired"]))
        self.assertEqual((passing.told, others.ended), ([], []))


class UnlistedTests(LiveLoginsTestCase):
    """Lines of authorized_keys that are gone."""

    def test_counts_when_files_are_read_again_and_if_it_is_wanted(self) -> None:
        """For what is opened anew it counts always."""
        gone: list[Identity] = []
        self.logins = self.make(
            unlisted=lambda identity: "gone" if identity in gone else None
        )
        listed = user()
        alice, bob = self.login(listed), self.login(user("bob"))
        alices = self.connection(listed)
        self.assertFalse(self.logins.has_lapsed(listed))
        gone.append(listed)
        self.assertTrue(self.logins.has_lapsed(listed))
        self.logins.reloaded()
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual((alice.told, alices.ended), ([], []))
        self.logins.close_on_change = True
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual((alice.told, alices.ended), ([], []))
        self.logins.reloaded()
        self.assertEqual((alice.told, alices.ended), ([NOT_TRUSTED], ["gone"]))
        self.assertEqual(bob.told, [])


class RulesTests(LiveLoginsTestCase):
    """Other rules, or another time."""

    def test_open_connections_stay_unless_the_operator_says_otherwise(self) -> None:
        """Rules are for new ones."""
        connection = self.connection(user())
        self.policy = Policy()
        self.logins.rules_changed()
        self.assertEqual(connection.ended, [])

    def test_what_is_allowed_no_longer_is_closed(self) -> None:
        """And nothing else: neither others, nor the login."""
        self.logins.close_on_change = True
        alice = self.login(user())
        connections = [self.connection(user()), self.connection(user(), DB1)]
        bobs = self.connection(attrs.evolve(user("bob"), principals=("bob",)))
        self.policy = Policy((AllowRule.parse(["ops"], ["b"], ["web1:22"]),))
        self.logins.rules_changed()
        self.assertEqual([len(each.ended) for each in connections], [0, 1])
        self.assertEqual(len(bobs.ended), 1)
        self.assertEqual((alice.told, self.events), ([], []))

    def test_what_was_being_opened_meanwhile_is_closed_too(self) -> None:
        """It was allowed when it was asked for, and is open when it is no more."""
        for close_on_change in (False, True):
            self.logins = self.make(close_on_change=close_on_change)
            self.policy = Policy((AllowRule.parse(["*"], ["*"], ["web1:*"]),))
            self.logins.reloaded()
            kept, late = self.connection(user()), self.connection(user(), DB1)
            self.assertEqual((kept.ended, len(late.ended)), ([], int(close_on_change)))
        for why in ("retired", "unlisted"):
            self.logins = self.make(
                close_on_change=True, **{why: lambda who, why=why: why}
            )
            self.assertEqual(self.connection(user()).ended, [why])

    def test_end_of_a_rules_hours_is_a_change(self) -> None:
        """Noticed within half a minute."""
        rule = AllowRule.parse(["*"], ["*"], ["*:*"], ["07:00-08:05"])
        self.policy = Policy((rule,))
        self.logins.close_on_change = True
        connection = self.connection(attrs.evolve(user(), valid_before=None))
        self.clock.pump([30] * 9)
        self.assertEqual(connection.ended, [])
        self.clock.pump([30] * 2)
        self.assertIn("at this time", connection.ended[0])
