"""Tests for :mod:`rtunnel.proxy.registry_look`."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import RegistryError
from rtunnel.proxy.registry_look import LOOK_INTERVAL, RegistryLook
from rtunnel.registry.memory import MemoryRegistry


class RegistryLookTests(SynchronousTestCase):
    """:class:`RegistryLook`, of what the registry has below ``a/``."""

    def setUp(self) -> None:
        """Nothing is followed yet."""
        self.clock = Clock()
        self.registry = MemoryRegistry(self.clock)
        self.successResultOf(Deferred.fromCoroutine(self.registry.start()))
        #: How often it was read, and what is to become of the next time.
        self.reads = 0
        self.problem: Exception | None = None
        self.slow: Deferred[None] | None = None
        self.look = RegistryLook(self.registry, self.clock, "a/", self.read, "a thing")
        self.addCleanup(self.look.stop)

    async def read(self) -> None:
        """As the test says."""
        self.reads += 1
        if self.slow is not None:
            await self.slow
        if self.problem is not None:
            raise self.problem

    def start(self) -> None:
        """Begin to follow."""
        self.successResultOf(Deferred.fromCoroutine(self.look.start()))

    def put(self, key: str) -> None:
        """Have somebody change an entry, and the watches told."""
        putting = Deferred.fromCoroutine(self.registry.put(key, "{}", 60.0))
        self.successResultOf(putting)
        self.clock.advance(0)

    def test_what_has_changed_is_read_at_once(self) -> None:
        """Not only when it is time for it."""
        self.start()
        self.assertEqual(self.reads, 1)
        self.put("a/b")
        self.assertEqual(self.reads, 2)

    def test_it_is_read_every_five_seconds_besides(self) -> None:
        """Whether or not anybody has told of a change."""
        self.start()
        self.clock.pump([LOOK_INTERVAL] * 3)
        self.assertEqual(self.reads, 4)

    def test_it_is_never_read_twice_at_a_time(self) -> None:
        """A change that comes meanwhile is read after it."""
        self.start()
        slow: Deferred[None] = Deferred()
        self.slow = slow
        self.put("a/b")
        self.put("a/c")
        self.assertEqual(self.reads, 2)
        self.slow = None
        slow.callback(None)
        self.assertEqual(self.reads, 3)

    def test_registry_that_is_away_is_tried_again(self) -> None:
        """Nobody has to hear of it: whoever reads says it, if anybody wants to know."""
        self.start()
        self.problem = RegistryError("away")
        self.clock.advance(LOOK_INTERVAL)
        self.problem = None
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(self.reads, 3)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_defect_is_logged_and_ends_nothing(self) -> None:
        """The next look reads."""
        self.start()
        self.problem = RuntimeError("a defect")
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(self.reads, 3)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_start_fails_when_the_registry_cannot_be_read(self) -> None:
        """A proxy that does not know what holds must not begin."""
        self.problem = RegistryError("away")
        starting = Deferred.fromCoroutine(self.look.start())
        self.failureResultOf(starting, RegistryError)
        self.look.stop()
        self.put("a/b")
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(self.reads, 1)

    def test_nothing_is_read_after_stop(self) -> None:
        """Neither at a change nor in time."""
        self.start()
        self.look.stop()
        self.put("a/b")
        self.clock.advance(LOOK_INTERVAL)
        self.assertEqual(self.reads, 1)
