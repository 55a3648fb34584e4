"""How long to wait before dialling an address again.

Full jitter, decorrelated: each wait is drawn evenly between ``base`` and three times
the wait before it, and never beyond ``cap`` ("Exponential Backoff And Jitter", AWS
Architecture Blog). Because the draw is made inside the cap, agents that have all waited
long do not fall into step, as they would if a drawn wait were cut off at the cap.

Pure: chance is a callable, and the caller keeps the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Seconds: the shortest wait after a failure.
BASE: Final = 0.5
#: Seconds: the longest wait.
CAP: Final = 30.0
#: A wait is drawn up to this many times the wait before it.
GROWTH: Final = 3.0


class Backoff:
    """The memory of one address.

    :param chance: a number from 0 up to 1, as ``random.random``.
    :param base: seconds: the shortest wait.
    :param cap: seconds: the longest wait.
    """

    def __init__(
        self, chance: Callable[[], float], base: float = BASE, cap: float = CAP
    ) -> None:
        self._chance = chance
        self._base = base
        self._cap = cap
        self._previous = base
        self._ceiling = base
        self._drawn = 0.0
        self._failed = False

    @property
    def failed(self) -> bool:
        """Whether a failure is remembered."""
        return self._failed

    def add(self) -> None:
        """One more failure: draw the wait that follows it."""
        self._failed = True
        self._ceiling = min(self._cap, self._previous * GROWTH)
        self._drawn = self._chance()
        self._previous = self.wait()

    def wait(self, limit: float | None = None) -> float:
        """Seconds to wait after the last failure; 0 when none is remembered.

        :param limit: seconds: a lower cap that holds at the moment. The draw is scaled
            into it, so that the jitter stays.
        """
        if not self._failed:
            return 0.0
        ceiling = self._ceiling if limit is None else min(self._ceiling, limit)
        return self._base + self._drawn * max(0.0, ceiling - self._base)

    def ease(self) -> None:
        """A sign of life from the address that is no success: takes one failure back.

        The next wait is drawn as if the last failure had not been; the wait that runs
        at the moment stays.
        """
        self._previous = max(self._base, self._previous / GROWTH)

    def reset(self) -> None:
        """Forget every failure."""
        self._previous = self._ceiling = self._base
        self._drawn = 0.0
        self._failed = False
