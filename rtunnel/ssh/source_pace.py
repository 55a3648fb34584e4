"""How fast one source may come and go without logging in.

A few at once are answered at once; the rest wait their turn, and nobody is refused.
Who logs in does not count, so a site that reconnects as a whole is not slowed down.
"""

from __future__ import annotations

from collections import OrderedDict


class SourcePace:
    """When to answer a new connection of each source.

    The "virtual scheduling" form of a token bucket (ITU-T I.371, GCRA): one number for
    a source, the time at which its bucket is full again.

    :param rate: connections per second.
    :param burst: connections at once, after a quiet time.
    :param sources: sources that are remembered; beyond it, the one that came first is
        forgotten.
    """

    def __init__(self, rate: float, burst: int, sources: int) -> None:
        self._interval = 1 / rate
        self._burst = burst
        self._sources = sources
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def enter(self, source: str, now: float) -> float:
        """One more has come; how many seconds it has to wait for its answer."""
        full_at = max(self._full_at.pop(source, now), now) + self._interval
        # However many come and go, nobody waits for longer than a burst takes.
        full_at = min(full_at, now + 2 * self._burst * self._interval)
        self._full_at[source] = full_at
        self._forget_some(now)
        return max(0.0, full_at - now - self._burst * self._interval)

    def has_room(self, source: str, now: float) -> bool:
        """Whether one that came now would not have to wait."""
        full_at = max(self._full_at.get(source, now), now) + self._interval
        return full_at - now <= self._burst * self._interval

    def give_back(self, source: str) -> None:
        """One of those that entered has logged in, and does not count."""
        if source in self._full_at:
            self._full_at[source] -= self._interval

    def _forget_some(self, now: float) -> None:
        while self._full_at:
            oldest = next(iter(self._full_at.values()))
            if oldest > now and len(self._full_at) <= self._sources:
                break
            self._full_at.popitem(last=False)
