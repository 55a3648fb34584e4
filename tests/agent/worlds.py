"""A pretend network for the pool: proxies, a balancer, latencies, and a Clock."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable

import attrs
from twisted.internet.task import Clock

from rtunnel.agent.pool import Dial, Pinned, Pool
from rtunnel.discovery.messages import DiscoveryRequest, ProxyAdvert
from rtunnel.discovery.tracker import ClaimAnswer, Phase

#: Seconds between a proxy's discovery requests, and how long its word holds.
RESEND = 5.0
TTL = 15.0

#: Given the ids of the proxies that are up, which one does a connection get?
Balancing = Callable[[list[str]], str]


def round_robin() -> Balancing:
    """Each connection gets the next one."""
    count = iter(range(10**9))
    return lambda up: up[next(count) % len(up)]


def at_random(generator: random.Random) -> Balancing:
    """Each connection gets any one."""
    return generator.choice


def source_hash(number: int) -> Balancing:
    """Every connection of this agent gets the same one, while the set stays."""
    return lambda up: up[number % len(up)]


@attrs.define
class FakeProxy:
    """A proxy that is up, as the world sees it."""

    id: str
    addresses: tuple[str, ...] = ()
    generation: int = 1
    state: str = "active"
    in_balancer: bool = True


class World:
    """Runs a pool against proxies that come and go, in virtual time.

    :ivar dials: how many dials there were, in all.
    :ivar logins: how many of them went past the host-key check.
    """

    def __init__(
        self,
        balancing: Callable[[random.Random], Balancing] = at_random,
        *,
        tunnels: int | None = None,
        seed: int = 1,
        latency: float = 0.05,
    ) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.balance = balancing(self.random)
        self.latency = latency
        self.proxies: dict[str, FakeProxy] = {}
        #: Proxies that are down, but that the others still vouch for.
        self.stale: dict[str, FakeProxy] = {}
        self.open: dict[int, tuple[Dial, str]] = {}
        self.dials = 0
        self.logins = 0
        self.dialled: list[tuple[float, Dial]] = []
        self.notices: list[Pinned] = []
        self.pool = Pool(["lb.example.com:3023"], tunnels, self.random.random)
        self._wake = self.clock.callLater(0, self.replan)

    def start_proxies(self, count: int, *, direct: bool = False) -> list[str]:
        """Bring up that many; their ids."""
        return [self.start_proxy(direct=direct).id for _ in range(count)]

    def start_proxy(
        self, *, direct: bool = False, in_balancer: bool = True
    ) -> FakeProxy:
        """Bring up one; whoever has a tunnel tells the agent."""
        proxy_id = str(uuid.UUID(int=self.random.getrandbits(128)))
        addresses = (f"{proxy_id}.example.com:3023",) if direct else ()
        proxy = FakeProxy(proxy_id, addresses, in_balancer=in_balancer)
        self.proxies[proxy_id] = proxy
        self._tell_all()
        return proxy

    def restart_proxy(self, proxy: FakeProxy) -> None:
        """One that was down is up again, as it says itself."""
        self.proxies[proxy.id] = proxy
        self.stale.pop(proxy.id, None)
        self._tell_all()

    def kill_proxy(self, proxy_id: str, *, vouched_for: float = TTL) -> None:
        """One is gone at once; the others go on vouching for it for a while."""
        proxy = self.proxies.pop(proxy_id)
        self.stale[proxy_id] = proxy
        for dial, holder in list(self.open.values()):
            if holder == proxy_id:
                self._end(dial)
        self.clock.callLater(vouched_for, self._forget, proxy_id)

    def drain_proxy(self, proxy_id: str) -> None:
        """One says that it is leaving, to the agent and to the other proxies."""
        self.proxies[proxy_id].state = "draining"
        self.proxies[proxy_id].in_balancer = False
        for dial, holder in self.open.values():
            if holder == proxy_id and self.phase(proxy_id) is Phase.IN_SERVICE:
                self.pool.drained(dial, by_proxy=True)
        self._tell_all()

    def phase(self, proxy_id: str) -> Phase | None:
        """What the agent has there."""
        return self.pool.tracker.phase(proxy_id)

    def in_service(self) -> set[str]:
        """Proxies with a tunnel in service."""
        claims = self.pool.tracker.claimed()
        return {p for p, phase in claims.items() if phase is Phase.IN_SERVICE}

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self._advance_until(self.clock.seconds() + seconds, lambda: False)

    def run_until_mesh(self, limit: float = 600.0) -> float:
        """Let time pass until each proxy has a tunnel; seconds that it took."""
        start = self.clock.seconds()
        reached = self._advance_until(
            start + limit, lambda: self.in_service() >= self.proxies.keys()
        )
        if not reached:
            raise AssertionError(f"no mesh after {limit} s: {self.in_service()}")
        return self.clock.seconds() - start

    def _advance_until(self, end: float, enough: Callable[[], bool]) -> bool:
        while not enough():
            calls = self.clock.getDelayedCalls()
            following = min((call.getTime() for call in calls), default=end)
            if following > end:
                self.clock.advance(end - self.clock.seconds())
                return enough()
            self.clock.advance(max(0.0, following - self.clock.seconds()))
        return True

    def replan(self) -> None:
        """Do what the pool says."""
        if self._wake.active():
            self._wake.cancel()
        now = self.clock.seconds()
        plan = self.pool.plan(now)
        self.notices += plan.notices
        for dial in plan.dials:
            self.dials += 1
            self.dialled.append((now, dial))
            self.clock.callLater(self._lag(), self._connect, dial)
        if plan.wake_at < float("inf"):
            delay = max(0.001, plan.wake_at - now)
            self._wake = self.clock.callLater(delay, self.replan)

    def _lag(self) -> float:
        return self.latency * (0.5 + self.random.random())

    def _connect(self, dial: Dial) -> None:
        if dial.expected is None:
            up = [p.id for p in self.proxies.values() if p.in_balancer]
            proxy_id = self.balance(up) if up else None
        else:
            proxy_id = dial.expected if dial.expected in self.proxies else None
        if proxy_id is None:
            self._end(dial)
            return
        answer = self.pool.claim(dial, proxy_id, self.clock.seconds())
        if answer is not ClaimAnswer.GRANTED:
            self._end(dial)
            return
        self.logins += 1
        self.open[dial.number] = (dial, proxy_id)
        self.clock.callLater(self._lag(), self._serve, dial, proxy_id)
        self.replan()

    def _serve(self, dial: Dial, proxy_id: str) -> None:
        if dial.number in self.open:
            self.pool.in_service(dial, self.clock.seconds())
            self._tell_again(dial)

    def _tell(self, dial: Dial) -> None:
        if dial.number not in self.open:
            return
        adverts = tuple(
            ProxyAdvert(p.id, p.addresses, p.generation, p.state, TTL)
            for p in [*self.proxies.values(), *self.stale.values()]
        )
        request = DiscoveryRequest(adverts[:64], RESEND)
        self.pool.learn(dial, request, self.clock.seconds())
        self.replan()

    def _tell_again(self, dial: Dial) -> None:
        if dial.number in self.open:
            self._tell(dial)
            self.clock.callLater(RESEND, self._tell_again, dial)

    def _tell_all(self) -> None:
        for dial, proxy_id in list(self.open.values()):
            if self.phase(proxy_id) is Phase.IN_SERVICE:
                self.clock.callLater(self._lag(), self._tell, dial)
        self.replan()

    def _forget(self, proxy_id: str) -> None:
        if self.stale.pop(proxy_id, None) is not None:
            self._tell_all()

    def _end(self, dial: Dial) -> None:
        self.open.pop(dial.number, None)
        self.pool.ended(dial, self.clock.seconds())
        self.replan()
