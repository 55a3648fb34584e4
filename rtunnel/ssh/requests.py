"""Requests and their answers, which SSH matches by order alone (RFC 4254, 4 and 5.4).

:class:`SentRequests` are ours, waiting for the peer. :class:`ReceivedRequests` are the
peer's: our answers may become known in any order, and go out in the order of the
requests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from rtunnel.errors import ProtocolError, RequestFailed
from rtunnel.naming import printable


class SentRequests:
    """Requests that we sent and that want an answer.

    :param limit: requests that may wait for an answer at a time.
    """

    __slots__ = ("_limit", "_waiting")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # A list, as ``limit`` is small: an empty deque has 760 bytes.
        self._waiting: list[tuple[bytes, Deferred[bytes]]] = []

    def refusal(self) -> RequestFailed | None:
        """Why another request cannot be sent now, if so."""
        if len(self._waiting) < self._limit:
            return None
        return RequestFailed(f"{self._limit} requests wait for an answer already")

    def add(self, name: bytes) -> Deferred[bytes]:
        """A request was sent; the Deferred fires with the data of its answer.

        Cancelling it only means that the answer is not waited for.
        """
        answer: Deferred[bytes] = Deferred()
        self._waiting.append((name, answer))
        return answer

    def answered(self, success: bool, data: bytes) -> None:
        """The peer answered the oldest request.

        :raises ProtocolError: when there is none.
        """
        if not self._waiting:
            raise ProtocolError("an answer to a request that was never made")
        name, answer = self._waiting.pop(0)
        if answer.called:
            return
        if success:
            answer.callback(data)
        else:
            answer.errback(RequestFailed(f"the peer refused {printable(name)!r}"))

    def fail(self, reason: Exception) -> None:
        """No answer counts any more. Those that come are still matched and dropped."""
        for _, answer in list(self._waiting):
            if not answer.called:
                answer.errback(reason)


class _Request:
    """One request of the peer's whose answer has not been sent."""

    __slots__ = ("outcome", "running", "want_reply")

    def __init__(self, want_reply: bool) -> None:
        self.want_reply = want_reply
        self.outcome: bool | None = None
        self.running: Deferred[bool] | None = None


class ReceivedRequests:
    """Requests of the peer's, answered in order.

    :param limit: requests that may be without an answer at a time.
    :param answer: sends success or failure to the peer.
    :param failed: told when handling a request raised.
    """

    __slots__ = ("_answer", "_failed", "_limit", "_stopped", "_waiting")

    def __init__(
        self,
        limit: int,
        answer: Callable[[bool], None],
        failed: Callable[[Failure], None],
    ) -> None:
        self._limit = limit
        self._answer = answer
        self._failed = failed
        self._waiting: list[_Request] = []
        self._stopped = False

    @property
    def is_full(self) -> bool:
        """Whether another request would be one too many."""
        return len(self._waiting) >= self._limit

    def add(self, want_reply: bool, outcome: bool | Awaitable[bool]) -> None:
        """A request came, and ``outcome`` says or will say whether it succeeded.

        :param want_reply: whether the peer wants to know.
        """
        if isinstance(outcome, bool):
            if not self._waiting:
                if want_reply:
                    self._answer(outcome)
                return
            request = _Request(want_reply)
            request.outcome = outcome
            self._waiting.append(request)
            return
        request = _Request(want_reply)
        self._waiting.append(request)
        request.running = Deferred.fromCoroutine(_awaited(outcome))
        request.running.addCallbacks(
            self._finished,
            self._raised,
            callbackArgs=(request,),
            errbackArgs=(request,),
        )
        if self._stopped:
            self.stop()

    def stop(self) -> None:
        """Send no more answers, and cancel what is still running."""
        self._stopped = True
        waiting = list(self._waiting)
        self._waiting.clear()
        for request in waiting:
            if request.running is not None:
                request.running.cancel()

    def _finished(self, outcome: bool, request: _Request) -> None:
        request.outcome = bool(outcome)
        while self._waiting and self._waiting[0].outcome is not None:
            done = self._waiting.pop(0)
            if done.want_reply:
                self._answer(bool(done.outcome))

    def _raised(self, failure: Failure, request: _Request) -> None:
        if not (self._stopped and failure.check(CancelledError)):
            self._failed(failure)


async def _awaited(outcome: Awaitable[bool]) -> bool:
    return await outcome
