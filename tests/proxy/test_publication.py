"""Tests for :mod:`rtunnel.proxy.publication`."""

from __future__ import annotations

from typing import Any, cast

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.discovery.messages import DiscoveryRequest
from rtunnel.proxy.announcement import RESEND
from rtunnel.proxy.publication import GATHER, MEASURE_INTERVAL, Publication
from rtunnel.proxy.sites import Sites
from rtunnel.proxy.tunnel import Tunnel
from rtunnel.registry.membership import Membership
from rtunnel.registry.records import ProxyRecord, TunnelRecord

OWN = ProxyRecord(
    id="00000000-0000-4000-8000-000000000001",
    name="proxy-1",
    addresses=(),
    generation=1,
    started=0.0,
)
OTHER = attrs.evolve(OWN, id="00000000-0000-4000-8000-000000000002", name="proxy-2")


class FakeMembership:
    """The registry, as far as it is told and asked here."""

    def __init__(self) -> None:
        self.record = OWN
        self.others: list[ProxyRecord] = []
        self.published: list[list[TunnelRecord]] = []
        self.changed: Any = None

    def proxies(self) -> list[ProxyRecord]:
        return [self.record, *self.others]

    def subscribe(self, callback: Any) -> Any:
        self.changed = callback
        return lambda: setattr(self, "changed", None)

    def set_tunnels(self, records: list[TunnelRecord]) -> None:
        self.published.append(records)


class FakeTunnel:
    """An agent that remembers what it was told."""

    cluster, agent, since, rtt, open_channels = "b", "agent-1", 5.0, 0.25, 3

    def __init__(self) -> None:
        self.accepts_dials = True
        self.told: list[DiscoveryRequest] = []

    def send_discovery(self, request: DiscoveryRequest) -> None:
        self.told.append(request)


class PublicationTests(SynchronousTestCase):
    """:class:`Publication`, of a proxy with one tunnel."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.membership = FakeMembership()
        self.tunnel = FakeTunnel()
        sites: Sites[Tunnel] = Sites()
        sites.add(cast(Tunnel, self.tunnel))
        self.publication = Publication(
            cast(Membership, self.membership), sites, self.clock
        )
        self.publication.start()

    def ids(self) -> list[list[str]]:
        """The proxies that the agent was told of, each time."""
        return [[proxy.id for proxy in request.proxies] for request in self.tunnel.told]

    def test_agents_hear_of_proxies_when_these_change_and_now_and_then(self) -> None:
        """Not when it is tunnels alone that the registry has news of."""
        self.membership.changed()
        self.assertEqual(self.ids(), [])
        self.membership.others.append(OTHER)
        self.membership.changed()
        self.assertEqual(self.ids(), [[OWN.id, OTHER.id]])
        self.clock.advance(RESEND)
        self.assertEqual(len(self.ids()), 2)

    def test_tunnels_that_come_together_are_told_of_together(self) -> None:
        """With their channels and round trip time; again at the next look."""
        for _ in range(100):
            self.publication.tunnels_changed()
        self.clock.advance(GATHER)
        ((record,),) = self.membership.published
        self.assertEqual(
            (record.proxy, record.agent, record.channels, record.rtt_seconds),
            (OWN.id, "agent-1", 3, 0.25),
        )
        self.tunnel.accepts_dials = False
        self.clock.advance(MEASURE_INTERVAL)
        self.assertEqual(self.membership.published[1:], [[]])

    def test_nothing_is_told_after_the_stop(self) -> None:
        """And no timer is left."""
        self.publication.tunnels_changed()
        self.publication.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIsNone(self.membership.changed)
        self.assertEqual(self.membership.published, [])
