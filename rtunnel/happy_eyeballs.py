"""Several ways to one end, side by side: the first that works is taken.

Attempts are started one after another, a little apart, or at once when the one before
has failed; when one succeeds the others are cancelled. Source: RFC 8305 ("Happy
Eyeballs Version 2") section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

#: Seconds between attempts: the "Connection Attempt Delay" that RFC 8305 recommends.
ATTEMPT_DELAY: Final = 0.25

_T = TypeVar("_T")


def first_success(
    attempts: Sequence[Callable[[], Deferred[_T]]],
    clock: IReactorTime,
    delay: float = ATTEMPT_DELAY,
) -> Deferred[_T]:
    """Make attempts until one succeeds.

    :param attempts: at least one, the best first; each starts one attempt, whose
        Deferred can be cancelled.
    :param delay: seconds until the next is started beside those that are under way.
    :returns: fires with the first success, or fails with what the first attempt failed
        with when all have failed. Cancelling it cancels every attempt.
    """
    if not attempts:
        raise ValueError("there is nothing to attempt")
    return _Race(list(attempts), clock, delay).done


class _Race(Generic[_T]):
    def __init__(
        self,
        attempts: list[Callable[[], Deferred[_T]]],
        clock: IReactorTime,
        delay: float,
    ) -> None:
        self.done: Deferred[_T] = Deferred(self._cancelled)
        self._attempts = attempts
        self._clock = clock
        self._delay = delay
        self._running: dict[int, Deferred[_T]] = {}
        self._timer: IDelayedCall | None = None
        self._failures: dict[int, Failure] = {}
        self._next = 0
        self._over = False
        self._start_next()

    def _start_next(self) -> None:
        self._stop_timer()
        if self._over or self._next == len(self._attempts):
            return
        number = self._next
        self._next += 1
        if self._next < len(self._attempts):
            self._timer = self._clock.callLater(self._delay, self._start_next)
        attempt = self._attempts[number]()
        self._running[number] = attempt
        attempt.addCallbacks(
            self._succeeded,
            self._failed,
            callbackArgs=(number,),
            errbackArgs=(number,),
        )

    def _succeeded(self, result: _T, number: int) -> None:
        del self._running[number]
        self._finish()
        self.done.callback(result)

    def _failed(self, failure: Failure, number: int) -> None:
        self._running.pop(number, None)
        if self._over:
            return
        self._failures[number] = failure
        self._start_next()
        if not self._running and self._next == len(self._attempts) and not self._over:
            self._finish()
            self.done.errback(self._failures[min(self._failures)])

    def _cancelled(self, done: Deferred[_T]) -> None:
        self._finish()

    def _finish(self) -> None:
        self._over = True
        self._stop_timer()
        for attempt in list(self._running.values()):
            attempt.cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
