"""Fuzz input as a row of decisions: what to do next, and with how much."""

from __future__ import annotations

from collections.abc import Callable


class Script:
    """Reads decisions off an input; past its end all of them are 0 and empty.

    :param data: the input.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self._offset >= len(self._data)

    def byte(self) -> int:
        """A number from 0 to 255."""
        taken = self.take(1)
        return taken[0] if taken else 0

    def below(self, limit: int) -> int:
        """A number from 0 up to ``limit``, that is at most 256."""
        return self.byte() % limit

    def take(self, count: int) -> bytes:
        """Up to ``count`` bytes."""
        start = self._offset
        self._offset = start + count
        return self._data[start : start + count]

    def chunk(self) -> bytes:
        """A length of one byte, and that many bytes."""
        return self.take(self.byte())

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(len(self._data))

    def changed(self, payload: bytes) -> bytes:
        """A payload with some bytes, perhaps none, in place of some others."""
        count = self.below(4)
        for _ in range(count if count < 3 else 0):
            at = self.byte() * len(payload) // 256
            put, cut = self.take(self.below(5)), self.below(5)
            payload = payload[:at] + put + payload[at + cut :]
        return payload

    def spoiler(self) -> Callable[[bytes], bytes]:
        """What changes, cuts, repeats or stretches a packet on its way."""
        kind, where, value = self.take(3).ljust(3, b"\1")

        def spoiled(data: bytes) -> bytes:
            at = where % (len(data) + 1)
            match kind % 4:
                case 0:
                    return data[:at] + bytes([value]) + data[at + 1 :]
                case 1:
                    return data[:at]
                case 2:
                    return data + data
                case _:
                    return data[:at] + bytes(value) + data[at:]

        return spoiled
