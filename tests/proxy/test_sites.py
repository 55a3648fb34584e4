"""Tests of :mod:`rtunnel.proxy.sites`."""

import attrs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.proxy.sites import Sites


@attrs.define(eq=False)
class SomeTunnel:
    """What the table sees of a tunnel, with values of the test's choice."""

    cluster: str
    agent: str
    open_channels: int = 0
    accepts_dials: bool = True


class SitesTests(SynchronousTestCase):
    """The table of tunnels by cluster."""

    def setUp(self) -> None:
        self.sites: Sites[SomeTunnel] = Sites()

    def test_the_least_busy_tunnel_is_tried_first(self) -> None:
        """Dials spread over the agents of a cluster by open channels."""
        busy = SomeTunnel("b", "agent-1", open_channels=3)
        idle = SomeTunnel("b", "agent-2", open_channels=1)
        self.sites.add(busy)
        self.sites.add(idle)
        self.assertEqual(self.sites.candidates("b"), [idle, busy])

    def test_other_clusters_and_silent_tunnels_are_no_candidates(self) -> None:
        """A tunnel that does not answer takes no dial, nor does one elsewhere."""
        self.sites.add(SomeTunnel("c", "agent-1"))
        self.sites.add(SomeTunnel("b", "agent-2", accepts_dials=False))
        self.assertEqual(self.sites.candidates("b"), [])

    def test_an_agent_instance_holds_one_tunnel(self) -> None:
        """A second one is refused until the first is removed."""
        first = SomeTunnel("b", "agent-1")
        second = SomeTunnel("b", "agent-1")
        self.sites.add(first)
        self.assertRaises(ValueError, self.sites.add, second)
        self.assertIs(self.sites.held_by("agent-1"), first)
        self.sites.remove(second)
        self.assertIs(self.sites.held_by("agent-1"), first)
        self.sites.remove(first)
        self.sites.add(second)
        self.assertIs(self.sites.held_by("agent-1"), second)

    def test_clusters_are_those_with_a_tunnel(self) -> None:
        """Each once, sorted."""
        for cluster, agent in (("c", "1"), ("b", "2"), ("c", "3")):
            self.sites.add(SomeTunnel(cluster, agent))
        self.assertEqual(self.sites.clusters(), ("b", "c"))
