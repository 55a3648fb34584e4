"""Inputs made of other inputs, without a look at what they reach.

For where there is no atheris: in the tests. Pure Python, and the same again for the
same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

#: Bytes in the longest input.
MAX_LENGTH = 4096

_EDGES = (0, 1, 2, 4, 7, 8, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1)
_EDGES_TO_2_32 = (*_EDGES, 2**31, 2**32 - 1, 2**32 - 2, 2**32 - 8)


class Mutator:
    """Makes new inputs.

    :param corpus: what to make them of; not empty.
    :param tokens: what may be put in.
    :param random: the source of all chance.
    """

    def __init__(
        self, corpus: Sequence[bytes], tokens: Sequence[bytes], random: Random
    ) -> None:
        self._corpus = corpus
        self._tokens = tokens
        self._random = random
        self._mutations = (
            self._flip,
            self._flip,
            self._replace,
            self._number,
            self._number,
            self._insert,
            self._delete,
            self._copy,
            self._cut,
            self._token,
            self._splice,
        )

    def mutant(self) -> bytes:
        """Another input."""
        random = self._random
        data = bytearray(random.choice(self._corpus))
        for _ in range(1 + min(int(random.expovariate(0.6)), 8)):
            random.choice(self._mutations)(data)
        return bytes(data[:MAX_LENGTH])

    def _position(self, data: bytearray) -> int:
        return self._random.randrange(len(data) + 1)

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)

    def _replace(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] = self._random.randrange(256)

    def _number(self, data: bytearray) -> None:
        size = self._random.choice((1, 2, 4, 4, 4))
        value = self._random.choice(_EDGES_TO_2_32) % 256**size
        at = self._position(data)
        data[at : at + size] = value.to_bytes(size)

    def _insert(self, data: bytearray) -> None:
        at = self._position(data)
        data[at:at] = self._random.randbytes(self._random.randrange(1, 17))

    def _delete(self, data: bytearray) -> None:
        at = self._position(data)
        del data[at : at + self._random.randrange(1, 17)]

    def _copy(self, data: bytearray) -> None:
        start = self._position(data)
        piece = data[start : start + self._random.randrange(1, 65)]
        at = self._position(data)
        data[at:at] = piece * self._random.choice((1, 1, 2, 8))

    def _cut(self, data: bytearray) -> None:
        del data[self._position(data) :]

    def _token(self, data: bytearray) -> None:
        if self._tokens:
            token = self._random.choice(self._tokens)
            at = self._position(data)
            data[at : at + self._random.choice((0, len(token)))] = token

    def _splice(self, data: bytearray) -> None:
        other = self._random.choice(self._corpus)
        at = self._position(data)
        data[at:] = other[self._random.randrange(len(other) + 1) :]
