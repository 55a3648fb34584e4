"""The list of revoked hosts, signed at one proxy and followed by others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rtunnel.errors import RevocationRefused
from rtunnel.proxy.host_revoking import REVOKED_HOSTS, HostRevoking
from rtunnel.proxy.registry_look import LOOK_INTERVAL
from rtunnel.proxy.revoked_hosts_watch import RevokedHostsWatch
from rtunnel.proxy.revoking import Revoking
from rtunnel.registry.revocation_store import REVOCATIONS
from rtunnel.state_directory import load_trust_anchors
from rtunnel.trust.bundle import Phase
from rtunnel.trust.revocation import Revocation, RevocationKind
from rtunnel.trust.revoked_hosts import MAX_ENTRIES, RevokedHosts, following
from rtunnel.trust_files import load_revoked_hosts
from rtunnel.wire.keys import PrivateKey
from tests.proxy.test_trust_watch import Proxy, TrustWatchTestCase

STOLEN = "7596c018-0000-4000-8000-000000000001"


class Revoker:
    """The part of a proxy that revokes."""

    def __init__(self, proxy: Proxy, registry: Any, clock: Any, now: float) -> None:
        self.proxy = proxy
        self.hosts = HostRevoking(registry, proxy.state, lambda: now)
        self.events: list[Any] = []
        self.changes = 0
        self.revoking = Revoking(registry, self.events.append, "p", self.hosts)
        self.watch = RevokedHostsWatch(
            registry,
            clock,
            proxy.state,
            proxy.credentials,
            self._changed,
            self.hosts,
            lambda: now,
        )
        proxy.watch.subscribe(lambda role: self.watch.authorities_changed())

    def _changed(self) -> None:
        self.changes += 1

    @property
    def revoked(self) -> list[str]:
        """What is on its list."""
        return [entry.value for entry in self.watch.entries]


class HostRevokingTests(TrustWatchTestCase):
    """Two proxies, the first of which holds the authorities."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        await super().setUp()
        self.here = await self.revoker(self.first)
        self.there = await self.revoker(self.second)

    async def revoker(self, proxy: Proxy) -> Revoker:
        """One that follows until the test ends."""
        made = Revoker(proxy, self.registry, self.clock, self.now)
        self.addCleanup(made.watch.stop)
        await made.watch.start()
        return made

    def record(
        self, kind: RevocationKind = RevocationKind.KEY_ID, value: str = STOLEN
    ) -> Revocation:
        """Of a proxy."""
        return Revocation.make(kind, value, reason="stolen", created=self.now)

    def stored(self, state: Path) -> RevokedHosts | None:
        """What a directory holds."""
        return load_revoked_hosts(state, load_trust_anchors(state / "host_ca.pub"))

    async def test_every_proxy_has_it_and_keeps_it(self) -> None:
        """In its directory, for the next start."""
        self.assertIsNone(await self.here.revoking.add(self.record()))
        self.clock.advance(LOOK_INTERVAL)
        for each in (self.here, self.there):
            self.assertEqual((each.revoked, each.changes), ([STOLEN], 1))
            self.assertEqual(self.stored(each.proxy.state), each.watch.present)
        again = await self.revoker(self.second)
        self.assertEqual(again.revoked, [STOLEN])

    async def test_what_is_no_proxy_goes_to_nobody(self) -> None:
        """People and agents are the proxies' business."""
        for kind, value in (
            (RevocationKind.USER, "alice"),
            (RevocationKind.AGENT, STOLEN),
            (RevocationKind.KEY_ID, "alice"),
        ):
            self.assertIsNone(await self.here.revoking.add(self.record(kind, value)))
        self.assertIsNone(await self.registry.get(REVOKED_HOSTS))

    async def test_without_the_key_it_says_where_to_go(self) -> None:
        """The record counts for proxies all the same."""
        said = await self.there.revoking.add(self.record())
        self.assertIn("`rtunnel init` made", said or "")
        self.assertEqual(len(await self.registry.list(REVOCATIONS)), 1)
        self.assertIsNone(await self.registry.get(REVOKED_HOSTS))

    async def test_an_authority_that_is_trusted_is_not_put_on_it(self) -> None:
        """Agents would believe nobody, and hear of nothing any more."""
        [ca] = load_trust_anchors(self.first_state / "host_ca.pub")
        said = await self.here.revoking.add(
            self.record(RevocationKind.KEY, ca.fingerprint)
        )
        self.assertIn("ca rotate host", said or "")
        self.assertIsNone(await self.registry.get(REVOKED_HOSTS))

    async def test_who_writes_the_registry_has_no_say(self) -> None:
        """A list of anybody else is not believed, one that is gone comes back, and so
        does one that is older; a record that is gone is not enough."""
        await self.here.revoking.add(self.record())
        self.clock.advance(LOOK_INTERVAL)
        good = self.here.watch.present
        assert good is not None
        thief = PrivateKey.generate()
        other = following(good, self.now, remove=self.record().id).signed([thief])
        older = RevokedHosts(good.version, (), good.signatures)
        for value in (other.to_json(), older.to_json(), "nonsense"):
            await self.registry.put(REVOKED_HOSTS, value)
            self.clock.advance(LOOK_INTERVAL)
            entry = await self.registry.get(REVOKED_HOSTS)
            assert entry is not None
            self.assertEqual(RevokedHosts.from_json(entry.value), good)
        await self.registry.delete(REVOKED_HOSTS)
        for entry in await self.registry.list(REVOCATIONS):
            await self.registry.delete(entry.key)
        self.clock.advance(LOOK_INTERVAL)
        self.assertIsNotNone(await self.registry.get(REVOKED_HOSTS))
        self.assertEqual((self.here.revoked, self.there.revoked), ([STOLEN], [STOLEN]))
        [listed] = await self.there.revoking.list()
        self.assertEqual((listed.id, listed.value), (self.record().id, STOLEN))

    async def test_it_is_taken_back_where_it_was_signed(self) -> None:
        """Elsewhere that is refused, and nothing changes."""
        await self.here.revoking.add(self.record())
        self.clock.advance(LOOK_INTERVAL)
        id = self.record().id
        with self.assertRaisesRegex(RevocationRefused, "host authority's key"):
            await self.there.revoking.remove(id)
        self.assertEqual(len(await self.registry.list(REVOCATIONS)), 1)
        for nobody in ("", "x"):
            with self.assertRaisesRegex(RevocationRefused, "the id of a revocation"):
                await self.here.revoking.remove(nobody)
        removed = await self.here.revoking.remove(id[:4])
        self.assertEqual(removed.value, STOLEN)
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual((self.here.revoked, self.there.revoked), ([], []))
        self.assertEqual(await self.here.revoking.list(), [])

    async def test_part_of_an_id_has_to_be_of_one_alone(self) -> None:
        """Nobody is trusted again by mistake."""
        names = [f"user{number}" for number in range(17)]
        for name in names:
            await self.here.revoking.add(self.record(RevocationKind.USER, name))
        ids = [each.id for each in await self.here.revoking.list()]
        shared = next(a[0] for a in ids if sum(b[0] == a[0] for b in ids) > 1)
        with self.assertRaisesRegex(RevocationRefused, "beginning of 2 ids"):
            await self.here.revoking.remove(shared)
        self.assertEqual(len(await self.here.revoking.list()), 17)

    async def test_a_full_list_says_so(self) -> None:
        """The record counts for proxies all the same."""
        entries = tuple(
            self.record(RevocationKind.SERIAL, str(number + 1))
            for number in range(MAX_ENTRIES)
        )
        for entry in entries:
            await self.here.hosts.add(entry)
        said = await self.here.revoking.add(self.record())
        self.assertIn(str(MAX_ENTRIES), said or "")
        self.assertEqual(len(await self.registry.list(REVOCATIONS)), 1)

    async def test_it_lasts_through_a_rotation(self) -> None:
        """Whoever trusts one of the keys believes it, at each phase."""
        await self.here.revoking.add(self.record())
        self.clock.advance(LOOK_INTERVAL)
        for phase in (Phase.TRUSTED, Phase.SIGNS, Phase.RETIRED):
            await self.first.rotation.move("host", phase, back=False, force=True)
            self.clock.advance(LOOK_INTERVAL)
            trusted = load_trust_anchors(self.first_state / "host_ca.pub")
            for each in (self.here, self.there):
                present = each.watch.present
                assert present is not None
                for key in trusted:
                    self.assertEqual(present.signer([key]), key)
                self.assertEqual(each.revoked, [STOLEN])
