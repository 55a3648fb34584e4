"""What every registry backend must do; each backend's tests inherit this suite."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import RegistryError
from rtunnel.registry.interface import MAX_KEY, MAX_VALUE, Entry, Registry

T = TypeVar("T")


# A mixin, or trial would run it without a backend; the type checker sees a test case.
if TYPE_CHECKING:
    _Case = SynchronousTestCase
else:
    _Case = object


class Counter:
    """A callback."""

    stop: Callable[[], None]
    calls = 0

    def __call__(self) -> None:
        self.calls += 1


class RegistryContract(_Case):
    """Mixed into a ``SynchronousTestCase`` that says how registries are made.

    ``open`` gives another view of the same store each time it is called: the same
    object where a backend cannot be shared.
    """

    def open(self) -> Registry:
        """A started registry on the store of this test."""
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        """Let times to live run, and changes be noticed."""
        raise NotImplementedError

    def now(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that must have one at once."""
        result: T = self.successResultOf(Deferred.fromCoroutine(work))
        return result

    def refused(self, work: Coroutine[Any, Any, object]) -> str:
        """The sentence of a RegistryError."""
        failed = Deferred.fromCoroutine(work)
        return str(self.failureResultOf(failed, RegistryError).value)

    def counted(self, registry: Registry, prefix: str = "") -> Counter:
        """A watch that counts its calls."""
        counter = Counter()
        counter.stop = registry.watch(prefix, counter)
        self.pass_time(1)
        counter.calls = 0
        return counter

    # Reading and writing

    def test_what_is_put_can_be_read(self) -> None:
        """Here and through another view of the store."""
        one, two = self.open(), self.open()
        entry = self.now(one.put("a/1", '{"x": "ü"}'))
        self.assertEqual(entry, Entry("a/1", '{"x": "ü"}', entry.revision))
        for registry in (one, two):
            self.assertEqual(self.now(registry.get("a/1")), entry)

    def test_what_was_never_put_is_none(self) -> None:
        """Neither is it listed."""
        registry = self.open()
        self.assertIsNone(self.now(registry.get("a/1")))
        self.assertEqual(self.now(registry.list("")), ())

    def test_list_gives_what_begins_with_the_prefix_in_order(self) -> None:
        """Characters that mean something to a database mean nothing here."""
        registry = self.open()
        for key in ("b", "a/2", "a%", "a/10", "a0", "a_", "A/1", "a/~", "a/"):
            self.now(registry.put(key, "v"))
        keys = [entry.key for entry in self.now(registry.list("a/"))]
        self.assertEqual(keys, ["a/", "a/10", "a/2", "a/~"])
        self.assertEqual(len(self.now(registry.list(""))), 9)
        self.assertEqual(len(self.now(registry.list("a_"))), 1)

    def test_revisions_grow_with_every_write(self) -> None:
        """Over all keys, and also when the value is the same."""
        one, two = self.open(), self.open()
        revisions = [
            self.now(registry.put(key, "v")).revision
            for registry, key in ((one, "a"), (two, "b"), (one, "a"), (two, "a"))
        ]
        self.assertEqual(revisions, sorted(set(revisions)))

    def test_revisions_never_come_back(self) -> None:
        """A key that is made anew is not mistaken for the old one."""
        registry = self.open()
        old = self.now(registry.put("a", "1"))
        self.now(registry.delete("a"))
        self.now(registry.put("a", "1"))
        self.assertIsNone(
            self.now(registry.compare_and_swap("a", "2", old.revision, None))
        )

    # Compare and swap

    def test_of_many_who_swap_one_succeeds(self) -> None:
        """All have read the same revision."""
        views = [self.open() for _ in range(5)]
        before = self.now(views[0].put("a", "0"))
        swapped = [
            self.now(view.compare_and_swap("a", str(number), before.revision))
            for number, view in enumerate(views, 1)
        ]
        self.assertEqual([entry is not None for entry in swapped], [True] + [False] * 4)
        self.assertEqual(self.now(views[4].get("a")), swapped[0])

    def test_of_many_who_create_one_succeeds(self) -> None:
        """None stands for no entry at all."""
        one, two = self.open(), self.open()
        first = self.now(one.compare_and_swap("a", "1", None))
        self.assertIsNotNone(first)
        self.assertIsNone(self.now(two.compare_and_swap("a", "2", None)))
        self.assertEqual(self.now(two.get("a")), first)

    def test_a_swap_of_what_is_gone_fails(self) -> None:
        """And does not bring it back."""
        registry = self.open()
        before = self.now(registry.put("a", "1"))
        self.now(registry.delete("a"))
        swapped = registry.compare_and_swap("a", "2", before.revision)
        self.assertIsNone(self.now(swapped))
        self.assertIsNone(self.now(registry.get("a")))

    # Deleting

    def test_of_many_who_delete_one_hears_true(self) -> None:
        """What is used once is used by one."""
        one, two = self.open(), self.open()
        self.now(one.put("a", "1"))
        self.assertTrue(self.now(two.delete("a")))
        self.assertFalse(self.now(one.delete("a")))
        self.assertIsNone(self.now(one.get("a")))

    def test_delete_can_be_for_one_revision_only(self) -> None:
        """What somebody wrote since stays."""
        registry = self.open()
        old = self.now(registry.put("a", "1"))
        new = self.now(registry.put("a", "2"))
        self.assertFalse(self.now(registry.delete("a", old.revision)))
        self.assertEqual(self.now(registry.get("a")), new)
        self.assertTrue(self.now(registry.delete("a", new.revision)))

    # Time to live

    def test_an_entry_runs_out(self) -> None:
        """For get, list, delete and compare_and_swap alike; others stay."""
        one, two = self.open(), self.open()
        short = self.now(one.put("a/short", "1", 10.0))
        self.now(one.put("a/long", "1", 100.0))
        self.now(one.put("a/forever", "1"))
        self.pass_time(9.5)
        self.assertEqual(self.now(two.get("a/short")), short)
        self.pass_time(1)
        for registry in (one, two):
            self.assertIsNone(self.now(registry.get("a/short")))
            self.assertEqual(
                [entry.key for entry in self.now(registry.list("a/"))],
                ["a/forever", "a/long"],
            )
        self.assertFalse(self.now(two.delete("a/short")))
        stale = two.compare_and_swap("a/short", "2", short.revision, 10.0)
        self.assertIsNone(self.now(stale))
        anew = two.compare_and_swap("a/short", "2", None, 10.0)
        self.assertIsNotNone(self.now(anew))

    def test_writing_again_begins_a_new_time_to_live(self) -> None:
        """By put and by compare_and_swap; None takes the end away."""
        registry = self.open()
        entry = self.now(registry.put("a", "1", 10.0))
        self.now(registry.put("b", "1", 10.0))
        self.pass_time(8)
        swapped = registry.compare_and_swap("a", "1", entry.revision, 10.0)
        self.assertIsNotNone(self.now(swapped))
        self.now(registry.put("b", "1"))
        self.pass_time(8)
        self.assertIsNotNone(self.now(registry.get("a")))
        self.pass_time(100)
        self.assertIsNone(self.now(registry.get("a")))
        self.assertIsNotNone(self.now(registry.get("b")))

    # Watching

    def test_watches_hear_of_every_kind_of_change(self) -> None:
        """Wherever it is made, within half a second."""
        one, two = self.open(), self.open()
        here, there = self.counted(one, "a/"), self.counted(two, "a/")
        for change in (
            lambda: one.put("a/1", "1"),
            lambda: two.put("a/1", "1"),
            lambda: one.compare_and_swap("a/2", "1", None),
            lambda: two.delete("a/2"),
        ):
            here.calls = there.calls = 0
            self.now(change())
            self.pass_time(0.5)
            self.assertGreaterEqual(here.calls, 1)
            self.assertGreaterEqual(there.calls, 1)

    def test_watches_hear_when_an_entry_runs_out(self) -> None:
        """Nobody has to write for that."""
        one, two = self.open(), self.open()
        self.now(one.put("a/1", "1", 10.0))
        self.now(one.put("a/2", "1", 20.0))
        here, there = self.counted(one, "a/"), self.counted(two, "a/")
        self.pass_time(7)
        self.assertEqual((here.calls, there.calls), (0, 0))
        for _ in range(2):
            here.calls = there.calls = 0
            self.pass_time(10)
            self.assertGreaterEqual(here.calls, 1)
            self.assertGreaterEqual(there.calls, 1)

    def test_watches_rest_while_nothing_changes(self) -> None:
        """Reading is no change, and neither is what failed."""
        registry = self.open()
        entry = self.now(registry.put("a/1", "1"))
        watch = self.counted(registry)
        self.now(registry.get("a/1"))
        self.now(registry.list(""))
        self.now(registry.compare_and_swap("a/1", "2", entry.revision + 5))
        self.now(registry.delete("a/2"))
        self.pass_time(5)
        self.assertEqual(watch.calls, 0)

    def test_a_watch_that_ended_is_not_called(self) -> None:
        """Not even for a change that came before; ending it twice is no fault."""
        registry = self.open()
        watch, other = self.counted(registry), self.counted(registry)
        self.now(registry.put("a", "1"))
        watch.stop()
        watch.stop()
        self.pass_time(1)
        self.assertEqual(watch.calls, 0)
        self.assertGreaterEqual(other.calls, 1)

    def test_a_watch_that_fails_harms_no_other(self) -> None:
        """Its fault is logged."""
        registry = self.open()
        registry.watch("", lambda: 1 // 0)  # type: ignore[arg-type]
        watch = Counter()
        registry.watch("", watch)
        self.now(registry.put("a", "1"))
        self.pass_time(0.5)
        self.assertGreaterEqual(watch.calls, 1)
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))

    def test_close_ends_every_watch(self) -> None:
        """Nothing is called and no timer is left."""
        registry = self.open()
        watch = self.counted(registry)
        self.now(registry.put("a", "1", 1.0))
        self.now(registry.close())
        self.pass_time(5)
        self.assertEqual(watch.calls, 0)

    # Limits

    def test_a_key_has_limits(self) -> None:
        """Its length and its characters."""
        registry = self.open()
        self.now(registry.put("k" * MAX_KEY, "v"))
        for key in ("", "k" * (MAX_KEY + 1), "a b", "ü", "a\n", "a\x00"):
            self.assertIn("registry key", self.refused(registry.put(key, "v")))
            self.assertIn("registry key", self.refused(registry.get(key)))

    def test_a_value_has_a_limit(self) -> None:
        """In bytes, not in characters."""
        registry = self.open()
        self.now(registry.put("a", "v" * MAX_VALUE))
        for value in ("v" * (MAX_VALUE + 1), "ü" * (MAX_VALUE // 2 + 1)):
            refusal = self.refused(registry.compare_and_swap("b", value, None))
            self.assertIn(str(MAX_VALUE), refusal)
