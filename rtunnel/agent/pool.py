"""Which addresses to dial now, and which tunnels to let go: decided here, done above.

The pool hears what happens to dials and tunnels and what proxies say, and answers with
a :class:`Plan`. There are two ways to a proxy:

* its *advertised* addresses, dialled directly, all missing proxies side by side; only
  that very proxy counts there;
* the *balancer* addresses of the config file, for proxies that advertise none or do not
  answer there. Whichever proxy answers counts; so several dials run at once, and those
  that land on a claimed proxy hang up before they log in.

A dial that has taken :data:`STALL` seconds is no longer hoped for: another takes its
place, while it goes on until its deadline.

Pure: time is brought by the caller, in seconds; chance is a callable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from rtunnel.agent.route import Route
from rtunnel.agent.succession import Succession
from rtunnel.discovery.backoff import BASE, CAP
from rtunnel.discovery.messages import DiscoveryRequest
from rtunnel.discovery.tracker import ClaimAnswer, KnownProxy, Phase, Tracker

#: Dials through balancers that are hoped for at once.
MAX_PARALLEL: Final = 4
#: Dials of any kind at once.
MAX_IN_FLIGHT: Final = 16
#: Seconds after which a dial that has not reached a host key is not hoped for.
STALL: Final = 2.0
#: Seconds: the longest wait between dials of an address while no tunnel is held.
ALONE_CAP: Final = 5.0
#: Seconds in service after which failures of an address are forgotten.
SETTLED: Final = 10.0
#: Seconds of landing on claimed proxies before a pinned balancer is spoken of. A proxy
#: that has died is usually forgotten within them.
NOTICE_AFTER: Final = 20.0


@attrs.frozen
class Dial:
    """One attempt to get a tunnel.

    :param number: counts up; no two dials of a pool have the same.
    :param address: ``host:port``, ``[IPv6]:port`` or ``tls:host:port``.
    :param expected: id of the one proxy that counts there; ``None``: any counts.
    :param rotation: which of the IP addresses behind the name comes first, counted
        round and round.
    """

    number: int
    address: str
    expected: str | None
    rotation: int


@attrs.frozen
class Pinned:
    """A balancer gives only proxies that have a tunnel already: for the log, once.

    :param address: the balancer's.
    :param landings: dials in a row that landed on claimed proxies.
    :param given: the ids of those proxies.
    :param missing: ids of the proxies that are not reached.
    """

    address: str
    landings: int
    given: tuple[str, ...]
    missing: tuple[str, ...]


@attrs.frozen
class Plan:
    """What to do now.

    :param dials: to be started; the pool counts them as in flight from now on.
    :param drops: ids of proxies whose tunnels are to be drained.
    :param retires: ids of proxies whose tunnels others have taken the place of; what is
        open on them may take its time.
    :param notices: to be logged.
    :param wake_at: when to plan again if nothing happens before, seconds.
    """

    dials: tuple[Dial, ...]
    drops: tuple[str, ...]
    retires: tuple[str, ...]
    notices: tuple[Pinned, ...]
    wake_at: float


@attrs.define
class _Attempt:
    """A dial from its start until the tunnel that came of it is gone."""

    dial: Dial
    route: Route
    started: float
    landed_on: str | None = None
    refused: ClaimAnswer | None = None
    proxy_id: str | None = None
    serving_since: float | None = None
    settled: bool = False

    @property
    def undecided(self) -> bool:
        return self.proxy_id is None and self.refused is None


class Pool:
    """The tunnels of one agent.

    :param addresses: of the config file, at least one.
    :param tunnels: how many tunnels to hold; ``None`` is one to each active proxy.
    :param chance: a number from 0 up to 1, as ``random.random``.
    :ivar tracker: what is known of the proxies; to be read only.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        tunnels: int | None,
        chance: Callable[[], float],
    ) -> None:
        if not addresses:
            raise ValueError("an agent needs at least one address to dial")
        self.tracker = Tracker(tunnels)
        self._chance = chance
        self._balancers = [Route(a, chance) for a in dict.fromkeys(addresses)]
        #: (proxy id, advertised address) → memory
        self._direct: dict[tuple[str, str], Route] = {}
        self._attempts: dict[int, _Attempt] = {}
        self._succession = Succession(self.tracker)
        self._count = 0
        #: Proxies that the balancers were already tried for.
        self._sought: frozenset[str] = frozenset()
        #: balancer address → proxies that it was already said not to lead to
        self._noticed: dict[str, frozenset[str]] = {}

    # What happens.

    def claim(self, dial: Dial, proxy_id: str, now: float) -> ClaimAnswer:
        """A dial has read the proxy's id in the host-key check.

        :returns: GRANTED when it may log in; else it has to hang up.
        """
        self._settle(now)
        attempt = self._attempts[dial.number]
        answer = self.tracker.claim(proxy_id, now)
        if answer is ClaimAnswer.GRANTED:
            attempt.proxy_id = proxy_id
            self._succession.granted(proxy_id, dial.number)
            attempt.route.reached(now)
            self._noticed.pop(dial.address, None)
        else:
            attempt.landed_on, attempt.refused = proxy_id, answer
        return answer

    def in_service(self, dial: Dial, now: float) -> int | None:
        """The proxy has answered the hello.

        :returns: the number of the dial whose tunnel to the same proxy it has replaced.
        """
        attempt = self._attempts[dial.number]
        attempt.serving_since = now
        return self._succession.in_service(self._claimed_by(attempt), dial.number)

    def make_anew(self, proxy_id: str) -> None:
        """The tunnel to a proxy is to be replaced; it serves until it is."""
        self._succession.make_anew(proxy_id)

    def replaced_by(self, dial: Dial) -> int | None:
        """The number of the dial whose tunnel this one is to replace."""
        proxy_id = self._attempts[dial.number].proxy_id
        if proxy_id is None:
            return None
        return self._succession.replaced_by(proxy_id, dial.number)

    def learn(self, dial: Dial, request: DiscoveryRequest, now: float) -> None:
        """A discovery request has come through a tunnel."""
        self._settle(now)
        source = self._claimed_by(self._attempts[dial.number])
        self.tracker.learn(source, request, now)

    def drained(self, dial: Dial, *, by_proxy: bool) -> None:
        """A tunnel takes nothing new from now on; it is to be replaced first."""
        proxy_id = self._claimed_by(self._attempts[dial.number])
        if self._succession.owns(proxy_id, dial.number):
            self.tracker.drain(proxy_id, by_proxy=by_proxy)

    def ended(self, dial: Dial, now: float, *, by_us: bool = False) -> bool:
        """Nothing came of a dial, or its tunnel is gone.

        :param by_us: we wanted it gone, so nobody is to blame.
        :returns: whether it is a failure that the address is blamed for.
        """
        self._settle(now)
        attempt = self._attempts.pop(dial.number)
        route = attempt.route
        phase = None
        if attempt.proxy_id is not None:
            phase = self.tracker.phase(attempt.proxy_id)
            if not self._succession.ended(attempt.proxy_id, dial.number, now):
                return False
        if by_us or phase is Phase.DRAINING or attempt.refused is ClaimAnswer.ENOUGH:
            return False
        if attempt.landed_on is not None:
            route.landed(attempt.landed_on, self.tracker.population(), now)
            return False
        if attempt.settled:
            route.lost(now)
            return False
        if attempt.undecided and attempt.started < route.answered_at:
            return False
        route.failed(now)
        return True

    # What follows from it.

    def plan(self, now: float) -> Plan:
        """What to do now; to be asked again after every event, and at ``wake_at``."""
        self._settle(now)
        self.tracker.expire(now)
        self._forget_routes()
        self._seek_anew()
        limit = CAP if self.tracker.held() else ALONE_CAP
        need = self.tracker.shortfall()
        expiry = self.tracker.next_expiry()
        wakes = [math.inf if expiry is None else expiry]
        dials: list[Dial] = []
        if need:
            hoped = self._plan_direct(need, limit, now, dials, wakes)
            self._plan_balancers(need - hoped, limit, now, dials, wakes)
            wakes += [
                attempt.started + STALL
                for attempt in self._attempts.values()
                if attempt.undecided and attempt.started + STALL > now
            ]
        notices = self._notices(now, wakes)
        return Plan(
            tuple(dials),
            self.tracker.surplus(),
            self.tracker.outdated(),
            notices,
            min(wakes),
        )

    def _plan_direct(
        self,
        need: int,
        limit: float,
        now: float,
        dials: list[Dial],
        wakes: list[float],
    ) -> int:
        """Dial missing proxies at their own addresses.

        :returns: how many proxies are hoped to be reached so.
        """
        hoped = 0
        candidates: list[tuple[KnownProxy, list[Route]]] = []
        for proxy in self.tracker.missing():
            routes = [self._direct_route(proxy.id, a, now) for a in proxy.addresses]
            in_flight = [
                attempt
                for attempt in self._attempts.values()
                if attempt.undecided and attempt.dial.expected == proxy.id
            ]
            busy = {attempt.dial.address for attempt in in_flight}
            idle = [route for route in routes if route.address not in busy]
            if any(now - attempt.started < STALL for attempt in in_flight):
                hoped += 1
            elif idle:
                candidates.append((proxy, idle))
        # Any of them will do when not all are wanted: each agent takes its own choice.
        if len(candidates) > need - hoped:
            candidates.sort(key=lambda _: self._chance())
        for proxy, routes in candidates:
            if hoped >= need:
                break
            route = min(routes, key=lambda r: (r.ready_at(limit), r.dialled_at))
            if route.ready_at(limit) > now:
                wakes.append(route.ready_at(limit))
            elif self._undecided() < MAX_IN_FLIGHT:
                dials.append(self._start(route, proxy.id, now))
            # An address that failed may be what it is; the balancer is asked as well.
            hoped += not route.failing
        return hoped

    def _plan_balancers(
        self,
        need: int,
        limit: float,
        now: float,
        dials: list[Dial],
        wakes: list[float],
    ) -> None:
        """Dial the balancers for the proxies that nothing else leads to."""
        alone = not self.tracker.held()
        width = need + 1 if need > 0 and not alone else need
        if alone:
            # Nobody knows which of the addresses leads anywhere.
            every = len(self._balancers)
            tunnels = self.tracker.tunnels
            width = max(1, need, every if tunnels is None else min(every, tunnels))
        width = min(width, MAX_PARALLEL)
        if width <= 0:
            return
        for _ in range(MAX_PARALLEL):
            free = [r for r in self._balancers if self._may_dial(r)]
            if not free or self._hoped_for(now) >= width:
                break
            route = min(
                free,
                key=lambda r: (max(r.ready_at(limit), now), r.dialled_at, r.dials),
            )
            if route.ready_at(limit) > now:
                wakes.append(route.ready_at(limit))
                break
            if self._undecided() >= MAX_IN_FLIGHT:
                break
            dials.append(self._start(route, None, now))

    def _notices(self, now: float, wakes: list[float]) -> tuple[Pinned, ...]:
        missing = frozenset(proxy.id for proxy in self.tracker.missing())
        notices = []
        for route in self._balancers:
            said = self._noticed.get(route.address, frozenset())
            if not route.pinned or not missing - said:
                continue
            due = route.landing_since + NOTICE_AFTER
            if due > now:
                wakes.append(due)
                continue
            self._noticed[route.address] = said | missing
            given, unreached = tuple(route.given), tuple(sorted(missing))
            notices.append(Pinned(route.address, route.landings, given, unreached))
        return tuple(notices)

    def _start(self, route: Route, expected: str | None, now: float) -> Dial:
        self._count += 1
        dial = Dial(self._count, route.address, expected, route.dialled(now))
        self._attempts[dial.number] = _Attempt(dial, route, now)
        return dial

    def _undecided(self) -> int:
        return sum(attempt.undecided for attempt in self._attempts.values())

    def _through(self, route: Route) -> int:
        return sum(
            attempt.undecided and attempt.route is route
            for attempt in self._attempts.values()
        )

    def _may_dial(self, route: Route) -> bool:
        # A balancer that does not answer, or is pinned, is tried one dial at a time.
        return not ((route.pinned or route.failing) and self._through(route))

    def _hoped_for(self, now: float) -> int:
        return sum(
            attempt.undecided
            and attempt.dial.expected is None
            and now - attempt.started < STALL
            for attempt in self._attempts.values()
        )

    def _seek_anew(self) -> None:
        """Give the balancers another chance when there is a new proxy to look for."""
        missing = frozenset(proxy.id for proxy in self.tracker.missing())
        if missing - self._sought:
            for route in self._balancers:
                route.renew()
        self._sought = missing

    def _direct_route(self, proxy_id: str, address: str, now: float) -> Route:
        route = self._direct.get((proxy_id, address))
        if route is None:
            # All the agents hear of a new proxy in the same moment.
            route = Route(address, self._chance, now + self._chance() * BASE)
            self._direct[proxy_id, address] = route
        return route

    def _forget_routes(self) -> None:
        advertised = {
            (proxy.id, address)
            for proxy in self.tracker.known()
            for address in proxy.addresses
        }
        for key in self._direct.keys() - advertised:
            del self._direct[key]

    def _settle(self, now: float) -> None:
        for attempt in self._attempts.values():
            since = attempt.serving_since
            if since is not None and not attempt.settled and now - since >= SETTLED:
                attempt.settled = True
                attempt.route.settled()

    def _claimed_by(self, attempt: _Attempt) -> str:
        if attempt.proxy_id is None:
            raise ValueError("this dial has made no claim")
        return attempt.proxy_id
