"""Which proxies are known, claimed and wanted."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.discovery.messages import DRAINING, ProxyAdvert
from rtunnel.discovery.tracker import (
    LEFT_FOR,
    MAX_KNOWN,
    ClaimAnswer,
    Phase,
    Tracker,
)
from tests.discovery.examples import advert, proxy_id, request

P1, P2, P3, P4 = (proxy_id(number) for number in (1, 2, 3, 4))


def known(tracker: Tracker) -> list[str]:
    """Ids of the proxies that somebody vouches for."""
    return [proxy.id for proxy in tracker.known()]


def missing(tracker: Tracker) -> list[str]:
    """Ids of the active proxies without a claim."""
    return [proxy.id for proxy in tracker.missing()]


def serve(tracker: Tracker, *proxy_ids: str) -> None:
    """Take tunnels to these into service."""
    for each in proxy_ids:
        assert tracker.claim(each, 0.0) is ClaimAnswer.GRANTED
        tracker.serve(each)


class KnownTests(SynchronousTestCase):
    """Who is known, and for how long."""

    def test_nobody_is_known_at_first_and_one_tunnel_is_wanted(self) -> None:
        """Whoever answers will do."""
        tracker = Tracker()
        self.assertEqual(tracker.known(), ())
        self.assertEqual(tracker.shortfall(), 1)

    def test_proxy_is_forgotten_when_its_ttl_is_over(self) -> None:
        """Not before, and not a moment later."""
        tracker = Tracker()
        tracker.learn(P1, request(advert(2, ttl=10)), 100.0)
        tracker.expire(109.9)
        self.assertEqual(known(tracker), [P2])
        self.assertEqual(tracker.next_expiry(), 110.0)
        tracker.expire(110.0)
        self.assertEqual(known(tracker), [])

    def test_proxy_is_known_as_long_as_anybody_vouches_for_it(self) -> None:
        """The last word counts, whoever has it."""
        tracker = Tracker()
        tracker.learn(P1, request(advert(3, ttl=10)), 0.0)
        tracker.learn(P2, request(advert(3, ttl=20)), 0.0)
        tracker.expire(15.0)
        self.assertEqual(known(tracker), [P3])
        tracker.expire(20.0)
        self.assertEqual(known(tracker), [])

    def test_list_of_a_source_replaces_its_last_one(self) -> None:
        """Whom the only source leaves out is forgotten at once."""
        tracker = Tracker()
        tracker.learn(P1, request(advert(2), advert(3)), 0.0)
        tracker.learn(P1, request(advert(3)), 1.0)
        self.assertEqual(known(tracker), [P3])

    def test_proxy_that_one_source_leaves_out_is_kept_for_the_other(self) -> None:
        """Proxies with different views do not take each other's word back."""
        tracker = Tracker()
        tracker.learn(P1, request(advert(1)), 0.0)
        tracker.learn(P2, request(advert(2)), 0.0)
        tracker.learn(P1, request(advert(1)), 1.0)
        self.assertEqual(known(tracker), [P1, P2])

    def test_claimed_proxy_is_forgotten_when_its_tunnel_is_gone(self) -> None:
        """A tunnel outlives what was said; then nothing is left."""
        tracker = Tracker()
        tracker.learn(P1, request(advert(1, ttl=10)), 0.0)
        serve(tracker, P1)
        tracker.expire(50.0)
        self.assertEqual(tracker.held(), (P1,))
        tracker.release(P1, 51.0)
        self.assertEqual((known(tracker), tracker.held()), ([], ()))

    def test_highest_generation_counts(self) -> None:
        """A word about an earlier life of a proxy says nothing about this one."""
        tracker = Tracker()
        new = advert(3, generation=2, addresses=("new:1",))
        tracker.learn(P1, request(new), 0.0)
        old = advert(3, generation=1, addresses=("old:1",), state=DRAINING)
        tracker.learn(P2, request(old), 1.0)
        (proxy,) = tracker.known()
        self.assertEqual((proxy.addresses, proxy.state), (("new:1",), "active"))

    def test_draining_wins_within_a_generation(self) -> None:
        """A proxy does not become active again without starting anew."""
        tracker = Tracker()
        tracker.learn(P1, request(advert(3, state=DRAINING)), 0.0)
        tracker.learn(P2, request(advert(3)), 1.0)
        self.assertEqual(missing(tracker), [])
        tracker.learn(P2, request(advert(3, generation=2)), 2.0)
        self.assertEqual(missing(tracker), [P3])

    def test_proxys_own_word_wins_within_a_generation(self) -> None:
        """What others say of it is older."""
        tracker = Tracker()
        tracker.learn(P1, request(advert(3, state=DRAINING, generation=2)), 0.0)
        tracker.learn(P3, request(advert(3, generation=2)), 0.0)
        self.assertEqual(missing(tracker), [P3])
        tracker.learn(P1, request(advert(3, generation=3, state=DRAINING)), 0.0)
        self.assertEqual(missing(tracker), [])

    def test_256_proxies_are_remembered(self) -> None:
        """What more there are is passed over; those that are known stay."""
        tracker = Tracker()
        for block in range(0, MAX_KNOWN + 64, 64):
            adverts = [advert(number) for number in range(block, block + 64)]
            tracker.learn(proxy_id(9000 + block), request(*adverts), 0.0)
        self.assertEqual(len(known(tracker)), MAX_KNOWN)
        self.assertEqual(known(tracker)[-1], proxy_id(MAX_KNOWN - 1))


class ClaimTests(SynchronousTestCase):
    """One tunnel to each proxy."""

    def test_second_claim_is_refused(self) -> None:
        """While the first is being established, in service or draining."""
        tracker = Tracker()
        self.assertIs(tracker.claim(P1, 0.0), ClaimAnswer.GRANTED)
        self.assertIs(tracker.claim(P1, 0.0), ClaimAnswer.TAKEN)
        tracker.serve(P1)
        self.assertIs(tracker.claim(P1, 0.0), ClaimAnswer.TAKEN)
        tracker.drain(P1, by_proxy=False)
        self.assertIs(tracker.claim(P1, 0.0), ClaimAnswer.TAKEN)
        tracker.release(P1, 0.0)
        self.assertIs(tracker.claim(P1, 0.0), ClaimAnswer.GRANTED)

    def test_proxy_that_nobody_told_of_may_be_claimed(self) -> None:
        """The first one always is such a proxy."""
        tracker = Tracker()
        tracker.learn(P1, request(advert(1)), 0.0)
        self.assertIs(tracker.claim(P2, 0.0), ClaimAnswer.GRANTED)

    def test_draining_proxy_may_not(self) -> None:
        """A balancer may go on leading to it for a while."""
        tracker = Tracker()
        serve(tracker, P1)
        tracker.learn(P1, request(advert(2, state=DRAINING)), 0.0)
        self.assertIs(tracker.claim(P2, 0.0), ClaimAnswer.LEAVING)

    def test_draining_proxy_may_be_when_there_is_no_tunnel_at_all(self) -> None:
        """All proxies were started anew, and nobody was there to tell of it."""
        tracker = Tracker()
        serve(tracker, P1, P2)
        tracker.learn(P1, request(advert(1), advert(2)), 0.0)
        tracker.learn(P2, request(advert(1, state=DRAINING), advert(2)), 0.0)
        for each in (P1, P2):
            tracker.drain(each, by_proxy=True)
        for each in (P1, P2):
            tracker.release(each, 1.0)
        self.assertIs(tracker.claim(P1, 2.0), ClaimAnswer.GRANTED)
        self.assertEqual(tracker.held(), (P1,))
        self.assertIs(tracker.claim(P2, 2.0), ClaimAnswer.LEAVING)
        renewed = request(advert(1, generation=2), advert(2, generation=2))
        tracker.learn(P1, renewed, 2.1)
        self.assertIs(tracker.claim(P2, 2.2), ClaimAnswer.GRANTED)

    def test_claim_establishes_then_serves(self) -> None:
        """The phases are there to be shown."""
        tracker = Tracker()
        self.assertIsNone(tracker.phase(P1))
        tracker.claim(P1, 0.0)
        self.assertIs(tracker.phase(P1), Phase.ESTABLISHING)
        tracker.serve(P1)
        self.assertEqual(tracker.claimed(), {P1: Phase.IN_SERVICE})

    def test_what_is_not_claimed_cannot_be_served_drained_or_released(self) -> None:
        """These would be faults of ours."""
        tracker = Tracker()
        self.assertRaises(KeyError, tracker.serve, P1)
        self.assertRaises(KeyError, tracker.drain, P1, by_proxy=True)
        self.assertRaises(KeyError, tracker.release, P1, 0.0)


class WantedTests(SynchronousTestCase):
    """How many tunnels are missing."""

    def test_each_active_proxy_wants_one(self) -> None:
        """The one that has a tunnel is not missing."""
        tracker = Tracker()
        serve(tracker, P1)
        tracker.learn(P1, request(*map(advert, (1, 2, 3))), 0.0)
        self.assertEqual(missing(tracker), [P2, P3])
        self.assertEqual((tracker.shortfall(), tracker.population()), (2, 3))

    def test_claimed_proxy_that_is_not_listed_takes_no_others_place(self) -> None:
        """A tunnel to a stranger does not make one to P2 unneeded."""
        tracker = Tracker()
        serve(tracker, P4)
        tracker.learn(P4, request(advert(1), advert(2)), 0.0)
        self.assertEqual((tracker.shortfall(), tracker.population()), (2, 3))

    def test_draining_proxies_want_none(self) -> None:
        """Neither those said to drain nor those that say so themselves."""
        tracker = Tracker()
        serve(tracker, P1, P2)
        listed = request(advert(1), advert(2), advert(3, state=DRAINING))
        tracker.learn(P1, listed, 0.0)
        tracker.drain(P2, by_proxy=True)
        self.assertEqual(tracker.held(), (P1,))
        self.assertEqual(tracker.shortfall(), 0)

    def test_proxy_that_left_is_not_wanted_on_the_word_of_others(self) -> None:
        """They are late; a new generation or some time is needed."""
        tracker = Tracker()
        serve(tracker, P1, P2)
        tracker.learn(P1, request(advert(1), advert(2)), 0.0)
        tracker.drain(P2, by_proxy=True)
        tracker.release(P2, 5.0)
        tracker.learn(P1, request(advert(1), advert(2)), 5.0)
        self.assertEqual(missing(tracker), [])
        self.assertIs(tracker.claim(P2, 5.0), ClaimAnswer.LEAVING)
        self.assertEqual(tracker.next_expiry(), 35.0)
        tracker.expire(5.0 + LEFT_FOR - 0.1)
        self.assertEqual(missing(tracker), [])

        tracker.learn(P1, request(advert(1), advert(2, ttl=300)), 6.0)
        tracker.expire(5.0 + LEFT_FOR)
        self.assertEqual(missing(tracker), [P2])

    def test_proxy_that_left_and_started_anew_is_wanted_at_once(self) -> None:
        """Its generation says that this is another life."""
        tracker = Tracker()
        serve(tracker, P1, P2)
        tracker.learn(P1, request(advert(1), advert(2)), 0.0)
        tracker.drain(P2, by_proxy=True)
        tracker.release(P2, 1.0)
        tracker.learn(P1, request(advert(1), advert(2, generation=2)), 1.0)
        self.assertEqual(missing(tracker), [P2])
        self.assertIs(tracker.claim(P2, 1.0), ClaimAnswer.GRANTED)

    def test_tunnel_that_we_drain_is_not_held_against_its_proxy(self) -> None:
        """When it is gone the proxy may be claimed again."""
        tracker = Tracker()
        serve(tracker, P1)
        tracker.drain(P1, by_proxy=False)
        self.assertEqual(tracker.shortfall(), 1)
        tracker.release(P1, 0.0)
        self.assertIs(tracker.claim(P1, 0.0), ClaimAnswer.GRANTED)

    def test_with_no_tunnel_one_is_wanted_whatever_is_known(self) -> None:
        """Every proxy that was known may be dead, and a new one there."""
        tracker = Tracker()
        tracker.learn(P1, request(advert(1, state=DRAINING)), 0.0)
        self.assertEqual(tracker.shortfall(), 1)


class NumberedTests(SynchronousTestCase):
    """An agent that is to hold so many tunnels and no more."""

    def test_so_many_are_wanted(self) -> None:
        """Of five proxies, two."""
        tracker = Tracker(2)
        serve(tracker, P1)
        tracker.learn(P1, request(*map(advert, range(1, 6))), 0.0)
        self.assertEqual(tracker.shortfall(), 1)
        serve(tracker, P2)
        self.assertEqual(tracker.shortfall(), 0)
        self.assertIs(tracker.claim(P3, 0.0), ClaimAnswer.ENOUGH)

    def test_no_more_are_wanted_than_there_are_proxies(self) -> None:
        """Two of one is one."""
        tracker = Tracker(2)
        serve(tracker, P1)
        tracker.learn(P1, request(advert(1)), 0.0)
        self.assertEqual(tracker.shortfall(), 0)

    def test_draining_tunnel_is_replaced_before_it_goes(self) -> None:
        """It does not count, so another may be claimed."""
        tracker = Tracker(1)
        serve(tracker, P1)
        tracker.learn(P1, request(advert(1), advert(2)), 0.0)
        tracker.drain(P1, by_proxy=True)
        self.assertEqual(tracker.shortfall(), 1)
        self.assertIs(tracker.claim(P2, 0.0), ClaimAnswer.GRANTED)
        self.assertEqual(tracker.surplus(), ())
        self.assertFalse(tracker.all_in_service())
        tracker.serve(P2)
        self.assertTrue(tracker.all_in_service())

    def test_surplus_is_the_newest(self) -> None:
        """A proxy comes back although it was replaced: the replacement goes."""
        tracker = Tracker(1)
        serve(tracker, P1)
        tracker.learn(P1, request(advert(1, state=DRAINING), advert(2)), 0.0)
        serve(tracker, P2)
        self.assertEqual(tracker.surplus(), ())
        tracker.learn(P1, request(advert(1, generation=2), advert(2)), 1.0)
        self.assertEqual(tracker.surplus(), (P2,))

    def test_number_is_at_least_one(self) -> None:
        """An agent without tunnels is none."""
        self.assertRaises(ValueError, Tracker, 0)


class TrackerMachine(RuleBasedStateMachine):
    """Anything in any order, against rules that hold at all times."""

    ids = st.integers(1, 6).map(proxy_id)
    lists = st.lists(
        st.builds(
            ProxyAdvert,
            id=st.integers(1, 6).map(proxy_id),
            addresses=st.just(()),
            generation=st.integers(1, 3),
            state=st.sampled_from(["active", "draining"]),
            ttl=st.sampled_from([5.0, 20.0]),
        ),
        max_size=6,
        unique_by=lambda advert: advert.id,
    )

    @initialize(tunnels=st.none() | st.integers(1, 3))
    def begin(self, tunnels: int | None) -> None:
        """An agent starts."""
        self.tracker = Tracker(tunnels)
        self.now = 0.0
        self.claims: dict[str, Phase] = {}
        #: (source, proxy id) → when that word ends
        self.words: dict[tuple[str, str], float] = {}

    @rule(source=ids, adverts=lists)
    def learn(self, source: str, adverts: list[ProxyAdvert]) -> None:
        """A discovery request comes."""
        self.tracker.learn(source, request(*adverts), self.now)
        self.words = {k: end for k, end in self.words.items() if k[0] != source}
        for each in adverts:
            self.words[source, each.id] = self.now + each.ttl

    @rule(seconds=st.sampled_from([0.5, 4.5, 5.0, 30.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.tracker.expire(self.now)

    @rule(proxy=ids)
    def claim(self, proxy: str) -> None:
        """A dial reaches a proxy."""
        held = len(self.tracker.held())
        answer = self.tracker.claim(proxy, self.now)
        if not held and proxy not in self.claims:
            assert answer is ClaimAnswer.GRANTED
        if proxy in self.claims:
            assert answer is ClaimAnswer.TAKEN
        if answer is ClaimAnswer.GRANTED:
            assert self.tracker.tunnels is None or held < self.tracker.tunnels
            self.claims[proxy] = Phase.ESTABLISHING
            assert proxy in self.tracker.held()
            if proxy not in known(self.tracker):
                # It was said to be leaving, by whoever said something.
                self.words = {k: end for k, end in self.words.items() if k[1] != proxy}
        if answer is ClaimAnswer.ENOUGH:
            assert self.tracker.tunnels is not None
            assert held >= self.tracker.tunnels

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), by_proxy=st.booleans())
    def go_on(self, data: st.DataObject, by_proxy: bool) -> None:
        """A claim's tunnel comes up, drains, or is gone."""
        proxy = data.draw(st.sampled_from(sorted(self.claims)))
        match data.draw(st.sampled_from(["serve", "drain", "release"])):
            case "serve" if self.claims[proxy] is Phase.ESTABLISHING:
                self.tracker.serve(proxy)
                self.claims[proxy] = Phase.IN_SERVICE
            case "drain":
                self.tracker.drain(proxy, by_proxy=by_proxy)
                self.claims[proxy] = Phase.DRAINING
            case "release":
                self.tracker.release(proxy, self.now)
                del self.claims[proxy]

    @invariant()
    def claims_are_what_was_granted(self) -> None:
        """None is lost, none is made up."""
        assert self.tracker.claimed() == self.claims

    @invariant()
    def known_are_those_that_somebody_vouches_for(self) -> None:
        """Exactly while a word about them holds."""
        vouched = {proxy for (_, proxy), end in self.words.items() if end > self.now}
        assert set(known(self.tracker)) == vouched

    @invariant()
    def wanted_and_held_are_apart(self) -> None:
        """What is missing has no claim; what is held is claimed and not leaving."""
        tracker = self.tracker
        assert not set(missing(tracker)) & self.claims.keys()
        assert set(tracker.held()) <= self.claims.keys()
        assert set(missing(tracker)) <= set(known(tracker))

    @invariant()
    def shortfall_is_never_absurd(self) -> None:
        """At least one with none held; never beyond the number asked for."""
        tracker = self.tracker
        held, shortfall = len(tracker.held()), tracker.shortfall()
        assert shortfall >= 0
        if not held:
            assert shortfall >= 1
        if tracker.tunnels is not None:
            assert held + shortfall <= max(tracker.tunnels, held)
            assert len(tracker.surplus()) == max(0, held - tracker.tunnels)
        elif held:
            assert shortfall == len(missing(tracker))


class AnyOrderTests(SynchronousTestCase):
    """The tracker under everything that can happen to it."""

    def test_rules_hold_whatever_happens(self) -> None:
        """See :class:`TrackerMachine`."""
        run_state_machine_as_test(
            TrackerMachine,
            settings=settings(deadline=None, max_examples=150, stateful_step_count=30),
        )
