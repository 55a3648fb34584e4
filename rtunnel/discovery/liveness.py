"""Is the other end of a tunnel still there?

Each end sends a heartbeat every ``interval`` seconds. A heartbeat is missed when
nothing at all came from the peer between sending it and sending the next one: any byte
counts as life, not only the reply. After one missed heartbeat the tunnel is suspect and
takes no new dials; after ``missed`` of them in a row it is dead. A peer that falls
silent right after its last byte is therefore noticed after ``interval * (missed + 1)``
seconds at the latest: 20 s with the defaults.

Heartbeats are counted and time is not, so a process that was itself asleep (suspended,
swapped out) does not take its own absence for the peer's.

Pure: the caller brings the time and the arrival of the newest byte.
"""

from __future__ import annotations

from typing import Final

from rtunnel.discovery.message_fields import MAX_INTEGER
from rtunnel.discovery.messages import Heartbeat

#: Seconds between heartbeats.
DEFAULT_INTERVAL: Final = 5.0
#: Heartbeats missed in a row before a tunnel is dead.
DEFAULT_MISSED: Final = 3

#: Weight of the newest round trip in the smoothed one (RFC 6298 section 2.3).
_ALPHA = 1 / 8


class Liveness:
    """The heartbeats of one end of one tunnel.

    :param interval: seconds between two calls of :meth:`tick`, more than 0.
    :param missed: heartbeats missed in a row before the peer is dead, at least 1.
    :ivar rtt: smoothed round trip time in seconds; ``None`` until the first reply.
    :ivar dead: whether the peer was found dead; final.
    """

    def __init__(
        self, interval: float = DEFAULT_INTERVAL, missed: int = DEFAULT_MISSED
    ) -> None:
        if interval <= 0 or missed < 1:
            raise ValueError("interval has to be more than 0 and missed at least 1")
        self.interval = interval
        self.missed = missed
        self.rtt: float | None = None
        self.dead = False
        self._sequence = 0
        self._silent = 0
        self._sent_at: float | None = None
        # A list, as an empty deque has 760 bytes and most tunnels are idle.
        self._unanswered: list[tuple[int, float]] = []

    def tick(self, now: float, last_received: float) -> Heartbeat | None:
        """One interval has passed (or the tunnel has just come up).

        :param now: seconds, on the same clock as ``last_received``.
        :param last_received: when the newest byte came from the peer.
        :returns: the heartbeat to send now; ``None`` when the peer is dead and the
            tunnel is to be closed.
        """
        if self._heard_since_sent(last_received):
            self._silent = 0
        else:
            self._silent += 1
        if self._silent >= self.missed:
            self.dead = True
        if self.dead:
            return None
        beat = Heartbeat(self._sequence)
        self._sequence = (self._sequence + 1) % MAX_INTEGER
        self._sent_at = now
        self._unanswered.append((beat.sequence, now))
        del self._unanswered[: -(self.missed + 1)]
        return beat

    def answered(self, sequence: int, now: float) -> None:
        """The reply to a heartbeat has come; one that is not awaited changes nothing.

        :param sequence: of the heartbeat that was answered.
        :param now: seconds.
        """
        for waiting in self._unanswered:
            if waiting[0] == sequence:
                self._unanswered.remove(waiting)
                sample = max(0.0, now - waiting[1])
                if self.rtt is None:
                    self.rtt = sample
                else:
                    self.rtt += _ALPHA * (sample - self.rtt)
                return

    def suspect(self, last_received: float) -> bool:
        """Whether a heartbeat was missed and nothing has come since.

        :param last_received: when the newest byte came from the peer.
        """
        return self.dead or (
            self._silent > 0 and not self._heard_since_sent(last_received)
        )

    def _heard_since_sent(self, last_received: float) -> bool:
        return self._sent_at is None or last_received >= self._sent_at
