"""Names looked up for several people, so that none of them keeps the others waiting.

A lookup takes one of the reactor's threads until the system's resolver is done. For a
name whose servers are silent that is many seconds, and a thread cannot be stopped. So
each person has a few at a time, and all of them together leave some threads to the
program itself, which has to find its proxies.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorPluggableNameResolver

from rtunnel.resolution import Receiver, addresses_without_lookup

#: Lookups at a time, for one person and for all.
EACH: Final = 4
ALL: Final = 24

#: Threads of the reactor, in which names are looked up: for all of them, and our own.
THREADS: Final = ALL + 8


class Lookups:
    """Lookups under way, and those that wait for them.

    People take turns, and so do the names of one person. How many wait is bounded by
    the channels that may be opened, and how long by whoever waits.

    :param reactor: asks its name resolver.
    """

    def __init__(self, reactor: IReactorPluggableNameResolver) -> None:
        self._reactor = reactor
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, list[Deferred[None]]] = OrderedDict()

    async def resolve(self, host: str, person: str) -> tuple[str, ...]:
        """The addresses of a host; see :func:`rtunnel.resolution.resolve`.

        Cancelling it only means that nobody waits. A lookup that has begun counts until
        the resolver is done.

        :param person: for whom it is.
        """
        known = addresses_without_lookup(host)
        if known is not None:
            return known
        if self._may_begin(person):
            self._running[person] += 1
        else:
            turn: Deferred[None] = Deferred(lambda turn: self._give_up(person, turn))
            self._waiting.setdefault(person, []).append(turn)
            await turn
        receiver = Receiver(lambda: self._ended(person))
        try:
            self._reactor.nameResolver.resolveHostName(receiver, host)
        except BaseException:
            self._ended(person)
            raise
        return await receiver.done

    def _may_begin(self, person: str) -> bool:
        return self._running[person] < EACH and self._running.total() < ALL

    def _give_up(self, person: str, turn: Deferred[None]) -> None:
        line = self._waiting[person]
        line.remove(turn)
        if not line:
            del self._waiting[person]

    def _ended(self, person: str) -> None:
        self._running[person] -= 1
        if not self._running[person]:
            del self._running[person]
        for each in list(self._waiting):
            if self._may_begin(each):
                line = self._waiting.pop(each)
                turn = line.pop(0)
                if line:
                    # To the end: it is the others' turn next.
                    self._waiting[each] = line
                self._running[each] += 1
                turn.callback(None)
                return
