"""Which clusters were ever seen."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.proxy.known_clusters import KnownClusters
from rtunnel.registry.memory import MemoryRegistry


class KnownClustersTests(SynchronousTestCase):
    """As the registry has them."""

    def test_only_what_can_be_a_cluster_is_known(self) -> None:
        """Who asks for the list has it on a terminal, whoever wrote the registry."""
        registry = MemoryRegistry(Clock())
        for name in ("b", "a%1bb", "x" * 64, "B"):
            putting = registry.put(f"clusters/{name}", "{}")
            self.successResultOf(Deferred.fromCoroutine(putting))
        known = KnownClusters(registry, lambda: 0.0)
        self.successResultOf(Deferred.fromCoroutine(known.start()))
        self.addCleanup(known.stop)
        self.assertEqual(known.names(), {"b"})
