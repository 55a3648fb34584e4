"""When memory is given back."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.tap.spare_memory import (
    INTERVAL,
    TIME_SHARE,
    WORTH_IT,
    SpareMemory,
    find_trim,
    resident,
)

MIB = 1024 * 1024


class SpareMemoryTests(SynchronousTestCase):
    """A process that has what the test says."""

    def setUp(self) -> None:
        """50 MiB, and the service started."""
        self.clock = Clock()
        self.resident = 50 * MIB
        self.used = self.resident
        self.took = 0.0
        self.trims = 0
        self.spare = SpareMemory(self.clock, self.trim, lambda: self.resident)
        self.spare.startService()
        self.addCleanup(self.spare.stopService)

    def trim(self) -> None:
        """What is not used goes back."""
        self.trims += 1
        self.resident = self.used
        self.clock.rightNow += self.took

    def test_little_is_not_worth_it(self) -> None:
        """As long as there is not much more than at the start, nothing happens."""
        self.resident += WORTH_IT
        self.clock.advance(INTERVAL)
        self.assertEqual(self.trims, 0)

    def test_much_goes_back_at_the_next_look(self) -> None:
        """Within ten seconds, and after that there is nothing to do."""
        self.resident += 60 * MIB
        self.clock.advance(INTERVAL)
        self.assertEqual(self.resident, 50 * MIB)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.trims, 1)

    def test_what_is_used_for_long_goes_back_when_it_is_freed(self) -> None:
        """A connection that is stuck for minutes leaves nothing behind."""
        self.used = self.resident = 100 * MIB
        for _ in range(75):
            self.clock.advance(INTERVAL)
        self.used = 50 * MIB
        self.clock.advance(INTERVAL)
        self.assertEqual(self.resident, 50 * MIB)

    def test_it_takes_a_small_share_of_the_time(self) -> None:
        """What takes long is not done again soon."""
        self.used = self.resident = 1000 * MIB
        self.took = 0.05
        self.clock.advance(INTERVAL)
        self.clock.advance(0.05 / TIME_SHARE - 1)
        self.assertEqual(self.trims, 1)
        self.clock.advance(1)
        self.assertEqual(self.trims, 2)

    def test_nothing_happens_after_the_end(self) -> None:
        """No timer is left."""
        spare = SpareMemory(self.clock, self.trim, lambda: 0)
        before = len(self.clock.getDelayedCalls())
        spare.startService()
        spare.stopService()
        self.assertEqual(len(self.clock.getDelayedCalls()), before)

    def test_the_real_one_can_be_called(self) -> None:
        """Where there is one; a process has some memory."""
        trim = find_trim()
        if trim is not None:
            trim()
            self.assertGreater(resident(), MIB)
