"""The agent as a service: carries out what the pool decides, tells it what happened.

After every event the pool is asked for a plan; its dials are started and its drops are
drained.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from typing import Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from rtunnel import __version__
from rtunnel.agent.connect import Connector
from rtunnel.agent.credentials import LiveCredentials, load_credentials
from rtunnel.agent.dial import Site
from rtunnel.agent.machine import DEFAULT_DEADLINES, Deadlines, TunnelState
from rtunnel.agent.pool import Dial, Pinned, Pool
from rtunnel.agent.reactors import IAgentReactor
from rtunnel.agent.tls import load_authorities
from rtunnel.agent.trust import LiveTrust
from rtunnel.agent.tunnel import Tunnel
from rtunnel.agent.tunnel_owner import TunnelStatus
from rtunnel.config import Address, AgentConfig, load_agent
from rtunnel.discovery.messages import DiscoveryRequest
from rtunnel.discovery.tracker import ClaimAnswer
from rtunnel.discovery.trust_messages import TrustMessage
from rtunnel.errors import InvalidName
from rtunnel.state_directory import AgentCredentials

#: Seconds that open connections have to finish when the agent stops.
DRAIN_TIMEOUT: Final = 30.0
#: The least time between two plans that nothing but the clock asked for, seconds.
_TICK: Final = 0.01


@attrs.frozen
class AgentStatus:
    """A snapshot of an agent.

    :param cluster: that it serves.
    :param instance: its UUID.
    :param stopping: whether it takes nothing new.
    :param wanted: active proxies that it knows of.
    :param held: how many of them have a tunnel, or one being established.
    :param tunnels: every dial and tunnel.
    """

    cluster: str
    instance: str
    stopping: bool
    wanted: int
    held: int
    tunnels: tuple[TunnelStatus, ...]


class AgentService(Service):
    """Holds tunnels from this cluster to its proxies.

    :param config: of ``agent.toml``.
    :param now: wall clock, seconds since the epoch.
    :param load: reads key, certificate and authorities.
    :param chance: a number from 0 up to 1.
    :param environ: the environment variables, for ``HTTPS_PROXY`` and ``NO_PROXY``.
    :param drain_timeout: seconds that open connections have when the agent stops.
    :raises KeyFileError: when key or certificate cannot be used.
    :raises ConfigError: when the algorithms listed leave no way to use them, or the
        TLS authorities cannot be read.
    """

    _log = Logger()

    def __init__(
        self,
        config: AgentConfig,
        reactor: IAgentReactor,
        *,
        now: Callable[[], float],
        load: Callable[[AgentConfig, float], AgentCredentials] | None = None,
        chance: Callable[[], float] = random.random,
        environ: Mapping[str, str] = os.environ,
        connector: Connector | None = None,
        deadlines: Deadlines = DEFAULT_DEADLINES,
        drain_timeout: float = DRAIN_TIMEOUT,
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._load = load or load_credentials
        self._now = now
        self._connector = connector or Connector(
            reactor, environ, load_authorities(config.tls_authorities)
        )
        self._deadlines = deadlines
        self._drain_timeout = drain_timeout
        self._chance = chance
        self._credentials = LiveCredentials(
            lambda: self._load(self._config, now()), reactor
        )
        self._site = Site(reactor, config.cluster, config.allow, config.resolve)
        tunnels = None if config.tunnels == "all" else config.tunnels
        self._pool = Pool([str(a) for a in config.proxies], tunnels, chance)
        self._tunnels: dict[int, Tunnel] = {}
        self._wake: IDelayedCall | None = None
        self._stopping = False
        self._stopped: list[Deferred[None]] = []
        self._progress: tuple[int, int] | None = None
        self._trust = LiveTrust(
            config=lambda: self._config,
            credentials=self._credentials,
            reactor=reactor,
            now=now,
            chance=chance,
            in_service=self._in_service,
            every=self._tunnels.values,
            make_anew=self._make_anew,
        )
        self._credentials.when_changed(self._replan_soon)

    # IService.

    def startService(self) -> None:
        """Begin to dial."""
        super().startService()
        self._stopping = False
        self._log.info(
            "agent {instance} of cluster {cluster}, rtunnel {version}, dials {proxies}",
            instance=self._credentials.present.instance,
            cluster=self._config.cluster,
            version=__version__,
            proxies=", ".join(str(address) for address in self._config.proxies),
        )
        self._trust.start()
        self._replan_soon()

    def stopService(self) -> Deferred[None]:
        """Tell the proxies, wait for what is open, close.

        :returns: fires when no tunnel is left, after the drain timeout at the latest
            (and what it takes to close).
        """
        super().stopService()
        self._stopping = True
        self._trust.stop()
        self._cancel_wake()
        stopped: Deferred[None] = Deferred()
        self._stopped.append(stopped)
        for tunnel in list(self._tunnels.values()):
            tunnel.drain(self._drain_timeout)
        self._check_stopped()
        return stopped

    def reload(self) -> None:
        """Read the config file and the keys again, as on SIGHUP.

        What may be reached holds from now on, keys, certificate, algorithms and TLS
        authorities from the next dial on; another cluster, other proxies or tunnels
        need a restart.

        :raises ConfigError: when the file cannot be used; nothing changes then.
        :raises KeyFileError: likewise for keys and certificate.
        """
        config = load_agent(self._config.path)
        tls_authorities = load_authorities(config.tls_authorities)
        before, self._config = self._config, config
        try:
            self._credentials.reload()
        finally:
            self._config = before
        for key in ("cluster", "proxies", "tunnels"):
            if getattr(config, key) != getattr(self._config, key):
                self._log.warn(
                    "{path}: {key} has changed; restart the agent for it to count",
                    path=str(config.path),
                    key=key,
                )
        self._config = attrs.evolve(
            self._config,
            allow=config.allow,
            resolve=config.resolve,
            tls_authorities=config.tls_authorities,
            tunnel=config.tunnel,
            ssh=config.ssh,
            renewal=config.renewal,
        )
        self._site.change(config.allow, config.resolve, close=config.close_on_change)
        self._connector.trust(tls_authorities)
        self._log.info("{path} was read again", path=str(config.path))

    def status(self) -> AgentStatus:
        """A snapshot, for status and logs."""
        held, wanted = self._count()
        return AgentStatus(
            cluster=self._config.cluster,
            instance=self._credentials.present.instance,
            stopping=self._stopping,
            wanted=wanted,
            held=held,
            tunnels=tuple(tunnel.status() for tunnel in self._tunnels.values()),
        )

    # TunnelOwner.

    def host_identified(self, tunnel: Tunnel, proxy_id: str) -> ClaimAnswer:
        """See :class:`~rtunnel.agent.tunnel.TunnelOwner`."""
        answer = self._pool.claim(tunnel.dialled, proxy_id, self._reactor.seconds())
        self._replan_soon()
        return answer

    def tunnel_in_service(self, tunnel: Tunnel) -> None:
        """See :class:`~rtunnel.agent.tunnel.TunnelOwner`."""
        replaced = self._pool.in_service(tunnel.dialled, self._reactor.seconds())
        if replaced is not None and replaced in self._tunnels:
            self._tunnels[replaced].retire()
        self._trust.tunnel_in_service(tunnel)
        self._log.info(
            "tunnel to proxy {proxy} ({address}) is in service",
            proxy=tunnel.proxy_id,
            address=tunnel.dialled.address,
        )
        self._replan_soon()

    def tunnel_draining(self, tunnel: Tunnel, by_proxy: bool) -> None:
        """See :class:`~rtunnel.agent.tunnel.TunnelOwner`."""
        self._pool.drained(tunnel.dialled, by_proxy=by_proxy)
        self._replan_soon()

    def discovery_received(self, tunnel: Tunnel, request: DiscoveryRequest) -> None:
        """See :class:`~rtunnel.agent.tunnel.TunnelOwner`."""
        if tunnel.dialled.number in self._tunnels:
            understood = _with_known_addresses(request)
            self._pool.learn(tunnel.dialled, understood, self._reactor.seconds())
            self._replan_soon()

    def replacement_proof(self, tunnel: Tunnel) -> str:
        """See :class:`~rtunnel.agent.tunnel.TunnelOwner`."""
        number = self._pool.replaced_by(tunnel.dialled)
        replaced = self._tunnels.get(number) if number is not None else None
        return "" if replaced is None else replaced.replacement_proof

    def replacement_wanted(self, tunnel: Tunnel) -> None:
        """See :class:`~rtunnel.agent.tunnel.TunnelOwner`."""
        if tunnel.state is TunnelState.IN_SERVICE and tunnel.proxy_id is not None:
            self._make_anew(tunnel.proxy_id)

    def _make_anew(self, proxy_id: str) -> None:
        self._pool.make_anew(proxy_id)
        self._replan_soon()

    def trust_message_received(self, tunnel: Tunnel, message: TrustMessage) -> bool:
        """See :class:`~rtunnel.agent.tunnel.TunnelOwner`."""
        return self._trust.received(tunnel, message)

    def _in_service(self) -> list[Tunnel]:
        return [
            tunnel
            for tunnel in self._tunnels.values()
            if tunnel.state is TunnelState.IN_SERVICE
        ]

    def tunnel_ended(self, tunnel: Tunnel, reason: str, by_us: bool) -> None:
        """See :class:`~rtunnel.agent.tunnel.TunnelOwner`."""
        del self._tunnels[tunnel.dialled.number]
        failed = self._pool.ended(tunnel.dialled, self._reactor.seconds(), by_us=by_us)
        if tunnel.since is not None:
            self._log.info(
                "tunnel to proxy {proxy} ({address}) has ended: {reason}",
                proxy=tunnel.proxy_id,
                address=tunnel.dialled.address,
                reason=reason,
            )
        elif not failed:
            self._log.debug(
                "no tunnel through {address}: {reason}",
                address=tunnel.dialled.address,
                reason=reason,
            )
        else:
            self._log.warn(
                "no tunnel through {address}: {reason}",
                address=tunnel.dialled.address,
                reason=reason,
            )
        self._replan_soon()
        self._check_stopped()

    # Carrying out.

    def _replan_soon(self) -> None:
        # Not at once: events come from the middle of a tunnel's doings, in swarms.
        self._wake_in(0)

    def _wake_in(self, seconds: float) -> None:
        self._cancel_wake()
        if not self._stopping:
            self._wake = self._reactor.callLater(seconds, self._replan)

    def _cancel_wake(self) -> None:
        if self._wake is not None and self._wake.active():
            self._wake.cancel()
        self._wake = None

    def _replan(self) -> None:
        now = self._reactor.seconds()
        self._trust.follow_certificate()
        plan = self._pool.plan(now)
        if plan.wake_at < float("inf"):
            self._wake_in(max(_TICK, plan.wake_at - now))
        for notice in plan.notices:
            self._say_pinned(notice)
        for dial in plan.dials:
            self._start(dial)
        for proxy_id in plan.drops:
            for tunnel in list(self._tunnels.values()):
                if tunnel.proxy_id == proxy_id:
                    tunnel.drain(self._drain_timeout)
        for tunnel in self._in_service():
            if tunnel.proxy_id in plan.retires:
                tunnel.retire()
        if self._pool.tracker.all_in_service():
            for tunnel in list(self._tunnels.values()):
                if tunnel.state is TunnelState.DRAINING:
                    tunnel.let_go()
        self._say_progress()

    def _start(self, dial: Dial) -> None:
        tunnel = Tunnel(
            dial,
            self,
            connector=self._connector,
            credentials=self._credentials.fresh(),
            site=self._site,
            clock=self._reactor,
            now=self._now,
            heartbeat=self._config.tunnel,
            algorithms=self._config.ssh.algorithms,
            deadlines=self._deadlines,
            chance=self._chance,
        )
        self._tunnels[dial.number] = tunnel
        self._log.debug(
            "dial {number} to {address}", number=dial.number, address=dial.address
        )
        tunnel.start()

    def _count(self) -> tuple[int, int]:
        tracker = self._pool.tracker
        serving = sum(
            tunnel.state is TunnelState.IN_SERVICE for tunnel in self._tunnels.values()
        )
        wanted = tracker.population()
        if tracker.tunnels is not None:
            wanted = min(wanted, tracker.tunnels)
        # A tunnel to a proxy that leaves serves to its end.
        return serving, max(wanted, serving)

    def _say_progress(self) -> None:
        progress = self._count()
        # Nobody misses tunnels to proxies that are not known yet, or any more.
        if progress != self._progress and progress[1]:
            self._progress = progress
            self._log.info(
                "{held} of {wanted} proxies have a tunnel",
                held=progress[0],
                wanted=progress[1],
            )

    def _say_pinned(self, notice: Pinned) -> None:
        self._log.warn(
            "{address} gave proxies that have a tunnel already {landings} times in a "
            "row ({given}); {missing} cannot be reached through it: advertise their "
            "addresses ([ssh] advertise in proxy.toml) or balance connections in turn; "
            "it is dialled less often from now on",
            address=notice.address,
            landings=notice.landings,
            given=", ".join(notice.given),
            missing=", ".join(notice.missing),
        )

    def _check_stopped(self) -> None:
        if self._stopping and not self._tunnels:
            self._stopped, waiting = [], self._stopped
            for stopped in waiting:
                stopped.callback(None)


def _with_known_addresses(request: DiscoveryRequest) -> DiscoveryRequest:
    """Without the addresses whose form we do not understand; newer proxies have more.

    A proxy that is left without one is looked for through the balancer.
    """
    return attrs.evolve(
        request,
        proxies=tuple(
            attrs.evolve(advert, addresses=tuple(filter(_is_address, advert.addresses)))
            for advert in request.proxies
        ),
    )


def _is_address(text: str) -> bool:
    try:
        Address.parse(text)
    except InvalidName:
        return False
    return True
