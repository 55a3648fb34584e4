"""Audit lines that anybody on the Internet can cause, held to a rate.

Penalties bound what one source can do, but there are as many sources as somebody can
get, and each line is a write. Lines about people, agents and proxies that have logged
in are nothing of this: none of them is ever left out.

Pure; :mod:`rtunnel.proxy.recording` writes.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from rtunnel.audit.events import AuditLeftOut, JoinRefused, LoginRefused
from rtunnel.ssh.channel_limits import TokenBucket
from rtunnel.timestamps import rfc3339

#: The events that may be left out: nobody has proven to be anybody in them.
Refusal: TypeAlias = LoginRefused | JoinRefused


class RefusalRate:
    """Says whether one more refusal may be written, and counts those that may not.

    :param rate: lines per second.
    :param burst: lines at once, after a quiet time.
    :param seconds: of the clock that :meth:`allows` is told.
    :param proxy: our own id.
    :ivar total: events that were left out since this object was made.
    """

    def __init__(self, rate: int, burst: int, seconds: float, proxy: str) -> None:
        self._rate = rate
        self._proxy = proxy
        self._tokens = TokenBucket(rate, burst, seconds)
        self._counts: Counter[str] = Counter()
        self._since = 0.0
        self.total = 0

    def allows(self, refusal: Refusal, seconds: float, now: float) -> bool:
        """Whether to write it; asking counts as writing.

        :param seconds: of the clock.
        :param now: wall clock, seconds since the epoch.
        """
        if self._tokens.take(seconds):
            return True
        if not self._counts:
            self._since = now
        self._counts[refusal.event] += 1
        self.total += 1
        return False

    def left_out(self, now: float) -> AuditLeftOut | None:
        """What there is to tell of those that were left out; None when there is none.

        :param now: wall clock, seconds since the epoch.
        """
        if not self._counts:
            return None
        counts = " and ".join(
            f"{count} {event}" for event, count in sorted(self._counts.items())
        )
        return AuditLeftOut(
            proxy=self._proxy,
            seconds=now - self._since,
            reason=f"{counts} since {rfc3339(self._since)} were left out, for there "
            f"were more than {self._rate} a second",
        )

    def told(self) -> None:
        """Count from zero: what :meth:`left_out` said has been written."""
        self._counts.clear()
