"""Random bytes for padding and cookies, fetched from the kernel many at a time.

Each packet has a few; asking the kernel for them each time costs as much as encrypting
them. Keys do not come from here.
"""

from __future__ import annotations

from collections.abc import Callable

#: Bytes that the kernel is asked for at a time.
BLOCK = 4096


class RandomPool:
    """Gives each byte out once.

    :param source: this many random bytes.
    """

    __slots__ = ("_at", "_block", "_source")

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source
        self._block = b""
        self._at = 0

    def __call__(self, count: int) -> bytes:
        """The next ``count`` bytes; at most :data:`BLOCK`."""
        start, end = self._at, self._at + count
        if end > len(self._block):
            self._block = self._source(BLOCK)
            start, end = 0, count
        self._at = end
        return self._block[start:end]
