"""Window accounting of SSH channels (RFC 4254 section 5.2): how much may be sent.

Pure. A :class:`SendWindow` is what the peer lets us send. A :class:`ReceiveWindow` is
what we let the peer send; it decides when credit goes back and how much. All receive
windows of one connection share a :class:`WindowBudget`, so that a thousand channels
that nobody reads cannot hold a thousand full windows of memory.
"""

from __future__ import annotations

from rtunnel.counting import counted
from rtunnel.errors import ProtocolError

#: The sum of a window and all adjustments may never exceed this (RFC 4254 section 5.2).
MAX_WINDOW = 2**32 - 1

#: Seconds. A window half used up within this time grows, one that lasted eight times
#: as long shrinks: large windows belong to the channels that are busy now.
BUSY_SECONDS = 1.0

#: Bytes that a channel has moved when it is known that somebody takes them: more than
#: the kernels' buffers on the way hold.
PROVEN = 8 * 1024 * 1024

#: Bytes that a channel has moved when it is no longer new. Whose reader never reads
#: stops before that: what a socket of ours takes ahead is bounded.
NEW = 1024 * 1024

#: Bytes that a window grows to until the channel has moved so many. A reader that stops
#: when the kernels' buffers are full, after 1 to 3.5 MB, has made the window grow. We
#: hold as much for it, and what was read last besides: 1 MiB in all.
UNPROVEN_WINDOWS = ((NEW, 512 * 1024), (4 * 1024 * 1024, 768 * 1024))


class WindowExceeded(ProtocolError):
    """The peer sent more than its window; ends the channel, not the connection."""


class SendWindow:
    """What the peer still takes from us on one channel.

    :param remaining: bytes, from CHANNEL_OPEN or its confirmation.
    """

    __slots__ = ("remaining",)

    def __init__(self, remaining: int) -> None:
        self.remaining = remaining

    def adjusted(self, count: int) -> None:
        """The peer lets us send ``count`` bytes more.

        :raises ProtocolError: when the window would exceed 2^32-1 bytes.
        """
        if self.remaining + count > MAX_WINDOW:
            raise ProtocolError("a channel window above 2^32-1 bytes")
        self.remaining += count

    def take(self, count: int) -> int:
        """Use the window for up to ``count`` bytes; how many it allows."""
        taken = min(count, self.remaining)
        self.remaining -= taken
        return taken


class WindowBudget:
    """Bytes that the receive windows of one connection may cover together.

    What counts is credit the peer has not used and data it sent that nobody took yet:
    the most memory that the peer can make us hold. Credit cannot be taken back, and of
    a channel that stops nobody knows beforehand that it will. So no window is larger
    than a part of what all the others leave: however many have stopped, something is
    left (the dynamic threshold of Choudhury and Hahne). Channels that have not moved
    much yet, no more than buffers at the target may have swallowed, leave a reserve to
    those that have, and those that are new leave one to both.

    Every channel gets its least window even when nothing is left, or it could never
    move.

    :param total: bytes.
    """

    __slots__ = ("granted", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.granted = 0

    @property
    def _unreserved(self) -> int:
        return self.total * 5 // 8

    @property
    def first(self) -> int:
        """The most bytes that a new window may have."""
        return (self._unreserved // 2 - self.granted) // 56

    def most(self, covered: int, moved: int) -> int:
        """The most bytes that a window may grow to.

        :param covered: bytes that it covers now.
        :param moved: bytes that the channel has moved.
        """
        if moved < NEW:
            total = self.total * 7 // 16
        elif moved < PROVEN:
            total = self._unreserved
        else:
            total = self.total
        return (total - self.granted + covered) // 9

    def grant(self, count: int) -> None:
        """A window covers so many bytes more."""
        self.granted += count

    def release(self, count: int) -> None:
        """Take back ``count`` bytes that were granted."""
        self.granted -= count


class ReceiveWindow:
    """What we let the peer send on one channel, and when it gets more.

    ``remaining`` is the peer's credit, ``held`` what came and was not consumed yet;
    both count against the budget. Credit is due when the two together have fallen to
    half of the window.

    :param budget: shared by the channels of a connection.
    :param initial: bytes wanted at first.
    :param maximum: bytes that the window may grow to while the channel is busy; to
        less until it has moved much, see :data:`UNPROVEN_WINDOWS`.
    :param least: bytes the window has even when the budget is used up.
    :param now: seconds.
    """

    __slots__ = (
        "_budget",
        "_initial",
        "_last_credit",
        "_least",
        "_moved",
        "held",
        "maximum",
        "remaining",
        "size",
    )

    def __init__(
        self, budget: WindowBudget, initial: int, maximum: int, least: int, now: float
    ) -> None:
        self._budget = budget
        self._initial = min(initial, maximum)
        self._least = min(least, maximum)
        self._last_credit = now
        self._moved = 0
        self.maximum = maximum
        self.held = 0
        self.size = max(min(self._initial, budget.first), self._least)
        self.remaining = self.size
        budget.grant(self.size)

    def received(self, count: int) -> None:
        """The peer sent ``count`` bytes.

        :raises WindowExceeded: when the window does not cover them.
        """
        if count > self.remaining:
            raise WindowExceeded(
                f"{counted(count, 'byte')} of data where the window has "
                f"{self.remaining}"
            )
        self.remaining -= count
        self.held += count

    def consumed(self, count: int) -> None:
        """The receiver took ``count`` of the bytes held."""
        self.held -= count
        self._budget.release(count)

    @property
    def is_due(self) -> bool:
        """Whether half of the window is used up and consumed."""
        return self.remaining + self.held <= self.size >> 1

    def credit(self, now: float) -> int:
        """How many bytes to grant the peer now; 0 when credit is not due.

        Call it only while the receiver takes data.

        :param now: seconds.
        """
        if not self.is_due:
            return 0
        elapsed = now - self._last_credit
        self._last_credit = now
        target = self.size
        if elapsed <= BUSY_SECONDS:
            target = min(target * 2, self.maximum)
        elif elapsed > BUSY_SECONDS * 8:
            target = max(target >> 1, min(self._initial, target))
        covered = self.remaining + self.held
        self._moved += self.size - covered
        most = self._budget.most(covered, self._moved)
        for moved, size in UNPROVEN_WINDOWS:
            if self._moved < moved:
                most = min(most, size)
                break
        target = max(min(target, most), self._least)
        self.size = max(target, covered)
        granted = self.size - covered
        self.remaining += granted
        self._budget.grant(granted)
        return granted

    def release(self) -> None:
        """The channel is gone: give everything back to the budget. May be repeated."""
        self._budget.release(self.remaining + self.held)
        self.remaining = self.held = 0
