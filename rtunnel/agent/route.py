"""The pace of dials to one address: what came of the last ones, when the next may be.

Three things can come of a dial, and each has its own wait:

* It failed: :class:`~rtunnel.discovery.backoff.Backoff`, forgotten only when a tunnel
  through this address has been in service for a while. A dial that reached a new proxy
  ends the wait that runs, as the address answers again, but the next failure waits as
  long as it would have.
* It landed on a proxy that is claimed already. Behind a balancer that is luck and no
  fault, so the next dial follows after a fraction of a second, a little more after each
  landing. After so many landings in a row that luck does not explain them, the balancer
  is *pinned* (by source address, by least connections ...): the waits grow as after
  failures.
* It reached a proxy that had no tunnel yet: no wait, and the landings are forgotten.

What failed after the address has answered but was dialled before that says nothing of
it: such dials end one by one for a while after a balancer is back.

Pure: time is brought by the caller, in seconds; chance is a callable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from rtunnel.discovery.backoff import BASE, Backoff

#: Seconds: the wait after a landing is drawn between these, and grows with landings.
LANDING_PAUSE: Final = (0.05, 0.25)
#: Fewest landings in a row that can make a balancer pinned.
FEWEST_LANDINGS: Final = 8
#: Seconds: the shortest wait between dials of a pinned balancer.
PINNED_BASE: Final = 2.0


def patience(population: int) -> int:
    """Landings on claimed proxies in a row that a fair balancer hardly ever gives.

    Three times the n·Hₙ dials that it takes on average to be given each of n proxies by
    chance (the coupon collector's problem). One proxy of n that is missing is then
    overlooked with probability of about e^(-3·Hₙ): less than 1 in 100 for 2 proxies, 1
    in 900 for 5.

    :param population: how many active proxies there are.
    """
    harmonic = sum(1 / k for k in range(1, population + 1))
    return max(FEWEST_LANDINGS, math.ceil(3 * population * harmonic))


class Route:
    """What is remembered of one address.

    :param address: as configured or advertised.
    :param chance: a number from 0 up to 1, as ``random.random``.
    :param not_before: when the first dial may be, seconds.
    :ivar dialled_at: when it was last dialled, seconds; ``-inf`` before the first.
    :ivar dials: how many dials there were.
    :ivar failing: whether the last dial failed.
    :ivar answered_at: when a dial last reached a proxy, seconds; ``-inf`` before that.
    :ivar given: claimed proxies that the landings in a row were on, and how often.
    :ivar landing_since: when those landings began, seconds; ``inf`` without any.
    """

    def __init__(
        self, address: str, chance: Callable[[], float], not_before: float = -math.inf
    ) -> None:
        self.address = address
        self.dialled_at = -math.inf
        self.dials = 0
        self.failing = False
        self.answered_at = -math.inf
        self.given: dict[str, int] = {}
        self.landing_since = math.inf
        self._chance = chance
        self._backoff = Backoff(chance)
        self._stretch = Backoff(chance, PINNED_BASE)
        self._failed_at = -math.inf
        self._landings = 0
        self._pinned = False
        self._pause = 0.0
        self._paused_at = not_before

    @property
    def pinned(self) -> bool:
        """Whether the balancer here gives nothing but claimed proxies."""
        return self._pinned

    @property
    def landings(self) -> int:
        """Landings on claimed proxies in a row."""
        return self._landings

    def ready_at(self, limit: float) -> float:
        """When it may be dialled again, seconds.

        :param limit: seconds: the longest wait that makes sense at the moment.
        """
        pause = self._stretch.wait(limit) if self._pinned else self._pause
        return max(
            self._failed_at + self._backoff.wait(limit),
            self._paused_at + min(pause, limit),
        )

    def dialled(self, now: float) -> int:
        """It is dialled.

        :returns: how many dials there were before, for taking turns among the addresses
            that a name resolves to.
        """
        self.dialled_at = now
        self.dials += 1
        return self.dials - 1

    def failed(self, now: float) -> None:
        """No tunnel came of a dial, or one that did not last."""
        self.failing = True
        self._failed_at = now
        self._backoff.add()

    def landed(self, proxy_id: str, population: int, now: float) -> None:
        """A dial reached a proxy that is claimed already.

        :param proxy_id: which.
        :param population: how many active proxies there are.
        """
        if not self._landings:
            self.landing_since = now
        self._landings += 1
        self.given[proxy_id] = self.given.get(proxy_id, 0) + 1
        self._paused_at = self.answered_at = now
        self.failing = False
        # The address answers: the failures between landings are some proxy's, not its.
        self._backoff.ease()
        if self._landings >= patience(population):
            self._pinned = True
            self._stretch.add()
        else:
            low, high = LANDING_PAUSE
            drawn = low + self._chance() * (high - low)
            self._pause = drawn * (1 + self._landings / max(1, population))

    def reached(self, now: float) -> None:
        """A dial reached a proxy that had no tunnel yet."""
        self.failing = False
        self.answered_at = now
        self._failed_at = -math.inf
        self.renew()

    def renew(self) -> None:
        """There is a new proxy to look for: forget the landings, not the failures."""
        self._landings = 0
        self._pinned = False
        self._pause = 0.0
        self._stretch.reset()
        self.given.clear()
        self.landing_since = math.inf

    def settled(self) -> None:
        """A tunnel through this address has been in service for a while."""
        self._backoff.reset()

    def lost(self, now: float) -> None:
        """A tunnel that had been in service for a while is gone.

        The wait is a short one, drawn so that the agents of a proxy that stops do not
        all come back in the same moment.
        """
        self._paused_at = now
        self._pause = max(self._pause, self._chance() * BASE)
