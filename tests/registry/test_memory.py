"""The registry in memory."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.registry.interface import Registry
from rtunnel.registry.memory import MemoryRegistry
from tests.registry.contract import RegistryContract


class MemoryRegistryTests(RegistryContract, SynchronousTestCase):
    """The contract, on one object that everybody shares."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = MemoryRegistry(self.clock)
        self.now(self.registry.start())

    def open(self) -> Registry:
        return self.registry

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.05] * round(seconds / 0.05) + [0])

    def test_no_timer_is_left_behind(self) -> None:
        """Neither for what runs out nor for what changed."""
        self.registry.watch("", lambda: None)
        self.now(self.registry.put("a", "1", 100.0))
        self.now(self.registry.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])
