"""What one read causes to be sent leaves in one write, on every connection.

A proxy reads from one connection and sends on another, and answers on the first. Each
write wakes the process at the other end, which costs both more than what is in it.
"""

from __future__ import annotations

from typing import Protocol


class Flushable(Protocol):
    """What collects while a batch is open."""

    def flush(self) -> None:
        """Send what was collected."""


class WriteBatch:
    """A block during which outputs collect; they are flushed when it ends.

    Blocks may be in each other; the outermost counts. Nothing waits for the reactor, so
    no data is late by more than what is done with one read.
    """

    __slots__ = ("_depth", "_waiting")

    def __init__(self) -> None:
        self._depth = 0
        self._waiting: list[Flushable] = []

    @property
    def is_open(self) -> bool:
        """Whether to collect."""
        return self._depth > 0

    def add(self, output: Flushable) -> None:
        """Flush ``output`` when the block ends."""
        self._waiting.append(output)

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *exception: object) -> None:
        try:
            if self._depth == 1:
                # Still open: what a flush causes to be sent is collected as well.
                waiting = self._waiting
                while waiting:
                    waiting.pop().flush()
        finally:
            # Whatever becomes of one output, the others must not wait for ever.
            self._depth -= 1


#: The one of this process: one thread reads and writes every connection.
BATCH = WriteBatch()
