"""Key exchanges and login attempts of strangers, one after the other.

Each costs milliseconds of this process's only thread, and anybody can ask for them.
So there is never more than one in a turn of the reactor, and while those who have
logged in are sending, no more than a share of the time goes into them. With nobody
else to serve they follow one another without a pause. Who waits is not read from.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twisted.internet.interfaces import IReactorTime

#: Seconds between two looks at whether it is a stranger's turn, while others send.
_LOOK_EVERY = 0.001

#: A single piece of work is not held to have cost more than this many seconds, so that
#: a clock that jumps stops nobody.
_MOST_AT_ONCE = 0.1


class HandshakeTurns:
    """Whose turn it is, for all the connections of a process.

    Sources take turns, and so do the connections of one source. What waits is bounded
    by how many connections may be there without a login.

    :param clock: for the time that work takes, and for waiting.
    :param share: of the time, that strangers may have while others send; above 0,
        below 1.
    :ivar traffic: to be counted up whenever somebody who has logged in sends something.
    """

    def __init__(self, clock: IReactorTime, share: float) -> None:
        self.traffic = 0
        self._clock = clock
        self._rest_per_work = 1 / share - 1
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()
        self._looking = False
        # Until when the others come first, and the traffic when that was decided.
        self._rest_until = 0.0
        self._traffic_then = 0

    def __len__(self) -> int:
        """How many are waiting."""
        return sum(map(len, self._waiting.values()))

    def may_go(self) -> bool:
        """Whether it is a newcomer's turn at once; if not, it has to :meth:`wait`."""
        return not self._waiting and self._rest() <= 0

    def wait(self, source: str, go: Callable[[], None]) -> None:
        """Wait for a turn.

        :param source: where it comes from.
        :param go: called when it is its turn.
        """
        self._waiting.setdefault(source, deque()).append(go)
        if not self._looking:
            self._look_later(0.0)

    def give_up(self, source: str, go: Callable[[], None]) -> None:
        """No longer wait; nothing happens if its turn has come already."""
        line = self._waiting.get(source)
        if line is not None and go in line:
            line.remove(go)
            if not line:
                del self._waiting[source]

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around a stranger's work, for the time that it takes."""
        started = self._clock.seconds()
        try:
            yield
        finally:
            now = self._clock.seconds()
            spent = min(max(0.0, now - started), _MOST_AT_ONCE)
            self._rest_until = now + spent * self._rest_per_work
            self._traffic_then = self.traffic

    def _rest(self) -> float:
        """Seconds that belong to others yet; the clock may have been set."""
        rest = self._rest_until - self._clock.seconds()
        return 0.0 if rest > _MOST_AT_ONCE * max(1.0, self._rest_per_work) else rest

    def _look_later(self, delay: float) -> None:
        self._looking = True
        self._clock.callLater(delay, self._look)

    def _look(self) -> None:
        """The reactor has been round once: everybody else has been served."""
        self._looking = False
        if not self._waiting:
            return
        # Asked once: it may be over by the next time.
        rest = self._rest()
        if rest > 0 and self.traffic != self._traffic_then:
            # Rest in small pieces: the traffic may stop before it is over.
            self._traffic_then = self.traffic
            self._look_later(min(rest, _LOOK_EVERY))
            return
        source, line = next(iter(self._waiting.items()))
        go = line.popleft()
        del self._waiting[source]
        if line:
            self._waiting[source] = line
        self._rest_until = self._clock.seconds()
        try:
            go()
        finally:
            if self._waiting and not self._looking:
                self._look_later(0.0)
