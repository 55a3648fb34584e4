"""A queue of bytes: appended in pieces of any size, taken in pieces of another.

Pure. Memory stays near the byte count whatever the pieces were: small ones are merged,
large ones kept as they came and cut without copying what stays behind.
"""

from __future__ import annotations

from collections import deque

#: Bytes. Pieces below this are merged with the one before.
_SMALL = 4096

#: Bytes. A merged piece that has grown to this is not added to any more.
_MERGED = 32768


class ByteQueue:
    """First in, first out, counted in bytes. ``len()`` and truth are the byte count."""

    __slots__ = ("_length", "_offset", "_pieces")

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._offset = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add ``data`` at the end; of a view, a copy."""
        size = len(data)
        if not size:
            return
        self._length += size
        if size >= _SMALL:
            self._pieces.append(bytes(data))
            return
        if self._pieces:
            last = self._pieces[-1]
            if isinstance(last, bytearray) and len(last) < _MERGED:
                last += data
                return
        self._pieces.append(bytearray(data))

    def take(self, limit: int) -> bytes:
        """Remove and return the first bytes: at least one, at most ``limit``.

        Fewer than ``limit`` come when a piece ends there; empty when the queue is.
        """
        if not self._pieces or limit < 1:
            return b""
        head = self._pieces[0]
        start = self._offset
        left = len(head) - start
        if left <= limit:
            self._pieces.popleft()
            self._offset = 0
            self._length -= left
            if start == 0 and isinstance(head, bytes):
                return head
            return bytes(memoryview(head)[start:])
        self._offset = start + limit
        self._length -= limit
        return bytes(memoryview(head)[start : start + limit])

    def clear(self) -> int:
        """Drop everything; how many bytes that was."""
        dropped = self._length
        self._pieces.clear()
        self._offset = self._length = 0
        return dropped
