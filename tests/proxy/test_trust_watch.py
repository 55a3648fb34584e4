"""Rotations as proxies of one cluster follow them, through the registry."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import TestCase

from rtunnel.audit.events import FollowerForgotten
from rtunnel.authority_files import load_authority, next_path
from rtunnel.errors import RotationRefused
from rtunnel.proxy.credentials import LiveCredentials
from rtunnel.proxy.followers import Followers
from rtunnel.proxy.people_seen import PeopleSeen
from rtunnel.proxy.registry_look import LOOK_INTERVAL
from rtunnel.proxy.rotation import Rotation
from rtunnel.proxy.trust_watch import TRUST, TrustWatch
from rtunnel.registry.memory import MemoryRegistry
from rtunnel.state_directory import (
    load_proxy_credentials,
    load_trust_anchors,
    write_private,
)
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.bundle import MAX_GENERATION, Phase, TrustBundle
from rtunnel.wire.keys import PrivateKey
from tests.cli.running import rtunnel
from tests.keys_at_once import make_key_at_once
from tests.proxy.test_people_seen import user_identity


class Proxy:
    """The part of a proxy that follows rotations."""

    def __init__(self, state: Path, registry: Any, clock: Clock, now: float) -> None:
        self.state = state
        self.credentials = LiveCredentials(
            lambda: load_proxy_credentials(state, "a", now)
        )
        self.watch = TrustWatch(registry, clock, state, self.credentials)
        self.events: list[Any] = []
        self.followers = Followers(
            registry,
            clock,
            now=lambda: now,
            name=state.name,
            credentials=self.credentials,
            bundle=self.watch.bundle,
        )
        self.connected: set[str] = set()
        self.people = PeopleSeen(lambda: now)
        self.rotation = Rotation(
            directory=state,
            proxy_id=self.credentials.proxy_id,
            credentials=self.credentials,
            bundles=self.watch,
            followers=self.followers,
            connected=lambda: self.connected,
            people=self.people,
            record=self.events.append,
            now=lambda: now,
            make_key=make_key_at_once,
        )
        self.watch.subscribe(lambda role: self.followers.say_own())

    async def start(self) -> None:
        """Follow."""
        await self.watch.start()
        self.followers.start()

    def stop(self) -> None:
        """Follow no more."""
        self.watch.stop()
        self.followers.stop()


class TrustWatchTestCase(TestCase):
    """Two proxies, the first of which holds the authorities."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        """Make both state directories."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)
        self.first_state = self.directory / "one"
        self.second_state = self.directory / "two"
        self.run_rtunnel(
            *("init", "--state", self.first_state, "--cluster", "a", "--ttl", "1h"),
            *("--public", "127.0.0.1:3023", "--set", 'name="one"'),
        )
        self.run_rtunnel(
            *("proxy", "sign", "two", "--state", self.first_state),
            *("--out", self.second_state, "--ttl", "1h"),
        )
        self.now = time.time()
        self.clock = Clock()
        self.registry = MemoryRegistry(self.clock)
        await self.registry.start()
        self.proxies: list[Proxy] = []
        self.first = await self.proxy(self.first_state)
        self.second = await self.proxy(self.second_state)

    def run_rtunnel(self, *arguments: Any) -> None:
        """Run a command that has to succeed."""
        outcome = rtunnel(*arguments)
        self.assertEqual((outcome.err, outcome.code), ("", 0))

    async def proxy(self, state: Path) -> Proxy:
        """One that follows until the test ends."""
        proxy = Proxy(state, self.registry, self.clock, self.now)
        self.proxies.append(proxy)
        self.addCleanup(proxy.stop)
        await proxy.start()
        return proxy

    async def move(self, *phases: Phase, back: bool = False) -> None:
        """Rotate the user authority, which needs no certificate of a proxy."""
        for phase in phases:
            await self.first.rotation.move("user", phase, back=back, force=False)
            self.clock.advance(LOOK_INTERVAL)


class TrustWatchTests(TrustWatchTestCase):
    """What becomes of a rotation of the user authority."""

    async def test_every_proxy_follows_each_phase(self) -> None:
        """By its files, for the next start, and at once."""
        for phase in (Phase.TRUSTED, Phase.SIGNS, Phase.RETIRED):
            await self.move(phase)
            for proxy in (self.first, self.second):
                state = proxy.rotation.state("user")
                self.assertEqual(state.phase, phase)
                self.assertEqual(proxy.credentials.anchors.user, set(state.trusted))
                stored = load_trust_anchors(proxy.state / "user_ca.pub")
                self.assertEqual(stored, state.trusted)
        signing = load_authority(self.first_state, "user_ca").public
        self.assertEqual(self.first.rotation.state("user").signs, signing)
        self.assertEqual(
            [event.reason for event in self.first.events],
            [
                "from steady to trusted",
                "from trusted to signs",
                "from signs to retired",
            ],
        )

    async def test_a_proxy_that_was_down_catches_up(self) -> None:
        """With all that it missed, for the old key has signed it too; but nobody goes
        on without it unless forced."""
        self.second.stop()
        await self.move(Phase.TRUSTED)
        with self.assertRaisesRegex(RotationRefused, self.second.credentials.proxy_id):
            await self.move(Phase.SIGNS)
        for phase in (Phase.SIGNS, Phase.RETIRED):
            await self.first.rotation.move("user", phase, back=False, force=True)
        again = await self.proxy(self.second_state)
        self.assertEqual(again.rotation.state("user").phase, Phase.RETIRED)
        self.assertEqual(len(again.credentials.anchors.user), 1)
        self.assertEqual(await self.first.rotation.laggards("user"), ())

    async def test_a_proxy_without_a_common_key_says_what_to_do(self) -> None:
        """It came back from a backup, two rotations ago."""
        kept = self.directory / "kept"
        shutil.copytree(self.second_state, kept)
        self.second.stop()
        for _ in range(2):
            for phase in (Phase.TRUSTED, Phase.SIGNS, Phase.RETIRED):
                await self.first.rotation.move("user", phase, back=False, force=True)
        shutil.rmtree(self.second_state)
        shutil.copytree(kept, self.second_state)
        with capturedLogs() as logs:
            lost = await self.proxy(self.second_state)
            self.clock.advance(LOOK_INTERVAL * 3)
        said = [each for each in logs if each["log_level"] is LogLevel.error]
        self.assertEqual(len(said), 1, "once, not at each look")
        self.assertIn("copy user_ca.pub", said[0]["reason"])
        self.assertEqual(lost.rotation.state("user").phase, Phase.STEADY)

    async def test_whoever_can_write_the_registry_cannot_make_itself_trusted(
        self,
    ) -> None:
        """A bundle counts for its signatures, and nonsense for nothing."""
        await self.move(Phase.TRUSTED)
        bundle = self.first.watch.bundle("user")
        assert bundle is not None

        thief = PrivateKey.generate()
        forged = _forged(bundle, thief, generation=9)
        for value in (forged.to_json(), "nonsense", "{}"):
            await self.registry.put(TRUST + "user", value)
            self.clock.advance(LOOK_INTERVAL)
            for proxy in (self.first, self.second):
                self.assertNotIn(thief.public, proxy.credentials.anchors.user)
                self.assertEqual(proxy.watch.bundle("user"), bundle)

    async def test_nor_can_it_keep_an_authority_from_being_rotated(self) -> None:
        """Which may be what has to be done about it."""
        await self.move(Phase.TRUSTED)
        bundle = self.first.watch.bundle("user")
        assert bundle is not None
        forged = _forged(bundle, PrivateKey.generate(), generation=MAX_GENERATION)
        await self.registry.put(TRUST + "user", forged.to_json())
        self.clock.advance(LOOK_INTERVAL)
        with self.assertRaisesRegex(RotationRefused, "--force replaces it"):
            await self.first.rotation.move("user", None, back=False, force=False)
        await self.first.rotation.move("user", None, back=False, force=True)
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(self.second.rotation.state("user").phase, Phase.SIGNS)

    async def test_force_is_not_for_what_is_rotated_elsewhere(self) -> None:
        """A bundle that is signed as it should be stays."""
        state = self.first.rotation.state("user")
        bundle = await self.first.rotation._next_bundle(state, Phase.TRUSTED)
        await self.move(Phase.TRUSTED)
        with self.assertRaisesRegex(RotationRefused, "elsewhere"):
            await self.first.watch.publish(bundle, force=True)

    async def test_a_forged_bundle_keeps_nobody_from_catching_up(self) -> None:
        """One of the present generation is replaced by the true one."""
        self.second.stop()
        await self.move(Phase.TRUSTED)
        bundle = self.first.watch.bundle("user")
        assert bundle is not None
        forged = _forged(bundle, PrivateKey.generate(), bundle.generation)
        await self.registry.put(TRUST + "user", forged.to_json())
        self.clock.advance(LOOK_INTERVAL)
        again = await self.proxy(self.second_state)
        self.assertEqual(again.watch.bundle("user"), bundle)

    async def test_a_lost_registry_is_filled_again(self) -> None:
        """From what the proxies have in their files."""
        await self.move(Phase.TRUSTED, Phase.SIGNS)
        await self.registry.delete(TRUST + "user")
        self.clock.advance(LOOK_INTERVAL)
        entry = await self.registry.get(TRUST + "user")
        assert entry is not None
        self.assertIn('"signs"', entry.value)

    async def test_two_that_rotate_at_once_do_not_overwrite_each_other(self) -> None:
        """The second is refused; it may look and try again."""
        state = self.first.rotation.state("user")
        bundle = await self.first.rotation._next_bundle(state, Phase.TRUSTED)
        await self.move(Phase.TRUSTED)
        with self.assertRaisesRegex(RotationRefused, "elsewhere"):
            await self.first.watch.publish(bundle)

    async def test_one_cannot_rotate_where_the_key_is_not(self) -> None:
        """The second proxy has only public halves."""
        with self.assertRaisesRegex(RotationRefused, "rtunnel init"):
            await self.second.rotation.move("user", None, back=False, force=False)
        self.assertEqual(self.second.rotation.state("user").phase, Phase.STEADY)

    async def test_a_key_of_another_role_is_not_adopted(self) -> None:
        """Though the bundle is signed as it should be."""

        await self.move(Phase.TRUSTED)
        bundle = self.first.watch.bundle("user")
        assert bundle is not None
        agent_ca = load_authority(self.first_state, "agent_ca").public
        shared = attrs.evolve(
            bundle, generation=2, trusted=(bundle.signs, agent_ca), other=agent_ca
        ).signed([load_authority(self.first_state, "user_ca")])
        await self.registry.put(TRUST + "user", shared.to_json())
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(self.second.watch.bundle("user"), bundle)
        stored = load_trust_anchors(self.second_state / "user_ca.pub")
        self.assertEqual(stored, bundle.trusted)

    async def test_asking_twice_for_a_phase_is_one_step(self) -> None:
        """So that a script can be run again."""
        await self.move(Phase.TRUSTED, Phase.TRUSTED)
        self.assertEqual(self.first.rotation.state("user").generation, 1)
        self.assertEqual(len(self.first.events), 1)

    async def test_rolled_back_to_the_beginning_no_key_is_left(self) -> None:
        """The new one was never used."""
        await self.move(Phase.TRUSTED)
        self.assertTrue(next_path(self.first_state / "user_ca").exists())
        await self.move(Phase.STEADY, back=True)
        self.assertFalse(next_path(self.first_state / "user_ca").exists())
        self.assertEqual(len(self.second.credentials.anchors.user), 1)

    async def test_a_crash_before_the_files_were_written_loses_no_key(self) -> None:
        """The registry has the next rotation already, the directory the end of the
        last one, and the new key lies beside."""
        await self.move(Phase.TRUSTED, Phase.SIGNS, Phase.RETIRED)
        before = self.directory / "before"
        shutil.copytree(self.first_state, before)
        await self.move(Phase.TRUSTED)
        new = next_path(self.first_state / "user_ca")
        key = new.read_bytes()
        self.first.stop()
        shutil.rmtree(self.first_state)
        shutil.copytree(before, self.first_state)
        write_private(new, key)

        self.first = await self.proxy(self.first_state)
        self.assertEqual(self.first.rotation.state("user").phase, Phase.TRUSTED)
        self.assertEqual(new.read_bytes(), key)
        await self.move(Phase.SIGNS)

    async def test_a_key_of_a_rotation_that_never_began_is_removed(self) -> None:
        """The crash came before the registry heard of it."""
        await self.move(Phase.TRUSTED, Phase.SIGNS, Phase.RETIRED)
        new = next_path(self.first_state / "user_ca")
        write_private(new, PrivateKey.generate().to_openssh())
        self.first.stop()
        self.first = await self.proxy(self.first_state)
        self.assertFalse(new.exists())
        await self.move(Phase.TRUSTED, Phase.SIGNS)

    async def test_a_key_that_is_missing_is_named(self) -> None:
        """With what else can be done."""
        await self.move(Phase.TRUSTED)
        new = next_path(self.first_state / "user_ca")
        new.unlink()
        with self.assertRaisesRegex(RotationRefused, f"{new}, or go back with --back"):
            await self.move(Phase.SIGNS)
        await self.move(Phase.STEADY, back=True)
        await self.move(Phase.TRUSTED, Phase.SIGNS)

    async def test_status_says_who_lags_and_what_with(self) -> None:
        """For ``rtunnel ca status --json``."""
        self.second.stop()
        await self.move(Phase.TRUSTED)
        status = await self.first.rotation.status()
        user = status["authorities"]["user"]
        self.assertEqual((user["phase"], user["generation"]), ("trusted", 1))
        [laggard] = user["not_followed"]
        self.assertEqual(laggard["kind"], "proxy")
        self.assertEqual(laggard["name"], "two")
        self.assertEqual(status["authorities"]["host"]["not_followed"], [])

    async def test_who_is_gone_for_good_is_forgotten(self) -> None:
        """Not one that is connected; and one that comes back is waited for again."""
        self.second.stop()
        gone = self.second.credentials.proxy_id
        await self.move(Phase.TRUSTED)
        self.first.connected.add(gone)
        with self.assertRaisesRegex(RotationRefused, "is connected"):
            await self.first.rotation.forget(gone)
        self.first.connected.clear()
        for nobody in ("", "x"):
            with self.assertRaisesRegex(RotationRefused, "that a rotation waits for"):
                await self.first.rotation.forget(nobody)
        await self.first.rotation.forget(gone[:9])
        self.assertEqual(
            self.first.events[-1],
            FollowerForgotten(
                proxy=self.first.credentials.proxy_id, target=f"proxy:{gone}"
            ),
        )
        await self.move(Phase.SIGNS)
        self.second.followers.start()
        self.assertEqual(len(await self.first.rotation.laggards("user")), 1)

    async def test_status_says_which_people_would_be_left_behind(self) -> None:
        """Those with certificates of the old key, while they are good."""
        key = load_authority(self.first_state, "user_ca")
        authority = CertificateAuthority(key, now=lambda: self.now)
        person = PrivateKey.generate().public

        def saw(by: CertificateAuthority, name: str, ttl: float) -> None:
            certificate = by.sign_user(person, name=name, ttl=ttl)
            self.first.people.saw(user_identity(name, certificate))

        saw(authority, "alice", 60)
        await self.move(Phase.TRUSTED)
        self.assertEqual(await self.people(), [])
        await self.move(Phase.SIGNS)
        saw(authority, "bob", 120)
        self.assertEqual(await self.people(), ["alice", "bob"])
        new = load_authority(self.first_state, "user_ca")
        saw(CertificateAuthority(new, now=lambda: self.now), "bob", 60)
        self.assertEqual(await self.people(), ["alice"])

    async def people(self) -> list[str]:
        """Those in the status."""
        user = (await self.first.rotation.status())["authorities"]["user"]
        return [each["name"] for each in user["people_of_other_keys"]]


def _forged(bundle: TrustBundle, thief: PrivateKey, generation: int) -> TrustBundle:
    """The thief's key in the place of the new one, by the thief's own word."""
    return attrs.evolve(
        bundle,
        generation=generation,
        trusted=(thief.public, *bundle.trusted),
        other=thief.public,
    ).signed([thief])
