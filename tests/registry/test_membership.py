"""Membership: our record kept alive, and the picture of everybody else."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import RegistryError
from rtunnel.registry import membership
from rtunnel.registry.holder import Holder
from rtunnel.registry.interface import Entry
from rtunnel.registry.membership import Membership
from rtunnel.registry.memory import MemoryRegistry
from rtunnel.registry.records import (
    TUNNELS_PER_PAGE,
    ProxyRecord,
    TunnelRecord,
    tunnels_key,
    tunnels_to_json,
)

ONE = ProxyRecord("id-1", "one", ("one:3023",), ("one:3024",), 1)
TWO = ProxyRecord("id-2", "two", ("two:3023",), ("two:3024",), 1)


def elsewhere(nonce: str) -> Holder:
    """A process on a host that cannot be seen from here."""
    return Holder("some-other-host/boot/namespace", 4711, "1", nonce)


def tunnel(proxy: str, agent: str = "agent-1", channels: int = 0) -> TunnelRecord:
    """A tunnel of cluster b."""
    return TunnelRecord("b", agent, proxy, 1000.0, 0.001, channels)


class Detachable(MemoryRegistry):
    """A registry whose store can be taken away."""

    away: str | None = None
    attempts = 0

    def _check(self) -> None:
        self.attempts += 1
        if self.away is not None:
            raise RegistryError(self.away)

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        self._check()
        return await super().list(prefix)

    async def compare_and_swap(
        self, key: str, value: str, revision: int | None, ttl: float | None = None
    ) -> Entry | None:
        self._check()
        return await super().compare_and_swap(key, value, revision, ttl)

    async def delete(self, key: str, revision: int | None = None) -> bool:
        self._check()
        return await super().delete(key, revision)


class MembershipCase(SynchronousTestCase):
    """One registry, a clock, and memberships in it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = Detachable(self.clock)

    def membership(
        self, record: ProxyRecord = ONE, holder: Holder | None = None
    ) -> Membership:
        return Membership(self.registry, self.clock, record, holder=holder)

    def started(
        self, record: ProxyRecord = ONE, holder: Holder | None = None
    ) -> Membership:
        membership = self.membership(record, holder)
        self.successResultOf(Deferred.fromCoroutine(membership.start()))
        self.pass_time(0)
        return membership

    def pass_time(self, seconds: float) -> None:
        """In steps that are small enough for every timer."""
        steps = int(seconds / 0.05)
        self.clock.pump([0.05] * steps + [0, 0, 0])

    def stored(self, key: str) -> Entry | None:
        return self.successResultOf(Deferred.fromCoroutine(self.registry.get(key)))

    def stored_keys(self) -> list[str]:
        entries = MemoryRegistry.list(self.registry, "")
        return [e.key for e in self.successResultOf(Deferred.fromCoroutine(entries))]


class PictureTests(MembershipCase):
    """Seeing the others."""

    def test_proxies_see_each_other(self) -> None:
        """Whoever started first learns of the second without asking."""
        one, two = self.started(ONE), self.started(TWO)
        for each in (one, two):
            self.assertEqual([p.id for p in each.proxies()], ["id-1", "id-2"])
        self.assertEqual(one.proxies()[1].peer_addresses, ("two:3024",))

    def test_tunnels_of_every_proxy_are_seen_by_all(self) -> None:
        """A new tunnel is known to the peers within 0.2 s."""
        one, two = self.started(ONE), self.started(TWO)
        two.set_tunnels([tunnel("id-2")])
        self.assertEqual(two.tunnels(), (tunnel("id-2"),))
        self.pass_time(0.2)
        self.assertEqual(one.tunnels(), (tunnel("id-2"),))

    def test_several_changes_make_one_write(self) -> None:
        """A burst of tunnels is gathered."""
        one = self.started(ONE)
        before = self.registry.attempts
        for number in range(50):
            one.set_tunnels([tunnel("id-1", f"agent-{n}") for n in range(number + 1)])
            self.clock.advance(0.001)
        self.pass_time(0.2)
        entry = self.stored(tunnels_key("id-1", 0))
        assert entry is not None
        self.assertIn("agent-49", entry.value)
        self.assertLess(self.registry.attempts - before, 10)

    def test_measurements_go_with_the_refresh_and_call_nobody(self) -> None:
        """Channel counts reach the peers in time and are no change."""
        one, two = self.started(ONE), self.started(TWO)
        two.set_tunnels([tunnel("id-2")])
        self.pass_time(0.2)
        calls: list[None] = []
        one.subscribe(lambda: calls.append(None))
        two.set_tunnels([tunnel("id-2", channels=7)])
        self.pass_time(membership.REFRESH + 0.2)
        self.assertEqual(one.tunnels()[0].channels, 7)
        self.assertEqual(calls, [])

    def test_many_tunnels_take_several_entries(self) -> None:
        """Pages keep an entry small, and go when they are not needed."""
        one, two = self.started(ONE), self.started(TWO)
        many = [tunnel("id-1", f"agent-{n}") for n in range(TUNNELS_PER_PAGE + 1)]
        one.set_tunnels(many)
        self.pass_time(0.2)
        self.assertIn(tunnels_key("id-1", 1), self.stored_keys())
        self.assertEqual(set(two.tunnels()), set(many))
        one.set_tunnels(many[:1])
        self.pass_time(0.2)
        self.assertNotIn(tunnels_key("id-1", 1), self.stored_keys())
        self.assertEqual(two.tunnels(), (many[0],))

    def test_a_proxy_that_stops_refreshing_vanishes(self) -> None:
        """With its time to live its tunnels go too."""
        one, two = self.started(ONE), self.started(TWO)
        two.set_tunnels([tunnel("id-2")])
        self.pass_time(0.2)
        two._schedule(1e9)  # as a process that hangs would
        self.pass_time(membership.TTL - 1)
        self.assertEqual(len(one.proxies()), 2)
        self.pass_time(2)
        self.assertEqual([p.id for p in one.proxies()], ["id-1"])
        self.assertEqual(one.tunnels(), ())

    def test_records_are_kept_alive(self) -> None:
        """A proxy that lives is seen after many times to live."""
        one, _two = self.started(ONE), self.started(TWO)
        self.pass_time(5 * membership.TTL)
        self.assertEqual(len(one.proxies()), 2)

    def test_subscribers_hear_of_changes(self) -> None:
        """A proxy that comes, its state, a tunnel: each is a call; then no more."""
        one = self.started(ONE)
        states: list[list[str]] = []
        stop = one.subscribe(lambda: states.append([p.state for p in one.proxies()]))
        two = self.started(TWO)
        self.assertEqual(states, [["active", "active"]])
        self.successResultOf(Deferred.fromCoroutine(two.set_state("draining")))
        self.pass_time(0)
        self.assertEqual(states[-1], ["active", "draining"])
        two.set_tunnels([tunnel("id-2")])
        self.pass_time(0.2)
        self.assertEqual(len(states), 3)
        stop()
        self.successResultOf(Deferred.fromCoroutine(two.leave()))
        self.pass_time(0)
        self.assertEqual(len(states), 3)

    def test_a_failing_subscriber_harms_nobody(self) -> None:
        """The next subscriber hears all the same."""
        one = self.started(ONE)
        calls: list[None] = []
        one.subscribe(lambda: 1 // 0)  # type: ignore[arg-type]
        one.subscribe(lambda: calls.append(None))
        self.started(TWO)
        self.assertEqual(len(calls), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_unreadable_records_are_passed_over_once(self) -> None:
        """Nonsense from another writer is logged and hides nothing else."""
        one = self.started(ONE)
        with capturedLogs() as logs:
            for _ in range(3):
                put = self.registry.put("proxies/id-3", "nonsense")
                self.successResultOf(Deferred.fromCoroutine(put))
                self.pass_time(0)
        self.started(TWO)
        self.assertEqual([p.id for p in one.proxies()], ["id-1", "id-2"])
        self.assertEqual([e["key"] for e in logs], ["proxies/id-3"])

    def test_nobody_speaks_for_another_proxy(self) -> None:
        """A record counts only under the key of the proxy that it names."""
        one, _two = self.started(ONE), self.started(TWO)
        forged = tunnels_to_json([tunnel("id-1")])
        for key, value in (
            ("proxies/id-9", TWO.to_json()),
            (tunnels_key("id-2", 5), forged),
        ):
            self.successResultOf(Deferred.fromCoroutine(self.registry.put(key, value)))
        self.pass_time(0)
        self.assertEqual([p.id for p in one.proxies()], ["id-1", "id-2"])
        self.assertEqual(one.tunnels(), ())


class StateTests(MembershipCase):
    """Draining and leaving."""

    def test_draining_is_published_at_once(self) -> None:
        """When set_state returns, the store says so."""
        one = self.started(ONE)
        self.successResultOf(Deferred.fromCoroutine(one.set_state("draining")))
        entry = self.stored("proxies/id-1")
        assert entry is not None
        self.assertEqual(ProxyRecord.from_json(entry.value).state, "draining")
        self.assertEqual(one.proxies()[0].state, "draining")

    def test_peer_addresses_are_published_at_once(self) -> None:
        """They are known only when the proxy listens."""
        one, two = self.started(ONE), self.started(TWO)
        addresses = ("one:1", "one:2")
        self.successResultOf(Deferred.fromCoroutine(one.set_peer_addresses(addresses)))
        self.pass_time(0)
        for each in (one, two):
            self.assertEqual(each.proxies()[0].peer_addresses, addresses)

    def test_leaving_takes_every_record_away(self) -> None:
        """Peers see it at once, and nothing is left to expire."""
        one, two = self.started(ONE), self.started(TWO)
        one.set_tunnels([tunnel("id-1")])
        self.pass_time(0.2)
        self.successResultOf(Deferred.fromCoroutine(one.leave()))
        self.pass_time(0)
        self.assertEqual(self.stored_keys(), ["proxies/id-2"])
        self.assertEqual([p.id for p in two.proxies()], ["id-2"])

    def test_after_leaving_nothing_is_written(self) -> None:
        """No timer brings the record back."""
        one = self.started(ONE)
        one.set_tunnels([tunnel("id-1")])
        self.successResultOf(Deferred.fromCoroutine(one.leave()))
        one.set_tunnels([])
        self.pass_time(membership.TTL)
        self.assertEqual(self.stored_keys(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AwayTests(MembershipCase):
    """The store is away."""

    def test_the_last_known_picture_stays(self) -> None:
        """Peers are kept, and our own part goes on changing."""
        one, two = self.started(ONE), self.started(TWO)
        two.set_tunnels([tunnel("id-2")])
        self.pass_time(0.2)
        self.registry.away = "registry.db is locked"
        self.pass_time(4 * membership.TTL)
        one.set_tunnels([tunnel("id-1")])
        self.assertEqual([p.id for p in one.proxies()], ["id-1", "id-2"])
        self.assertEqual({t.proxy for t in one.tunnels()}, {"id-1", "id-2"})
        self.assertEqual(one.problem, "registry.db is locked")

    def test_everything_is_published_when_the_store_is_back(self) -> None:
        """Records that ran out meanwhile are written anew."""
        one = self.started(ONE)
        self.registry.away = "registry.db is locked"
        one.set_tunnels([tunnel("id-1")])
        self.successResultOf(Deferred.fromCoroutine(one.set_state("draining")))
        self.pass_time(2 * membership.TTL)
        self.assertEqual(self.stored_keys(), [])
        self.registry.away = None
        self.pass_time(membership.RETRY + 0.1)
        self.assertEqual(self.stored_keys(), ["proxies/id-1", "tunnels/id-1/0"])
        entry = self.stored("proxies/id-1")
        assert entry is not None
        self.assertEqual(ProxyRecord.from_json(entry.value).state, "draining")
        self.assertIsNone(one.problem)

    def test_each_change_of_condition_is_logged_once(self) -> None:
        """Away, away for another reason, back: three lines, however many retries."""
        self.started(ONE)
        with capturedLogs() as logs:
            self.registry.away = "registry.db is locked"
            self.pass_time(30)
            self.registry.away = "registry.db is damaged"
            self.pass_time(30)
            self.registry.away = None
            self.pass_time(30)
        self.assertEqual(
            [(e["log_level"], e.get("reason")) for e in logs],
            [
                (LogLevel.error, "registry.db is locked"),
                (LogLevel.error, "registry.db is damaged"),
                (LogLevel.info, None),
            ],
        )
        self.assertGreater(self.registry.attempts, 40)

    def test_leaving_does_not_need_the_store(self) -> None:
        """A drain ends although the records cannot be taken away."""
        one = self.started(ONE)
        self.registry.away = "registry.db is locked"
        self.successResultOf(Deferred.fromCoroutine(one.leave()))
        self.assertEqual(self.stored_keys(), ["proxies/id-1"])

    def test_a_store_that_is_away_at_the_start_is_an_error(self) -> None:
        """A proxy does not start blind."""
        self.registry.away = "registry.db is damaged"
        start = Deferred.fromCoroutine(self.membership().start())
        error = self.failureResultOf(start, RegistryError).value
        self.assertEqual(str(error), "registry.db is damaged")


class DuplicateTests(MembershipCase):
    """Two processes with one id."""

    def assert_refused(self, start: Deferred[None]) -> None:
        error = self.failureResultOf(start, RegistryError).value
        self.assertIn("another proxy with this id is running: id-1", str(error))

    def test_a_second_holder_in_a_living_process_is_refused_at_once(self) -> None:
        """This very process is alive, so nothing has to be waited for."""
        self.started(ONE)
        start = Deferred.fromCoroutine(self.membership(ONE).start())
        self.assert_refused(start)

    def test_a_dead_process_is_replaced_at_once(self) -> None:
        """A crashed proxy comes back without waiting, and its tunnels are gone."""
        dead = attrs.evolve(Holder.of_this_process(), began="0")
        crashed = self.started(ONE, dead)
        crashed.set_tunnels([tunnel("id-1")])
        self.pass_time(0.2)
        again = self.started(ONE)
        self.assertEqual(self.stored_keys(), ["proxies/id-1"])
        entry = self.stored("proxies/id-1")
        assert entry is not None
        self.assertEqual(ProxyRecord.from_json(entry.value), again.record)

    def test_a_distant_holder_that_shows_life_is_not_replaced(self) -> None:
        """It is found out by its next refresh."""
        self.started(ONE, elsewhere("a"))
        start = Deferred.fromCoroutine(self.membership(ONE, elsewhere("b")).start())
        self.assertNoResult(start)
        self.pass_time(membership.REFRESH + 1)
        self.assert_refused(start)

    def test_a_distant_holder_that_is_silent_is_replaced(self) -> None:
        """When its time to live is over, and not before."""
        silent = self.started(ONE, elsewhere("a"))
        silent._schedule(1e9)
        start = Deferred.fromCoroutine(self.membership(ONE, elsewhere("b")).start())
        self.pass_time(membership.TTL - 1)
        self.assertNoResult(start)
        self.pass_time(2)
        self.successResultOf(start)

    def test_a_holder_that_was_replaced_does_not_fight(self) -> None:
        """It says so, leaves the record alone, and returns when the other has left."""
        first = self.started(ONE, elsewhere("a"))
        self.registry.away = "away"
        self.pass_time(2 * membership.TTL)
        first._schedule(5)
        self.registry.away = None
        second = self.started(ONE, elsewhere("b"))
        self.pass_time(3 * membership.TTL)
        entry = self.stored("proxies/id-1")
        assert entry is not None
        self.assertEqual(ProxyRecord.from_json(entry.value), second.record)
        self.assertIn("taken the place of ours", str(first.problem))
        self.successResultOf(Deferred.fromCoroutine(second.leave()))
        self.pass_time(membership.REFRESH)
        self.assertIsNone(first.problem)
