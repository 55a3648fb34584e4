"""Which proxies there are, which of them have a tunnel from here, and which are wanted.

Proxies *vouch* for proxies: each discovery request is the full list of one source and
replaces what that source said before. A proxy is known as long as anybody's word for it
is younger than the ``ttl`` that came with it. What is known of it comes from the
highest generation that anybody vouches for. Within one generation the proxy's own word
comes first, and among those of others ``draining``, because a proxy does not go back to
being active without starting anew.

A *claim* says that a proxy has a tunnel from this agent, or a dial that has passed the
host-key check: at most one for each proxy. Claims never run out. A draining tunnel
keeps its claim, so that nothing dials its proxy again, but no longer counts as one we
have. A tunnel that is to be made *anew* serves and counts, and its proxy is wanted as
if it had none; one dial may be granted a claim beside it, and takes it over when it is
in service.

This file decides nothing about addresses, waits or numbers of dials: see
:mod:`rtunnel.agent.pool`. Pure: time is brought by the caller, in seconds.
"""

from __future__ import annotations

import enum
import math
from typing import Final

import attrs

from rtunnel.discovery.messages import ACTIVE, DRAINING, DiscoveryRequest, ProxyAdvert

#: Proxies remembered at once, whoever vouches for them. More are passed over.
MAX_KNOWN: Final = 256
#: Seconds after the tunnel to a proxy that left is gone in which the word of others,
#: that it is active in the generation that left, is not believed.
LEFT_FOR: Final = 30.0


class ClaimAnswer(enum.Enum):
    """May a dial that has reached a proxy go on to log in there?"""

    GRANTED = "granted"
    #: The proxy has a tunnel from here, or another dial is further.
    TAKEN = "it already has a tunnel from this agent"
    #: The proxy is leaving.
    LEAVING = "it is draining"
    #: As many tunnels as were asked for are there.
    ENOUGH = "this agent holds as many tunnels as it is to hold"


class Phase(enum.Enum):
    """How far the tunnel behind a claim is."""

    ESTABLISHING = "establishing"
    IN_SERVICE = "in service"
    DRAINING = "draining"


@attrs.frozen
class KnownProxy:
    """What is known of one proxy now.

    :param id: the proxy's UUID.
    :param addresses: where it says it can be dialled; empty: through a balancer only.
    :param generation: of the record that this is from.
    :param state: ``active`` or ``draining``.
    :param expires: when it is forgotten unless somebody vouches for it again, seconds.
    """

    id: str
    addresses: tuple[str, ...]
    generation: int
    state: str
    expires: float


@attrs.frozen
class _Vouch:
    advert: ProxyAdvert
    expires: float
    is_own: bool

    def rank(self) -> tuple[int, bool, bool, float]:
        """The more a word counts, the higher."""
        advert = self.advert
        draining = advert.state == DRAINING
        return advert.generation, self.is_own, draining, self.expires


@attrs.frozen
class _Left:
    generation: int
    until: float


class Tracker:
    """The agent's view of the proxies.

    :param tunnels: how many tunnels to hold; ``None`` is one to each active proxy.
    """

    def __init__(self, tunnels: int | None = None) -> None:
        if tunnels is not None and tunnels < 1:
            raise ValueError("tunnels has to be at least 1, or None for all")
        self.tunnels = tunnels
        #: proxy id → source (a proxy id) → its word
        self._vouches: dict[str, dict[str, _Vouch]] = {}
        #: In the order in which they were made.
        self._claims: dict[str, Phase] = {}
        #: proxy id → what it told us itself: that it is leaving
        self._left: dict[str, _Left] = {}
        self._known: dict[str, KnownProxy] | None = None
        #: Proxies whose tunnel is in service, but to be made anew.
        self._stale: set[str] = set()
        #: Those of them for which a dial is under way that may take over.
        self._replacing: set[str] = set()

    # What happens.

    def learn(self, source: str, request: DiscoveryRequest, now: float) -> None:
        """A discovery request has come.

        :param source: id of the proxy that sent it.
        :param request: its full list; whom it leaves out, it no longer vouches for.
        :param now: seconds.
        """
        listed = {advert.id for advert in request.proxies}
        for proxy_id, vouches in self._vouches.items():
            if proxy_id not in listed:
                vouches.pop(source, None)
        for advert in request.proxies:
            if advert.id not in self._vouches and len(self._vouches) >= MAX_KNOWN:
                continue
            vouches = self._vouches.setdefault(advert.id, {})
            vouches[source] = _Vouch(
                advert, now + advert.ttl, is_own=source == advert.id
            )
        self._known = None
        self.expire(now)

    def expire(self, now: float) -> None:
        """Forget whom nobody vouches for any longer.

        :param now: seconds.
        """
        ended = [
            (vouches, source)
            for vouches in self._vouches.values()
            for source, vouch in vouches.items()
            if vouch.expires <= now
        ]
        for vouches, source in ended:
            del vouches[source]
        for proxy_id in [p for p, vouches in self._vouches.items() if not vouches]:
            del self._vouches[proxy_id]
        over = [p for p, left in self._left.items() if left.until <= now]
        for proxy_id in over:
            del self._left[proxy_id]
        if ended or over:
            self._known = None

    def claim(self, proxy_id: str, now: float) -> ClaimAnswer:
        """A dial has read a proxy's id from its host certificate.

        :param proxy_id: the proxy's UUID.
        :param now: seconds.
        :returns: GRANTED when the dial may go on and log in: the claim is then made.
            With no tunnel held, a proxy that was said to leave is taken all the same.
        """
        self.expire(now)
        if proxy_id in self._claims:
            if proxy_id not in self._stale - self._replacing:
                return ClaimAnswer.TAKEN
            if self.tunnels is not None and self._up_to_date() >= self.tunnels:
                return ClaimAnswer.ENOUGH
            self._replacing.add(proxy_id)
            return ClaimAnswer.GRANTED
        held = self.held()
        if self._is_leaving(proxy_id):
            if held:
                return ClaimAnswer.LEAVING
            # All proxies were started anew, and nobody is left who could tell us. It
            # answers, so what we knew of it is over.
            self._forget(proxy_id)
        if self.tunnels is not None and self._up_to_date() >= self.tunnels:
            return ClaimAnswer.ENOUGH
        self._claims[proxy_id] = Phase.ESTABLISHING
        return ClaimAnswer.GRANTED

    def serve(self, proxy_id: str) -> None:
        """The proxy has answered our hello: the tunnel is in service.

        :raises KeyError: when the proxy is not claimed.
        """
        self._expect(proxy_id)
        self._claims[proxy_id] = Phase.IN_SERVICE
        self._settle_replacement(proxy_id)

    def make_anew(self, proxy_id: str) -> None:
        """The tunnel to a proxy is to be replaced, and serves until it is.

        Nothing happens when it is not in service.
        """
        if self._claims.get(proxy_id) is Phase.IN_SERVICE:
            self._stale.add(proxy_id)

    def keep(self, proxy_id: str) -> None:
        """The tunnel to a proxy is good enough after all."""
        self._settle_replacement(proxy_id)

    def replacement_failed(self, proxy_id: str) -> None:
        """Nothing came of the dial that was to take over; another one may."""
        self._replacing.discard(proxy_id)

    def succeed(self, proxy_id: str) -> None:
        """The tunnel is gone while a dial was to take over from it: that has the claim
        now, and is still being established.

        :raises KeyError: when the proxy is not claimed.
        """
        self._expect(proxy_id)
        self._claims[proxy_id] = Phase.ESTABLISHING
        self._settle_replacement(proxy_id)

    def _settle_replacement(self, proxy_id: str) -> None:
        self._stale.discard(proxy_id)
        self._replacing.discard(proxy_id)

    def drain(self, proxy_id: str, *, by_proxy: bool) -> None:
        """A tunnel takes nothing new any longer; what is open may finish.

        :param by_proxy: the proxy itself is leaving, so it is not wanted again before
            it comes back with a higher generation.
        :raises KeyError: when the proxy is not claimed.
        """
        self._expect(proxy_id)
        self._claims[proxy_id] = Phase.DRAINING
        self._settle_replacement(proxy_id)
        if by_proxy:
            known = self._all_known().get(proxy_id)
            generation = known.generation if known else 0
            self._left[proxy_id] = _Left(generation, math.inf)
            self._known = None

    def release(self, proxy_id: str, now: float) -> None:
        """The tunnel is gone, or never came up.

        :param now: seconds.
        :raises KeyError: when the proxy is not claimed.
        """
        del self._claims[proxy_id]
        self._settle_replacement(proxy_id)
        if proxy_id in self._left:
            left = self._left[proxy_id]
            self._left[proxy_id] = attrs.evolve(left, until=now + LEFT_FOR)
        self.expire(now)

    # What follows from it.

    def known(self) -> tuple[KnownProxy, ...]:
        """Every proxy that somebody vouches for, in the order they became known."""
        return tuple(self._all_known().values())

    def phase(self, proxy_id: str) -> Phase | None:
        """How far the tunnel to a proxy is; ``None`` when there is none."""
        return self._claims.get(proxy_id)

    def claimed(self) -> dict[str, Phase]:
        """Every claim, oldest first."""
        return dict(self._claims)

    def held(self) -> tuple[str, ...]:
        """Proxies with a tunnel that counts, oldest claim first.

        That is one in service or being established, to a proxy that is not leaving.
        """
        return tuple(
            proxy_id
            for proxy_id, phase in self._claims.items()
            if phase is not Phase.DRAINING and not self._is_leaving(proxy_id)
        )

    def missing(self) -> tuple[KnownProxy, ...]:
        """Active proxies without a claim, or with a tunnel that is to be made anew."""
        satisfied = self._claims.keys() - (self._stale - self._replacing)
        return tuple(
            proxy
            for proxy in self.known()
            if proxy.state == ACTIVE and proxy.id not in satisfied
        )

    def shortfall(self) -> int:
        """How many more tunnels are wanted now.

        With none held it is at least 1, whatever is known: somebody new may answer.
        """
        wanted = max(len(self.missing()), 0 if self.held() else 1)
        if self.tunnels is not None:
            wanted = min(wanted, self.tunnels - self._up_to_date())
        return max(0, wanted)

    def _up_to_date(self) -> int:
        """Tunnels that count and need not be made anew, and dials that will."""
        return len(set(self.held()) - self._stale | self._replacing)

    def all_in_service(self) -> bool:
        """Whether nothing is wanted, and no tunnel is still being established.

        Only then has a tunnel that is to be left been replaced.
        """
        return not self.shortfall() and all(
            self._claims[proxy_id] is Phase.IN_SERVICE for proxy_id in self.held()
        )

    def surplus(self) -> tuple[str, ...]:
        """Proxies whose tunnels are more than were asked for, newest first."""
        if self.tunnels is None:
            return ()
        held = [proxy_id for proxy_id in self.held() if proxy_id not in self._stale]
        return tuple(reversed(held[self.tunnels :]))

    def outdated(self) -> tuple[str, ...]:
        """Proxies whose tunnels are to be made anew, but are no longer needed for it:
        as many others as were asked for are in service."""
        serving = [
            proxy_id
            for proxy_id in self.held()
            if self._claims[proxy_id] is Phase.IN_SERVICE
            and proxy_id not in self._stale
        ]
        if self.tunnels is None or len(serving) < self.tunnels:
            return ()
        return tuple(sorted(self._stale))

    def population(self) -> int:
        """How many active proxies there are, to the best of our knowledge."""
        return len({proxy.id for proxy in self.missing()} | set(self.held()))

    def next_expiry(self) -> float | None:
        """When :meth:`expire` will next change something, seconds."""
        ends = [v.expires for all_ in self._vouches.values() for v in all_.values()]
        ends += [left.until for left in self._left.values() if left.until < math.inf]
        return min(ends, default=None)

    def _forget(self, proxy_id: str) -> None:
        self._vouches.pop(proxy_id, None)
        self._left.pop(proxy_id, None)
        self._known = None

    def _expect(self, proxy_id: str) -> None:
        if proxy_id not in self._claims:
            raise KeyError(proxy_id)

    def _all_known(self) -> dict[str, KnownProxy]:
        """By id. Made anew after each change only: every plan asks several times."""
        if self._known is None:
            self._known = {
                proxy_id: self._seen_from_here(proxy_id, vouches)
                for proxy_id, vouches in self._vouches.items()
                if vouches
            }
        return self._known

    def _seen_from_here(self, proxy_id: str, vouches: dict[str, _Vouch]) -> KnownProxy:
        best = max(vouches.values(), key=_Vouch.rank).advert
        left = self._left.get(proxy_id)
        has_left = left is not None and left.generation >= best.generation
        return KnownProxy(
            proxy_id,
            best.addresses,
            best.generation,
            DRAINING if has_left else best.state,
            max(vouch.expires for vouch in vouches.values()),
        )

    def _is_leaving(self, proxy_id: str) -> bool:
        known = self._all_known().get(proxy_id)
        return proxy_id in self._left if known is None else known.state == DRAINING
