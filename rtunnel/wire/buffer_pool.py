"""Memory that is used again: allocating it anew costs more than what is done in it."""

from __future__ import annotations

from collections.abc import Callable


class BufferPool:
    """Buffers of one size that nobody has at the moment.

    What was in them is still there: whoever takes one writes before reading.

    :param size: bytes of each; who wants more gets a larger one.
    :param spare: how many of them are kept.
    :param allocate: so many bytes of memory.
    """

    __slots__ = ("_allocate", "_size", "_spare", "_spares")

    def __init__(
        self,
        size: int,
        spare: int = 4,
        allocate: Callable[[int], bytearray] = bytearray,
    ) -> None:
        self._allocate = allocate
        self._size = size
        self._spare = spare
        self._spares: list[memoryview] = []

    def take(self, size: int) -> memoryview:
        """A buffer of at least ``size`` bytes, the caller's until it gives it back."""
        if self._spares and len(self._spares[-1]) >= size:
            return self._spares.pop()
        return memoryview(self._allocate(max(size, self._size)))

    def give_back(self, buffer: memoryview) -> None:
        """Take back what :meth:`take` gave, whole."""
        if len(self._spares) < self._spare:
            self._spares.append(buffer)
