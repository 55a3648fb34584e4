"""Channels that we have closed and the peer has not (RFC 4254 section 5.3).

Each stays in the books, as messages for it may still be on their way; but what depends
on it does not wait for a peer that never answers.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class SentCloses:
    """Our CHANNEL_CLOSEs without an answer, by our number of the channel.

    One timer serves them all: most are answered within a round trip.

    :param clock: for the timer.
    :param seconds: that the peer has.
    :param overdue: called with the number of a channel that it has not closed by then.
    """

    __slots__ = ("_clock", "_overdue", "_seconds", "_sent_at", "_timer")

    def __init__(
        self, clock: IReactorTime, seconds: float, overdue: Callable[[int], None]
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._overdue = overdue
        # The oldest comes first.
        self._sent_at: dict[int, float] = {}
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._sent_at)

    def sent(self, number: int) -> None:
        """Our CLOSE has been sent."""
        self._sent_at[number] = self._clock.seconds()
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._look)

    def answered(self, number: int) -> None:
        """The peer's CLOSE has come, whether it answers ours or not."""
        self._sent_at.pop(number, None)

    def stop(self) -> None:
        """The connection is gone."""
        self._sent_at.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        late = [
            number
            for number, sent_at in self._sent_at.items()
            if sent_at + self._seconds <= now
        ]
        for number in late:
            # One that is told may end the whole connection.
            if self._sent_at.pop(number, None) is not None:
                self._overdue(number)
        if self._sent_at and self._timer is None:
            oldest = next(iter(self._sent_at.values()))
            self._timer = self._clock.callLater(
                max(0.0, oldest + self._seconds - now), self._look
            )
