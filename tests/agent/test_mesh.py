"""How long an agent takes to find every proxy, and what it costs: in virtual time.

The pool is run against a pretend network (:mod:`tests.agent.worlds`), many times with
many seeds, so the figures are of the algorithm and not of luck.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.discovery.tracker import Phase
from tests.agent.worlds import (
    RESEND,
    TTL,
    Balancing,
    World,
    at_random,
    round_robin,
    source_hash,
)

SEEDS = range(20)


def in_turn(generator: random.Random) -> Balancing:
    """A balancer that gives each proxy in turn."""
    return round_robin()


def pinned(generator: random.Random) -> Balancing:
    """A balancer that always gives this agent the same proxy."""
    return source_hash(7)


def meshes(
    balancing: Callable[[random.Random], Balancing], count: int, direct: bool = False
) -> tuple[list[float], list[int]]:
    """Seconds and dials until an agent has a tunnel to each, for every seed."""
    times, dials = [], []
    for seed in SEEDS:
        world = World(balancing, seed=seed)
        world.start_proxies(count, direct=direct)
        times.append(world.run_until_mesh())
        dials.append(world.dials)
    return times, dials


def expected_dials(count: int) -> float:
    """n·Hₙ: what chance costs at least."""
    return count * sum(1 / k for k in range(1, count + 1))


class MeshTests(SynchronousTestCase):
    """From nothing to a tunnel to every proxy."""

    def test_random_balancer(self) -> None:
        """Two to ten proxies in seconds, with hardly more dials than chance needs."""
        for count, most in ((2, 1.0), (3, 1.5), (5, 3.0), (10, 6.0)):
            times, dials = meshes(at_random, count)
            self.assertLess(statistics.median(times), most, f"{count} proxies")
            self.assertLess(max(times), 10 * most, f"{count} proxies")
            self.assertLess(
                statistics.mean(dials), 1.4 * expected_dials(count) + 1, f"{count}"
            )

    def test_balancer_that_takes_turns(self) -> None:
        """As many dials as proxies and one, in less than a second."""
        for count in (2, 3, 5, 10):
            times, dials = meshes(in_turn, count)
            self.assertLess(max(times), 1.0, f"{count} proxies")
            self.assertLessEqual(max(dials), count + 2, f"{count} proxies")

    def test_advertised_addresses(self) -> None:
        """One dial for each proxy, side by side, whatever the balancer does."""
        for balancing in (at_random, pinned):
            for count in (2, 5, 10):
                times, dials = meshes(balancing, count, direct=True)
                self.assertLess(max(times), 1.0, f"{count} proxies")
                self.assertEqual(set(dials), {count})

    def test_only_as_many_logins_as_tunnels(self) -> None:
        """All other dials hang up in the host-key check."""
        for seed in SEEDS:
            world = World(seed=seed)
            world.start_proxies(5)
            world.run_until_mesh()
            world.run(60)
            self.assertEqual(world.logins, 5)

    def test_complete_agent_is_quiet(self) -> None:
        """Not a single dial in ten minutes."""
        world = World()
        world.start_proxies(5)
        world.run_until_mesh()
        world.run(60)
        dials = world.dials
        world.run(600)
        self.assertEqual(world.dials, dials)

    def test_pinned_balancer_without_addresses(self) -> None:
        """One tunnel, one notice, and some dials a minute for ever."""
        world = World(pinned)
        world.start_proxies(5)
        world.run(1200)
        self.assertEqual(len(world.in_service()), 1)
        (notice,) = world.notices
        self.assertEqual(len(notice.missing), 4)
        self.assertLess(world.dials, 1200 / 6)


class ChangeTests(SynchronousTestCase):
    """Proxies come and go while the agent runs."""

    def test_new_proxy_is_found(self) -> None:
        """Within a second or two by chance, and no other tunnel is touched."""
        times = []
        for seed in SEEDS:
            world = World(seed=seed)
            world.start_proxies(4)
            world.run_until_mesh()
            world.run(30)
            before = world.in_service()
            world.start_proxy()
            times.append(world.run_until_mesh())
            self.assertLess(before, world.in_service())
        self.assertLess(statistics.median(times), 2.0)

    def test_dead_proxy_causes_no_storm(self) -> None:
        """While the others still vouch for it there are some dials, then none."""
        for seed in SEEDS:
            world = World(seed=seed)
            ids = world.start_proxies(3)
            world.run_until_mesh()
            world.run(30)
            before = world.dials
            world.kill_proxy(ids[0])
            world.run(TTL + RESEND)
            self.assertLess(world.dials - before, 40)
            quiet = world.dials
            world.run(60)
            self.assertEqual(world.dials, quiet)
            self.assertEqual(world.notices, [])

    def test_dead_proxy_that_is_vouched_for_for_ever_causes_no_storm(self) -> None:
        """Neither through the balancer nor at its own address."""
        for direct in (False, True):
            world = World()
            ids = world.start_proxies(3, direct=direct)
            world.run_until_mesh()
            world.kill_proxy(ids[0], vouched_for=1e6)
            world.run(60)
            before = world.dials
            world.run(1200)
            self.assertLess(world.dials - before, 1200 / 3)

    def test_only_known_proxy_dies_and_another_appears_six_times(self) -> None:
        """Every name that the agent knows is wrong; it goes on probing the balancer."""
        world = World()
        (current,) = world.start_proxies(1)
        for _ in range(6):
            world.run_until_mesh()
            world.run(20)
            world.kill_proxy(current)
            current = world.start_proxy().id
            self.assertLess(world.run_until_mesh(), 5.0)

    def test_restart_of_everything_is_noticed_within_five_seconds(self) -> None:
        """After minutes of nothing the waits are still short."""
        times = []
        for seed in SEEDS:
            world = World(seed=seed)
            (only,) = world.start_proxies(1)
            world.run_until_mesh()
            world.run(60)
            world.kill_proxy(only)
            world.run(300 + seed)
            world.start_proxy()
            times.append(world.run_until_mesh())
        self.assertLess(statistics.median(times), 5.0)
        self.assertLess(max(times), 6.0)

    def test_draining_proxy_is_left_and_comes_back(self) -> None:
        """A rolling restart: each proxy drains, ends and starts anew."""
        world = World()
        ids = world.start_proxies(3)
        world.run_until_mesh()
        for proxy_id in ids:
            world.run(30)
            world.drain_proxy(proxy_id)
            world.run(5)
            self.assertIs(world.phase(proxy_id), Phase.DRAINING)
            self.assertEqual(len(world.in_service()), 2)
            proxy = world.proxies[proxy_id]
            world.kill_proxy(proxy_id, vouched_for=0.5)
            world.run(1)
            proxy.generation, proxy.state, proxy.in_balancer = 2, "active", True
            world.restart_proxy(proxy)
            self.assertLess(world.run_until_mesh(), 10.0)

    def test_all_proxies_drain_and_start_anew(self) -> None:
        """Nobody is left who could tell of the new generation."""
        for direct in (False, True):
            world = World()
            ids = world.start_proxies(3, direct=direct)
            world.run_until_mesh()
            world.run(30)
            old = [world.proxies[proxy_id] for proxy_id in ids]
            for proxy_id in ids:
                world.drain_proxy(proxy_id)
            for proxy_id in ids:
                world.kill_proxy(proxy_id)
            world.run(2)
            for proxy in old:
                proxy.generation, proxy.state, proxy.in_balancer = 2, "active", True
                world.restart_proxy(proxy)
            self.assertLess(world.run_until_mesh(), 10.0)

    def test_no_dials_while_a_proxy_drains(self) -> None:
        """It is not wanted, and all the others are there."""
        world = World()
        ids = world.start_proxies(3)
        world.run_until_mesh()
        world.run(30)
        dials = world.dials
        world.drain_proxy(ids[0])
        world.run(60)
        self.assertEqual(world.dials, dials)


class LifetimesTests(SynchronousTestCase):
    """Many proxies with lives of their own."""

    def test_sixteen_proxies_of_random_lifetimes(self) -> None:
        """They come within ten seconds in any order; each has its tunnel soon after."""
        for seed in range(3):
            world = World(seed=seed)
            generator = random.Random(seed)
            world.start_proxies(1)
            for _ in range(15):
                world.clock.callLater(generator.uniform(0, 10), world.start_proxy)
            world.run(10)
            self.assertEqual(len(world.proxies), 16)
            self.assertLess(world.run_until_mesh(), 30.0)

    def test_proxies_that_come_and_go(self) -> None:
        """Ten minutes of it; when it ends the mesh is complete and nothing else."""
        for seed in range(3):
            world = World(seed=seed)
            generator = random.Random(seed)
            world.start_proxies(8)
            for _ in range(60):
                world.run(generator.uniform(1, 20))
                alive = sorted(world.proxies)
                if len(alive) > 4 and generator.random() < 0.5:
                    world.kill_proxy(generator.choice(alive))
                elif len(alive) < 16:
                    world.start_proxy(direct=generator.random() < 0.3)
            world.run_until_mesh()
            world.run(TTL + RESEND)
            self.assertEqual(world.in_service(), set(world.proxies))
            known = {proxy.id for proxy in world.pool.tracker.known()}
            self.assertEqual(known, set(world.proxies))

    def test_full_rotation_of_eight(self) -> None:
        """All die at once, eight others come: not one of the old is left."""
        world = World()
        old = world.start_proxies(8)
        world.run_until_mesh()
        world.run(30)
        for proxy_id in old:
            world.kill_proxy(proxy_id)
        self.assertEqual(world.in_service(), set())
        world.run(3)
        new = world.start_proxies(8)
        self.assertLess(world.run_until_mesh(), 30.0)
        world.run(TTL + RESEND)
        self.assertEqual(world.in_service(), set(new))
        self.assertFalse(set(old) & set(world.pool.tracker.claimed()))


class NumberedTests(SynchronousTestCase):
    """An agent that holds two tunnels of five."""

    def test_two_are_held(self) -> None:
        """Never more, and no dials once they are there."""
        for direct in (False, True):
            for seed in SEEDS:
                world = World(tunnels=2, seed=seed)
                world.start_proxies(5, direct=direct)
                world.run(30)
                self.assertEqual(len(world.in_service()), 2)
                dials = world.dials
                world.run(60)
                self.assertEqual(world.dials, dials)

    def test_lost_one_is_replaced(self) -> None:
        """By any other proxy."""
        world = World(tunnels=2)
        world.start_proxies(5)
        world.run(30)
        world.kill_proxy(sorted(world.in_service())[0])
        world.run(10)
        self.assertEqual(len(world.in_service()), 2)
