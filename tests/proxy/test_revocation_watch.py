"""What a proxy knows of revocations, whatever happens to where it knows it from."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import RegistryError, RevocationRefused
from rtunnel.proxy.revocation_watch import CHECK_INTERVAL, RevocationWatch
from rtunnel.registry.interface import Entry
from rtunnel.registry.memory import MemoryRegistry
from rtunnel.registry.revocation_store import (
    REVOCATIONS,
    add_revocation,
    read_revocations,
    remove_revocation,
)
from rtunnel.trust.revocation import Revocation, RevocationKind
from tests.proxy.test_krl_file import ALICE, BOB, krl
from tests.wire.examples import NOW


class FlakyRegistry(MemoryRegistry):
    """One that is away at times."""

    away = False

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        """What is there, if it can be asked."""
        if self.away:
            raise RegistryError("the registry is away")
        return await super().list(prefix)


def revocation(
    name: str, until: float | None = None, created: float = NOW
) -> Revocation:
    """Of a person."""
    return Revocation.make(
        RevocationKind.USER, name, reason="left", created=created, until=until
    )


class RevocationTestCase(SynchronousTestCase):
    """A registry that nobody has revoked anything in."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = FlakyRegistry(self.clock)

    def revoke(self, name: str, until: float | None = None) -> Revocation:
        """Somebody, by whatever proxy."""
        record = revocation(name, until)
        adding = Deferred.fromCoroutine(add_revocation(self.registry, record))
        self.successResultOf(adding)
        return record


class RevocationStoreTests(RevocationTestCase):
    """Records in the registry."""

    def listed(self) -> list[str]:
        """Whose."""
        reading = Deferred.fromCoroutine(read_revocations(self.registry))
        return [record.value for record in self.successResultOf(reading)]

    def test_records_come_the_oldest_first(self) -> None:
        """Whatever their ids are."""
        for age, name in enumerate(("a", "b", "c", "d")):
            record = revocation(name, created=NOW - age)
            self.successResultOf(
                Deferred.fromCoroutine(add_revocation(self.registry, record))
            )
        self.assertEqual(self.listed(), ["d", "c", "b", "a"])

    def test_record_with_an_end_goes_by_itself(self) -> None:
        """Its time to live is the registry's business."""
        self.revoke("alice", until=NOW + 60)
        self.revoke("bob")
        self.clock.advance(61)
        self.assertEqual(self.listed(), ["bob"])

    def test_it_gets_no_shorter(self) -> None:
        """What is revoked for longer already stays so; longer is fine."""
        for first, then in ((None, NOW + 60), (NOW + 120, NOW + 60)):
            self.revoke("alice", until=first)
            shorter = add_revocation(self.registry, revocation("alice", then))
            refused = self.failureResultOf(
                Deferred.fromCoroutine(shorter), RevocationRefused
            )
            self.assertIn("remove that first", str(refused.value))
            reading = Deferred.fromCoroutine(read_revocations(self.registry))
            [alice] = self.successResultOf(reading)
            self.assertEqual(alice.until, first)
            self.successResultOf(
                Deferred.fromCoroutine(remove_revocation(self.registry, alice.id))
            )
        self.revoke("alice", until=NOW + 60)
        self.revoke("alice", until=NOW + 120)
        self.revoke("alice")

    def test_record_that_cannot_be_read_hides_no_other(self) -> None:
        """It is logged, and the others hold."""
        self.revoke("alice")
        self.successResultOf(
            Deferred.fromCoroutine(self.registry.put(f"{REVOCATIONS}0", "nonsense"))
        )
        self.assertEqual(self.listed(), ["alice"])


class RevocationWatchTests(RevocationTestCase):
    """A proxy's picture."""

    def watch(self, *krl: Path) -> RevocationWatch:
        """One that has been started."""
        watch = RevocationWatch(self.registry, self.clock, krl)
        self.changes = 0

        def changed() -> None:
            self.changes += 1

        watch.subscribe(changed)
        self.successResultOf(Deferred.fromCoroutine(watch.start()))
        return watch

    def names(self, watch: RevocationWatch) -> set[str]:
        """Whom it knows to be revoked."""
        return {record.value for record in watch.present.records}

    def test_records_that_are_there_are_known_at_once(self) -> None:
        """Before anybody is let in."""
        self.revoke("alice")
        self.assertEqual(self.names(self.watch()), {"alice"})

    def test_changes_are_known_soon(self) -> None:
        """New ones, removed ones and ended ones; other news is no news."""
        watch = self.watch()
        alice = self.revoke("alice", until=NOW + 60)
        bob = self.revoke("bob")
        self.clock.advance(0.5)
        self.assertEqual(self.names(watch), {"alice", "bob"})
        before = self.changes
        self.successResultOf(
            Deferred.fromCoroutine(self.registry.put("proxies/1", "{}"))
        )
        self.clock.advance(0.5)
        self.assertEqual(self.changes, before)
        self.successResultOf(
            Deferred.fromCoroutine(remove_revocation(self.registry, bob.id))
        )
        self.clock.advance(0.5)
        self.assertEqual(watch.present.records, (alice,))
        self.clock.advance(60)
        self.clock.advance(0)
        self.assertEqual(self.names(watch), set())

    def test_registry_that_is_away_takes_nothing_back(self) -> None:
        """What was known stays, past its end; it is tried again until it is back."""
        watch = self.watch()
        self.revoke("alice", until=NOW + 60)
        self.clock.advance(0.5)
        self.registry.away = True
        self.revoke_anyway("bob")
        self.clock.advance(100)
        self.clock.advance(0.5)
        self.assertEqual(self.names(watch), {"alice"})
        self.assertEqual(watch.status()["problem"], "the registry is away")
        self.registry.away = False
        self.clock.advance(CHECK_INTERVAL)
        self.clock.advance(0)
        self.assertEqual(self.names(watch), {"bob"})
        self.assertIsNone(watch.status()["problem"])

    def test_change_that_was_not_told_of_is_noticed(self) -> None:
        """As when a watch has broken without a word."""
        watch = self.watch()
        assert watch._stop_watching is not None
        watch._stop_watching()
        self.revoke("alice")
        self.clock.advance(CHECK_INTERVAL)
        self.clock.advance(0)
        self.assertEqual(self.names(watch), {"alice"})

    def test_entry_that_cannot_be_read_is_logged_once(self) -> None:
        """Not each time that something else changes."""
        self.successResultOf(
            Deferred.fromCoroutine(self.registry.put(f"{REVOCATIONS}0", "nonsense"))
        )
        with capturedLogs() as events:
            watch = self.watch()
            for _ in range(10):
                self.clock.advance(CHECK_INTERVAL)
            self.revoke("alice")
            self.clock.advance(0.5)
        self.assertEqual(self.names(watch), {"alice"})
        logged = [e for e in events if e.get("key") == f"{REVOCATIONS}0"]
        self.assertEqual(len(logged), 2)

    def test_record_that_cannot_be_read_any_longer_stays(self) -> None:
        """Nobody is let in by nonsense in its place; when it is gone, it is gone."""
        watch = self.watch()
        key = REVOCATIONS + self.revoke("alice").id
        self.clock.advance(CHECK_INTERVAL)
        self.successResultOf(Deferred.fromCoroutine(self.registry.put(key, "nonsense")))
        for _ in range(2):
            self.clock.advance(CHECK_INTERVAL)
            self.revoke("bob")
        self.clock.advance(CHECK_INTERVAL)
        self.assertEqual(self.names(watch), {"alice", "bob"})
        self.successResultOf(Deferred.fromCoroutine(self.registry.delete(key)))
        self.clock.advance(CHECK_INTERVAL)
        self.assertEqual(self.names(watch), {"bob"})

    def revoke_anyway(self, name: str) -> None:
        """By another proxy, which can reach the registry."""
        record = revocation(name)
        self.successResultOf(
            Deferred.fromCoroutine(
                self.registry.put(REVOCATIONS + record.id, record.to_json())
            )
        )

    def test_registry_that_is_away_at_first_stops_the_start(self) -> None:
        """A proxy that does not know what is revoked must not begin."""
        self.registry.away = True
        watch = RevocationWatch(self.registry, self.clock)
        self.failureResultOf(Deferred.fromCoroutine(watch.start()), RegistryError)

    def test_files_are_looked_at_again_and_again(self) -> None:
        """All of them, every few seconds, or when asked to."""
        paths = [Path(self.mktemp()) for _ in range(2)]
        for path in paths:
            path.write_bytes(krl())
        watch = self.watch(*paths)
        self.assertFalse(any(self.revoked(watch)))
        paths[1].write_bytes(krl(ALICE.blob))
        self.clock.advance(CHECK_INTERVAL)
        self.assertEqual(self.revoked(watch), [True, False])
        paths[0].write_bytes(krl(BOB.blob))
        watch.check_files()
        self.assertEqual(self.revoked(watch), [True, True])
        paths[1].write_bytes(b"")
        self.clock.advance(CHECK_INTERVAL)
        self.assertEqual(self.revoked(watch), [True, True])
        status = watch.status()
        self.assertEqual((status["lists"], status["failures"]), (2, 1))
        self.assertIn(str(paths[1]), status["problem"])

    def revoked(self, watch: RevocationWatch) -> list[bool]:
        """Whether Alice's key is, and Bob's."""
        lists = watch.present.lists.values()
        return [
            any(each.key_is_revoked(key.blob) for each in lists) for key in (ALICE, BOB)
        ]

    def test_one_who_fails_to_hear_keeps_no_other_from_it(self) -> None:
        """It is logged."""
        watch = self.watch()

        def fail() -> None:
            raise ZeroDivisionError

        watch.subscribe(fail)
        watch.subscribe(lambda: setattr(self, "heard", True))
        self.revoke("alice")
        self.clock.advance(0.5)
        self.assertTrue(self.heard)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    heard = False

    def test_stopped_watch_looks_no_more(self) -> None:
        """And leaves nothing on the clock."""
        watch = self.watch()
        watch.stop()
        self.revoke("alice")
        self.clock.advance(10)
        self.assertEqual(self.names(watch), set())
        self.assertEqual(self.clock.getDelayedCalls(), [])
