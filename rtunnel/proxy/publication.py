"""What this proxy tells unasked: agents of proxies, and the registry of tunnels."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtunnel.discovery.messages import DiscoveryRequest
from rtunnel.proxy.announcement import RESEND, announce
from rtunnel.proxy.sites import Sites
from rtunnel.proxy.tunnel import Tunnel
from rtunnel.registry.membership import Membership
from rtunnel.registry.records import TunnelRecord

#: Seconds between two looks at channel counts and round trip times for the registry.
MEASURE_INTERVAL = 5.0

#: Seconds in which tunnels that come and go are gathered before the registry hears of
#: them: it takes all of them at a time, and after a restart they come by the thousand.
GATHER = 0.05


class Publication:
    """Tells agents of proxies, and the registry of tunnels."""

    _log = Logger()

    def __init__(
        self, membership: Membership, sites: Sites[Tunnel], clock: IReactorTime
    ) -> None:
        self._membership = membership
        self._sites = sites
        self._clock = clock
        #: What agents have been told last.
        self._announced: DiscoveryRequest | None = None
        self._publishing: IDelayedCall | None = None
        self._announcing = LoopingCall(self.tell_agents)
        self._measuring = LoopingCall(self._publish)
        self._announcing.clock = self._measuring.clock = clock
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to tell."""
        self._announced = self._discovery()
        self._unsubscribe = self._membership.subscribe(self._membership_changed)
        self._run(self._announcing, RESEND)
        self._run(self._measuring, MEASURE_INTERVAL)

    def stop(self) -> None:
        """Stop telling."""
        for loop in (self._announcing, self._measuring):
            if loop.running:
                loop.stop()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None

    def _run(self, loop: LoopingCall, interval: float) -> None:
        loop.start(interval, now=False).addErrback(
            lambda failure: self._log.failure("a periodic task failed", failure)
        )

    def tell_agent(self, tunnel: Tunnel) -> None:
        """Tell one agent of every proxy, this one among them."""
        tunnel.send_discovery(self._discovery())

    def tell_agents(self) -> None:
        """Tell all of them."""
        request = self._announced = self._discovery()
        for tunnel in self._sites.tunnels():
            tunnel.send_discovery(request)

    def tunnels_changed(self) -> None:
        """Tell the registry soon."""
        if self._publishing is None:
            self._publishing = self._clock.callLater(GATHER, self._publish_gathered)

    def records(self) -> list[TunnelRecord]:
        """Our own tunnels that take connections, as they are now."""
        return [
            TunnelRecord(
                cluster=tunnel.cluster,
                agent=tunnel.agent,
                proxy=self._membership.record.id,
                since=tunnel.since,
                rtt_seconds=tunnel.rtt,
                channels=tunnel.open_channels,
            )
            for tunnel in self._sites.tunnels()
            if tunnel.accepts_dials
        ]

    def _discovery(self) -> DiscoveryRequest:
        own = self._membership.record
        others = [p for p in self._membership.proxies() if p.id != own.id]
        return announce([own, *others])

    def _membership_changed(self) -> None:
        """Tell agents, unless only tunnels changed: that would be as many messages as
        there are tunnels for each of them that comes or goes."""
        if self._discovery() != self._announced:
            self.tell_agents()

    def _publish_gathered(self) -> None:
        self._publishing = None
        self._publish()

    def _publish(self) -> None:
        self._membership.set_tunnels(self.records())
