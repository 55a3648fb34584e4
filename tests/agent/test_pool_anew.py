"""Tunnels that are made anew: what the pool dials, and which tunnel has the claim."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent.pool import Dial, Pool
from rtunnel.agent.succession import MAX_REPLACEMENTS
from rtunnel.discovery.tracker import ClaimAnswer, Phase
from tests.agent.test_pool import LB, P1, P2, P3, bring_up, first_dial, pool, targets
from tests.discovery.examples import advert, request


def two_tunnels(tunnels: int | None = None) -> tuple[Pool, Dial, Dial]:
    """Proxies 1 and 2 have tunnels; both are reached directly."""
    subject = pool(tunnels=tunnels, chance=0.0)
    first = first_dial(subject)
    bring_up(subject, first, P1)
    both = [advert(n, addresses=(f"p{n}:3023",), ttl=1e5) for n in (1, 2)]
    subject.learn(first, request(*both), 0.0)
    second = first_dial(subject, 1.0)
    bring_up(subject, second, P2, 1.0)
    subject.learn(second, request(*both), 1.0)
    assert subject.plan(1.0).dials == ()
    return subject, first, second


class AnewTests(SynchronousTestCase):
    """One tunnel to each proxy."""

    def test_its_proxy_is_dialled_as_if_it_had_none(self) -> None:
        """Only that one; and the tunnel serves meanwhile."""
        subject, first, _ = two_tunnels()
        subject.make_anew(P1)
        plan = subject.plan(2.0)
        self.assertEqual(targets(plan), [("p1:3023", P1)])
        self.assertEqual(subject.tracker.phase(P1), Phase.IN_SERVICE)
        self.assertEqual(len(subject.tracker.held()), 2)
        [dial] = plan.dials
        self.assertIs(subject.claim(dial, P1, 2.0), ClaimAnswer.GRANTED)
        self.assertEqual(subject.replaced_by(dial), first.number)
        self.assertEqual(subject.in_service(dial, 2.1), first.number)
        subject.drained(first, by_proxy=False)
        self.assertEqual(subject.tracker.phase(P1), Phase.IN_SERVICE)
        self.assertFalse(subject.ended(first, 3.0, by_us=True))
        self.assertEqual(subject.tracker.phase(P1), Phase.IN_SERVICE)
        self.assertEqual(subject.plan(3.0).dials, ())

    def test_one_dial_at_a_time_may_take_over(self) -> None:
        """Others that land there hang up."""
        subject, _, _ = two_tunnels()
        subject.make_anew(P1)
        [dial] = subject.plan(2.0).dials
        subject.claim(dial, P1, 2.0)
        self.assertIs(subject.tracker.claim(P1, 2.0), ClaimAnswer.TAKEN)
        self.assertEqual(subject.plan(2.5).dials, ())

    def test_through_a_balancer_the_right_proxy_is_waited_for(self) -> None:
        """Landings on the others are no replacements."""
        subject = pool(chance=0.0)
        first = first_dial(subject)
        bring_up(subject, first, P1)
        subject.learn(first, request(advert(1), advert(2)), 0.0)
        other, *_ = subject.plan(0.1).dials
        bring_up(subject, other, P2, 0.1)
        for dial in subject.plan(0.1).dials:
            subject.ended(dial, 0.1, by_us=True)
        subject.make_anew(P1)
        dials = subject.plan(1.0).dials
        self.assertTrue(dials)
        self.assertIs(subject.claim(dials[0], P2, 1.0), ClaimAnswer.TAKEN)
        subject.ended(dials[0], 1.0)
        again = [*dials[1:], *subject.plan(2.0).dials]
        self.assertIs(subject.claim(again[0], P1, 2.0), ClaimAnswer.GRANTED)

    def test_a_failed_replacement_leaves_the_tunnel_and_is_tried_again(self) -> None:
        """A few times; a proxy that is too old for it keeps its tunnel."""
        subject, _, _ = two_tunnels()
        subject.make_anew(P1)
        now, attempts = 2.0, 0
        while now < 600:
            for dial in subject.plan(now).dials:
                if dial.expected == P1:
                    attempts += 1
                    subject.claim(dial, P1, now)
                subject.ended(dial, now)
            now += 1.0
        self.assertEqual(attempts, MAX_REPLACEMENTS)
        self.assertEqual(subject.tracker.phase(P1), Phase.IN_SERVICE)
        subject.make_anew(P1)
        self.assertTrue(subject.plan(now).dials)

    def test_a_tunnel_that_breaks_meanwhile_is_succeeded(self) -> None:
        """The claim passes to the dial that is under way; nobody dials a third time."""
        subject, first, _ = two_tunnels()
        subject.make_anew(P1)
        [dial] = subject.plan(2.0).dials
        subject.claim(dial, P1, 2.0)
        subject.ended(first, 2.1)
        self.assertEqual(subject.tracker.phase(P1), Phase.ESTABLISHING)
        self.assertEqual(subject.plan(2.2).dials, ())
        self.assertIsNone(subject.replaced_by(dial))
        self.assertIsNone(subject.in_service(dial, 2.3))
        self.assertEqual(subject.tracker.phase(P1), Phase.IN_SERVICE)

    def test_what_is_not_in_service_need_not_be_made_anew(self) -> None:
        """It is made with what is new already."""
        subject = pool()
        dial = first_dial(subject)
        subject.claim(dial, P1, 0.0)
        subject.make_anew(P1)
        subject.make_anew(P3)
        self.assertEqual(subject.tracker.missing(), ())

    def test_a_proxy_that_leaves_is_not_dialled_again(self) -> None:
        """Whatever was to be made anew."""
        subject, first, _ = two_tunnels()
        subject.make_anew(P1)
        subject.drained(first, by_proxy=True)
        self.assertEqual(targets(subject.plan(2.0)), [])


class NumberedTests(SynchronousTestCase):
    """An agent that holds a number of tunnels, fewer than there are proxies."""

    def test_another_proxy_may_take_the_place(self) -> None:
        """The old tunnel is retired only when enough new ones are in service."""
        subject, _, _ = two_tunnels(tunnels=2)
        subject.make_anew(P1)
        subject.make_anew(P2)
        plan = subject.plan(2.0)
        self.assertEqual((plan.drops, plan.retires), ((), ()))
        dials = list(plan.dials)
        bring_up(subject, dials[0], P3, 2.0)
        self.assertEqual(subject.plan(2.1).retires, ())
        for dial in dials[1:]:
            bring_up(subject, dial, dial.expected or P1, 2.1)
        for dial in subject.plan(3.0).dials:
            bring_up(subject, dial, dial.expected or P1, 3.0)
        [retired] = subject.plan(3.1).retires
        self.assertIn(retired, (P1, P2))
        self.assertEqual(subject.plan(3.1).drops, ())

    def test_no_more_dials_are_let_in_than_are_to_be_held(self) -> None:
        """Those under way count."""
        subject, _, _ = two_tunnels(tunnels=2)
        subject.make_anew(P1)
        [dial, *_] = subject.plan(2.0).dials
        subject.claim(dial, P3, 2.0)
        self.assertIs(subject.tracker.claim(P1, 2.0), ClaimAnswer.ENOUGH)


class AnyOrderTests(SynchronousTestCase):
    """Whatever happens, in whichever order."""

    @settings(deadline=None, max_examples=100)
    @given(st.integers(0, 2**32), st.sampled_from([None, 1, 2]))
    def test_each_proxy_has_one_claim_and_every_tunnel_comes_back(
        self, seed: int, tunnels: int | None
    ) -> None:
        """No dial is lost track of, and in the end all is in service and new."""
        chance = random.Random(seed)
        subject = Pool([LB], tunnels, chance.random)
        proxies, now = (P1, P2, P3), 0.0
        everybody = request(*(advert(n, ttl=1e5) for n in (1, 2, 3)))
        dialling: list[Dial] = []
        claimed: dict[int, tuple[Dial, str]] = {}
        serving: dict[int, tuple[Dial, str]] = {}

        def act(disturb: bool) -> None:
            for dial in list(dialling):
                dialling.remove(dial)
                proxy = chance.choice(proxies)
                if disturb and chance.random() < 0.3:
                    subject.ended(dial, now)
                elif subject.claim(dial, proxy, now) is ClaimAnswer.GRANTED:
                    claimed[dial.number] = (dial, proxy)
                else:
                    subject.ended(dial, now)
            for number, (dial, proxy) in list(claimed.items()):
                del claimed[number]
                if disturb and chance.random() < 0.3:
                    subject.ended(dial, now)
                    continue
                replaced = subject.in_service(dial, now)
                if replaced is not None:
                    old, _ = serving.pop(replaced)
                    subject.drained(old, by_proxy=False)
                    subject.ended(old, now, by_us=True)
                serving[number] = (dial, proxy)
                subject.learn(dial, everybody, now)
            for number, (dial, proxy) in list(serving.items()):
                if disturb and chance.random() < 0.1:
                    del serving[number]
                    subject.ended(dial, now)
                elif disturb and chance.random() < 0.2:
                    subject.make_anew(proxy)
            plan = subject.plan(now)
            for number, (dial, proxy) in list(serving.items()):
                if proxy in (*plan.retires, *plan.drops):
                    del serving[number]
                    subject.drained(dial, by_proxy=False)
                    subject.ended(dial, now, by_us=True)
            dialling.extend(plan.dials)
            held = [proxy for _, proxy in serving.values()]
            self.assertEqual(len(held), len(set(held)), "two tunnels to a proxy")

        for disturb in (True, False):
            for _ in range(60 if disturb else 400):
                now += 0.5
                act(disturb)
        self.assertEqual(len(serving), tunnels or len(proxies))
        self.assertEqual(subject.tracker.shortfall(), 0)
