"""Log lines that others can cause as many of as they like, held to a rate."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtunnel.counting import counted
from rtunnel.ssh.channel_limits import TokenBucket

#: Lines per second, and how many at once after a quiet time.
LINES_PER_SECOND = 10.0
LINES_AT_ONCE = 100


class LogRate:
    """Says whether one more line may be logged.

    Once it may again, how many were not is logged in their place.

    :param about: whom the lines are about.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, about: str = "peers that did not log in"
    ) -> None:
        self._clock = clock
        self._about = about
        self._tokens = TokenBucket(LINES_PER_SECOND, LINES_AT_ONCE, clock.seconds())
        self._suppressed = 0

    def allows(self) -> bool:
        """Whether to log; asking counts as logging."""
        if not self._tokens.take(self._clock.seconds()):
            self._suppressed += 1
            return False
        if self._suppressed:
            self._log.info(
                "left out about {about}: {lines}",
                suppressed=self._suppressed,
                about=self._about,
                lines=counted(self._suppressed, "line"),
            )
            self._suppressed = 0
        return True
