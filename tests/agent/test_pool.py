"""What the pool decides to dial and to drop."""

from __future__ import annotations

import random
from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent.pool import (
    ALONE_CAP,
    MAX_IN_FLIGHT,
    MAX_PARALLEL,
    NOTICE_AFTER,
    SETTLED,
    STALL,
    Dial,
    Plan,
    Pool,
)
from rtunnel.discovery.messages import DRAINING
from rtunnel.discovery.tracker import ClaimAnswer
from tests.discovery.examples import advert, proxy_id, request

LB = "lb.example.com:3023"
P1, P2, P3 = (proxy_id(number) for number in (1, 2, 3))


def pool(*addresses: str, tunnels: int | None = None, chance: float = 0.5) -> Pool:
    """A pool whose chance is always the same."""
    return Pool(addresses or (LB,), tunnels, lambda: chance)


def targets(plan: Plan) -> list[tuple[str, str | None]]:
    """Where a plan dials, and whom it expects there."""
    return [(dial.address, dial.expected) for dial in plan.dials]


def first_dial(subject: Pool, now: float = 0.0) -> Dial:
    """The only dial of the next plan."""
    (dial,) = subject.plan(now).dials
    return dial


def bring_up(subject: Pool, dial: Dial, proxy: str, now: float = 0.0) -> None:
    """A dial reaches a proxy, and its tunnel comes into service."""
    assert subject.claim(dial, proxy, now) is ClaimAnswer.GRANTED
    subject.in_service(dial, now)


class FirstDialTests(SynchronousTestCase):
    """An agent that knows nobody."""

    def test_balancer_is_dialled_at_once(self) -> None:
        """Any proxy counts."""
        plan = pool().plan(0.0)
        self.assertEqual(targets(plan), [(LB, None)])

    def test_plan_is_not_made_twice(self) -> None:
        """A dial in flight is hoped for."""
        subject = pool()
        first_dial(subject)
        plan = subject.plan(0.1)
        self.assertEqual(plan.dials, ())
        self.assertEqual(plan.wake_at, STALL)

    def test_every_address_is_tried(self) -> None:
        """Nobody knows which of them leads anywhere."""
        plan = pool("a:1", "b:1", "c:1").plan(0.0)
        self.assertEqual([dial.address for dial in plan.dials], ["a:1", "b:1", "c:1"])

    def test_agent_of_one_tunnel_tries_one_address_after_the_other(self) -> None:
        """It would hang up on the second."""
        subject = pool("a:1", "b:1", tunnels=1)
        dial = first_dial(subject)
        self.assertEqual(dial.address, "a:1")
        subject.ended(dial, 0.1)
        self.assertEqual(first_dial(subject, 0.1).address, "b:1")

    def test_dial_that_hangs_is_joined_by_another(self) -> None:
        """One black-holed proxy does not delay the rest."""
        subject = pool()
        first = first_dial(subject)
        second = first_dial(subject, STALL)
        self.assertEqual((first.rotation, second.rotation), (0, 1))

    def test_dials_that_hang_are_bounded(self) -> None:
        """However long everything hangs."""
        subject = pool("a:1", "b:1")
        for step in range(100):
            subject.plan(step * STALL)
        self.assertEqual(subject._undecided(), MAX_IN_FLIGHT)

    def test_address_that_fails_is_tried_for_ever_every_few_seconds(self) -> None:
        """With no tunnel at all the waits stay below 5 s: a restart is noticed."""
        subject = Pool([LB], None, random.Random(5).random)
        now, dialled = 0.0, []
        while now < 600:
            plan = subject.plan(now)
            for dial in plan.dials:
                dialled.append(now)
                subject.ended(dial, now)
            now = max(now + 0.001, subject.plan(now).wake_at)
        gaps = [after - before for before, after in pairwise(dialled)]
        self.assertLessEqual(max(gaps), ALONE_CAP + 0.01)
        self.assertGreater(len(gaps), 600 / ALONE_CAP)
        self.assertLess(len(gaps), 400)

    def test_without_an_address_there_is_no_pool(self) -> None:
        """The config file is to have one."""
        self.assertRaises(ValueError, Pool, [], None, random.random)


class BalancerTests(SynchronousTestCase):
    """Proxies that only the balancer leads to."""

    def setUp(self) -> None:
        """A tunnel to P1, which has told of others."""
        self.pool = pool()
        self.first = first_dial(self.pool)
        bring_up(self.pool, self.first, P1)

    def learn(self, *numbers: int, now: float = 0.0) -> None:
        """P1 lists these proxies."""
        self.pool.learn(self.first, request(*map(advert, numbers)), now)

    def test_several_dials_run_at_once(self) -> None:
        """One more than is missing, four at most."""
        for numbers, dials in (((1,), 0), ((1, 2), 2), ((1, 2, 3), 3)):
            self.setUp()
            self.learn(*numbers)
            self.assertEqual(len(self.pool.plan(0.0).dials), dials)
        self.setUp()
        self.learn(*range(1, 20))
        self.assertEqual(len(self.pool.plan(0.0).dials), MAX_PARALLEL)

    def test_success_is_not_punished(self) -> None:
        """The next dial follows in the same moment."""
        self.learn(1, 2, 3)
        dials = self.pool.plan(0.0).dials
        bring_up(self.pool, dials[0], P2, 0.1)
        for dial in dials[1:]:
            self.assertIs(self.pool.claim(dial, P2, 0.1), ClaimAnswer.TAKEN)
            self.pool.ended(dial, 0.1)
        self.setUp()
        self.learn(1, 2, 3)
        dials = self.pool.plan(0.0).dials
        bring_up(self.pool, dials[0], P2, 0.1)
        # Of three dials two are still in flight, as many as one missing proxy gets.
        self.assertEqual(self.pool.plan(0.1).dials, ())
        bring_up(self.pool, dials[1], P3, 0.1)
        self.learn(1, 2, 3, 4, 5, now=0.1)
        self.assertEqual(len(self.pool.plan(0.1).dials), 2)

    def test_landing_on_a_claimed_proxy_is_tried_again_soon(self) -> None:
        """After a fraction of a second, whoever the proxy was."""
        self.learn(1, 2)
        for dial in self.pool.plan(0.0).dials:
            self.assertIs(self.pool.claim(dial, P1, 0.1), ClaimAnswer.TAKEN)
            self.assertFalse(self.pool.ended(dial, 0.1))
        plan = self.pool.plan(0.1)
        self.assertEqual(plan.dials, ())
        self.assertLess(plan.wake_at, 0.1 + 0.6)
        self.assertEqual(len(self.pool.plan(plan.wake_at).dials), 2)

    def test_failure_is_tried_again_later_and_alone(self) -> None:
        """A balancer that does not answer gets one dial at a time."""
        self.learn(1, 2, 3)
        for dial in self.pool.plan(0.0).dials:
            self.assertTrue(self.pool.ended(dial, 0.1))
        plan = self.pool.plan(0.1)
        self.assertEqual(plan.dials, ())
        self.assertGreater(plan.wake_at, 0.6)
        self.assertEqual(len(self.pool.plan(plan.wake_at).dials), 1)

    def test_complete_agent_dials_nobody(self) -> None:
        """And wakes only to forget."""
        self.learn(1)
        plan = self.pool.plan(0.0)
        self.assertEqual((plan.dials, plan.wake_at), ((), 30.0))

    def test_failures_are_forgotten_after_a_while_in_service(self) -> None:
        """10 s, and not before: a tunnel that breaks at once is no success."""
        for lasted, wait in ((SETTLED - 1, 5.0), (SETTLED + 1, 0.25)):
            subject = pool(chance=0.5)
            now = 0.0
            for _ in range(5):
                subject.ended(first_dial(subject, now), now)
                now += ALONE_CAP
            dial = first_dial(subject, now)
            bring_up(subject, dial, P1, now)
            now += lasted
            subject.plan(now)
            self.assertEqual(subject.ended(dial, now), lasted < SETTLED)
            self.assertLessEqual(subject.plan(now).wake_at - now, wait)
            self.assertGreater(subject.plan(now).wake_at - now, wait / 2 - 0.01)

    def outage(self, seconds: float, hanging: bool) -> tuple[Pool, list[Dial], float]:
        """Nobody answers for so long; the pool, dials under way, and the time then.

        :param hanging: whether dials get no answer at all, or are refused at once.
        """
        subject = Pool([LB], None, random.Random(7).random)
        now = 0.0
        waiting: list[Dial] = []
        while now < seconds:
            for dial in subject.plan(now).dials:
                if hanging:
                    waiting.append(dial)
                else:
                    subject.ended(dial, now)
            now = max(now + 0.01, subject.plan(now).wake_at)
        return subject, waiting, now

    def test_second_tunnel_follows_the_first_after_an_outage(self) -> None:
        """The address has answered: the wait after its failures is over."""
        subject, _, now = self.outage(60, hanging=False)
        bring_up(subject, first_dial(subject, now), P1, now)
        (dial,) = (attempt.dial for attempt in subject._attempts.values())
        subject.learn(dial, request(advert(1), advert(2)), now)
        self.assertEqual(len(subject.plan(now).dials), 2)

    def test_dials_from_before_an_address_answered_say_nothing_of_it(self) -> None:
        """They end when their time is up, and hold nobody back."""
        subject, waiting, now = self.outage(9, hanging=True)
        self.assertGreater(len(waiting), 2)
        bring_up(subject, waiting[-1], P1, now)
        subject.learn(waiting[-1], request(advert(1), advert(2)), now)
        for dial in waiting[:-1]:
            self.assertFalse(subject.ended(dial, now + 1))
        self.assertEqual(len(subject.plan(now + 1).dials), 2)

    def test_tunnels_that_come_up_and_break_are_dialled_less_and_less(self) -> None:
        """That an address answers is no success of its own."""
        subject = pool(chance=1.0)
        now, waits = 0.0, []
        for _ in range(5):
            dial = first_dial(subject, now)
            bring_up(subject, dial, P1, now)
            subject.ended(dial, now)
            waits.append(subject.plan(now).wake_at - now)
            now += waits[-1]
        self.assertEqual(waits, [1.5, 4.5, 5.0, 5.0, 5.0])

    def test_turns_are_taken_among_the_records_of_a_name(self) -> None:
        """Each dial says which of them comes first."""
        self.learn(*range(1, 6))
        rotations = [dial.rotation for dial in self.pool.plan(0.0).dials]
        self.assertEqual(rotations, [1, 2, 3, 4])


class PinnedTests(SynchronousTestCase):
    """A balancer that gives the same proxy each time."""

    def run_pinned(self, seconds: float) -> tuple[Pool, list[tuple[float, Plan]]]:
        """P2 is missing, and every dial lands on P1."""
        subject = Pool([LB], None, random.Random(2).random)
        first = first_dial(subject)
        bring_up(subject, first, P1)
        plans = []
        now = 0.0
        while now < seconds:
            subject.learn(first, request(advert(1), advert(2)), now)
            plan = subject.plan(now)
            plans.append((now, plan))
            for dial in plan.dials:
                assert subject.claim(dial, P1, now) is ClaimAnswer.TAKEN
                subject.ended(dial, now)
            now = max(now + 0.001, min(subject.plan(now).wake_at, now + 5.0))
        return subject, plans

    def test_it_is_said_once(self) -> None:
        """Not at once, because a dead proxy looks the same for a while."""
        _, plans = self.run_pinned(600)
        told = [(now, notice) for now, plan in plans for notice in plan.notices]
        ((when, notice),) = told
        self.assertTrue(NOTICE_AFTER <= when <= NOTICE_AFTER + 6, when)
        self.assertEqual(
            (notice.address, notice.given, notice.missing), (LB, (P1,), (P2,))
        )
        self.assertGreaterEqual(notice.landings, 9)

    def test_dials_are_stretched(self) -> None:
        """A handful in the first seconds, then a few a minute."""
        _, plans = self.run_pinned(600)
        times = [now for now, plan in plans for _ in plan.dials]
        self.assertLess(sum(now < 20 for now in times), 30)
        self.assertLess(sum(now >= 60 for now in times), 9 * 15)
        self.assertGreater(sum(now >= 60 for now in times), 9 * 2)

    def test_new_proxy_gets_quick_dials_again_and_is_told_of(self) -> None:
        """P3 may be one that the balancer does lead to."""
        subject, _ = self.run_pinned(100)
        holder = next(iter(subject._attempts.values())).dial
        subject.learn(holder, request(*map(advert, (1, 2, 3))), 100.0)
        plan = subject.plan(100.0)
        self.assertEqual(len(plan.dials), 3)
        bring_up(subject, plan.dials[0], P3, 100.1)
        self.assertEqual(subject.plan(100.1).notices, ())

    def test_reaching_a_new_proxy_ends_it(self) -> None:
        """The balancer is as good as any other afterwards."""
        subject, _ = self.run_pinned(100)
        now = 100.0
        while not (plan := subject.plan(now)).dials:
            now = plan.wake_at
        bring_up(subject, plan.dials[0], P2, now)
        self.assertFalse(subject._balancers[0].pinned)


class AdvertisedTests(SynchronousTestCase):
    """Proxies that say where they can be dialled."""

    def setUp(self) -> None:
        """A tunnel to P1, which tells of two others with an address each."""
        self.pool = pool(chance=0.0)
        self.first = first_dial(self.pool)
        bring_up(self.pool, self.first, P1)
        self.pool.learn(
            self.first,
            request(
                advert(1, addresses=("p1:3023",), ttl=1000),
                advert(2, addresses=("p2:3023", "p2-b:3023"), ttl=1000),
                advert(3, addresses=("p3:3023",), ttl=1000),
            ),
            0.0,
        )

    def test_they_are_dialled_side_by_side_and_the_balancer_is_not(self) -> None:
        """Each of them is expected at its own address."""
        plan = self.pool.plan(0.0)
        self.assertEqual(targets(plan), [("p2:3023", P2), ("p3:3023", P3)])

    def test_agents_do_not_all_dial_a_new_proxy_in_one_moment(self) -> None:
        """The first dial waits for up to half a second."""
        subject = pool(chance=0.5)
        first = first_dial(subject)
        bring_up(subject, first, P1)
        listed = request(advert(1), advert(2, addresses=("p2:3023",)))
        subject.learn(first, listed, 0.0)
        plan = subject.plan(0.0)
        self.assertEqual((plan.dials, plan.wake_at), ((), 0.25))
        self.assertEqual(targets(subject.plan(0.25)), [("p2:3023", P2)])

    def test_balancer_is_asked_when_an_address_fails(self) -> None:
        """The other address of that proxy is tried as well."""
        dials = self.pool.plan(0.0).dials
        self.pool.ended(dials[0], 0.1)
        self.assertEqual(targets(self.pool.plan(0.1)), [("p2-b:3023", P2)])
        self.pool.ended(dials[1], 0.1)
        self.assertEqual(targets(self.pool.plan(0.1)), [(LB, None), (LB, None)])
        again = self.pool.plan(0.7)
        self.assertEqual(targets(again), [("p3:3023", P3)])

    def test_balancer_is_asked_when_an_address_hangs(self) -> None:
        """A firewall that drops is no reason to wait for the deadline."""
        self.pool.plan(0.0)
        wanted = targets(self.pool.plan(STALL))
        self.assertIn(("p2-b:3023", P2), wanted)
        self.assertIn((LB, None), wanted)

    def test_proxy_reached_through_the_balancer_meanwhile_costs_nothing(self) -> None:
        """The direct dial hangs up, and nobody is to blame."""
        dials = self.pool.plan(0.0).dials
        self.pool.plan(STALL)
        balancer = max(self.pool._attempts.values(), key=lambda a: a.dial.number).dial
        bring_up(self.pool, balancer, P2, STALL)
        self.assertIs(self.pool.claim(dials[0], P2, 2.1), ClaimAnswer.TAKEN)
        self.assertFalse(self.pool.ended(dials[0], 2.1))

    def test_restarted_proxy_is_dialled_again_directly(self) -> None:
        """Its tunnel is lost; its address is still known."""
        for dial in self.pool.plan(0.0).dials:
            assert dial.expected is not None
            bring_up(self.pool, dial, dial.expected)
            lost = dial
        self.pool.plan(60.0)
        self.pool.ended(lost, 60.0)
        self.assertEqual(targets(self.pool.plan(60.0)), [("p3:3023", P3)])

    def test_forgotten_proxy_is_dialled_no_more(self) -> None:
        """Nobody vouches for it: its addresses and their memory are gone."""
        for dial in self.pool.plan(0.0).dials:
            self.pool.ended(dial, 0.0)
        self.pool.learn(self.first, request(advert(1)), 1.0)
        plan = self.pool.plan(100.0)
        self.assertEqual(plan.dials, ())
        self.assertEqual(self.pool._direct, {})

    def test_many_are_dialled_sixteen_at_a_time(self) -> None:
        """The rest follow as these come to an end."""
        adverts = [advert(n, addresses=(f"p{n}:3023",)) for n in range(1, 41)]
        self.pool.learn(self.first, request(*adverts), 0.0)
        self.assertEqual(len(self.pool.plan(0.0).dials), MAX_IN_FLIGHT)


class NumberedTests(SynchronousTestCase):
    """An agent that holds a number of tunnels."""

    def test_direct_dials_are_as_many_as_are_missing(self) -> None:
        """Two of five; the choice is the agent's own."""
        chosen = set()
        for seed in range(20):
            subject = Pool([LB], 3, random.Random(seed).random)
            first = first_dial(subject)
            bring_up(subject, first, P1)
            adverts = [advert(n, addresses=(f"p{n}:3023",)) for n in range(1, 6)]
            subject.learn(first, request(*adverts), 0.0)
            self.assertEqual(subject.plan(0.0).dials, ())
            dials = subject.plan(0.5).dials
            self.assertEqual(len(dials), 2)
            chosen |= {dial.expected for dial in dials}
        self.assertEqual(len(chosen), 4)

    def test_enough_is_no_landing(self) -> None:
        """A dial too many is hung up on without blame."""
        subject = pool("a:1", "b:1", tunnels=1)
        first = first_dial(subject)
        second = first_dial(subject, STALL)
        bring_up(subject, first, P1, 2.5)
        self.assertIs(subject.claim(second, P2, 2.6), ClaimAnswer.ENOUGH)
        self.assertFalse(subject.ended(second, 2.6))
        self.assertEqual(subject._balancers[1].landings, 0)
        self.assertEqual(subject.plan(3.0).dials, ())


class DrainTests(SynchronousTestCase):
    """Proxies that leave, and tunnels that are let go."""

    def test_draining_tunnel_is_replaced_before_it_is_gone(self) -> None:
        """It stays open while another is dialled."""
        subject = pool(tunnels=1)
        first = first_dial(subject)
        bring_up(subject, first, P1)
        subject.learn(first, request(advert(1), advert(2)), 0.0)
        subject.drained(first, by_proxy=True)
        dial = first_dial(subject, 0.0)
        self.assertIs(subject.claim(dial, P1, 0.1), ClaimAnswer.TAKEN)
        subject.ended(dial, 0.1)
        bring_up(subject, first_dial(subject, 1.0), P2, 1.0)
        self.assertEqual(subject.plan(1.0).dials, ())

    def test_proxy_that_drains_is_not_dialled(self) -> None:
        """With every other proxy claimed there is nothing to do."""
        subject = pool()
        first = first_dial(subject)
        bring_up(subject, first, P1)
        listed = request(advert(1), advert(2, state=DRAINING, addresses=("p2:1",)))
        subject.learn(first, listed, 0.0)
        self.assertEqual(subject.plan(1.0).dials, ())

    def test_end_of_a_drained_tunnel_is_no_failure(self) -> None:
        """However short its time in service was."""
        subject = pool()
        first = first_dial(subject)
        bring_up(subject, first, P1)
        subject.drained(first, by_proxy=True)
        self.assertFalse(subject.ended(first, 0.5))
        self.assertEqual(len(subject.plan(0.5).dials), 1)

    def test_surplus_tunnel_is_dropped(self) -> None:
        """The proxy that it replaced has come back."""
        subject = pool(tunnels=1)
        first = first_dial(subject)
        bring_up(subject, first, P1)
        listed = request(advert(1, state=DRAINING), advert(2))
        subject.learn(first, listed, 0.0)
        bring_up(subject, first_dial(subject), P2)
        subject.learn(first, request(advert(1, generation=2), advert(2)), 1.0)
        self.assertEqual(subject.plan(1.0).drops, (P2,))
