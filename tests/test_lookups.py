"""Names that several people have looked up."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.lookups import ALL, EACH, Lookups
from tests.agent.reactors import FakeResolver
from tests.test_resolution import FakeReactor


class LookupTests(SynchronousTestCase):
    """:class:`Lookups`, with a resolver that answers when it is told to."""

    def setUp(self) -> None:
        """A resolver that knows one name."""
        self.resolver = FakeResolver({"web1": ["10.0.0.5"]})
        self.lookups = Lookups(FakeReactor(self.resolver))

    def look_up(self, host: str, person: str) -> Deferred[tuple[str, ...]]:
        """Begin."""
        return Deferred.fromCoroutine(self.lookups.resolve(host, person))

    def answer_one(self) -> None:
        """The resolver is done with what was asked for first."""
        self.resolver.waiting.pop(0).resolutionComplete()

    def test_addresses_are_found(self) -> None:
        """As without taking turns."""
        looking = self.look_up("web1", "alice")
        self.resolver.answer()
        self.assertEqual(self.successResultOf(looking), ("10.0.0.5",))
        self.assertEqual(
            self.successResultOf(self.look_up("192.0.2.1", "alice")), ("192.0.2.1",)
        )

    def test_one_person_keeps_nobody_waiting(self) -> None:
        """However many silent names they ask for."""
        slow = [self.look_up(f"slow{n}", "mallory") for n in range(100)]
        quick = self.look_up("web1", "alice")
        self.assertEqual(
            self.resolver.asked, [f"slow{n}" for n in range(EACH)] + ["web1"]
        )
        self.resolver.waiting.pop().resolutionComplete()
        self.assertEqual(self.successResultOf(quick), ("10.0.0.5",))
        while self.resolver.waiting:
            self.answer_one()
            self.assertLessEqual(len(self.resolver.waiting), EACH)
        self.assertEqual([self.successResultOf(each) for each in slow], [()] * 100)

    def test_all_together_leave_threads_to_the_program(self) -> None:
        """And take turns for what they may have."""
        for n in range(ALL):
            self.look_up(f"slow{n}", f"mallory{n // EACH}")
        for n in range(3):
            self.look_up(f"bob{n}", "bob")
        self.look_up("carol0", "carol")
        self.assertEqual(len(self.resolver.waiting), ALL)
        for _ in range(4):
            self.answer_one()
        self.assertEqual(self.resolver.asked[ALL:], ["bob0", "carol0", "bob1", "bob2"])

    def test_who_has_left_still_has_what_runs(self) -> None:
        """The thread is busy; what had not begun never will."""
        looking = [self.look_up(f"slow{n}", "mallory") for n in range(EACH + 1)]
        for each in looking:
            each.cancel()
            self.failureResultOf(each, CancelledError)
        again = self.look_up("web1", "mallory")
        self.assertEqual(len(self.resolver.asked), EACH)
        self.answer_one()
        self.assertEqual(self.resolver.asked[EACH:], ["web1"])
        self.resolver.answer()
        self.assertEqual(self.successResultOf(again), ("10.0.0.5",))

    def test_a_resolver_that_fails_frees_the_place(self) -> None:
        """The error is whoever's asked."""

        def fail(*arguments: object) -> None:
            raise ValueError

        self.resolver.resolveHostName = fail  # type: ignore[assignment, method-assign]
        for _ in range(EACH + 1):
            self.failureResultOf(self.look_up("web1", "alice"), ValueError)
