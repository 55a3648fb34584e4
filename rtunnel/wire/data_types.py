"""The data types of SSH: byte, boolean, uint32, uint64, string, mpint, name-list.

Source: RFC 4251 section 5. Reading never runs past the end, and every failure is a
:class:`~rtunnel.errors.ProtocolError`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from rtunnel.counting import counted
from rtunnel.errors import ProtocolError

_UINT32 = struct.Struct(">I")
_UINT64 = struct.Struct(">Q")

MAX_UINT32 = 2**32 - 1

_TOO_SHORT = "a message is shorter than its fields say"


class Reader:
    """Reads the fields of one SSH message in order.

    :param data: the message, or any run of SSH-encoded fields.
    :param offset: where to begin, in bytes.
    """

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self._data = data
        self._offset = offset

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._offset

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes as they are."""
        end = self._offset + count
        if end > len(self._data):
            raise ProtocolError(_TOO_SHORT)
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def byte(self) -> int:
        """One byte, as a number."""
        return self.take(1)[0]

    def boolean(self) -> bool:
        """One byte; all but zero is true."""
        return self.take(1) != b"\x00"

    def uint32(self) -> int:
        """Four bytes, big-endian."""
        start = self._offset
        if start + 4 > len(self._data):
            raise ProtocolError(_TOO_SHORT)
        value: int = _UINT32.unpack_from(self._data, start)[0]
        self._offset = start + 4
        return value

    def uint64(self) -> int:
        """Eight bytes, big-endian."""
        value: int = _UINT64.unpack(self.take(8))[0]
        return value

    def string(self, limit: int | None = None) -> bytes:
        """A length and that many bytes.

        :param limit: bytes allowed; more is a protocol error.
        """
        length = self.uint32()
        if limit is not None and length > limit:
            raise ProtocolError(f"a field of {length} bytes; {limit} is the limit")
        return self.take(length)

    def text(self, limit: int | None = None) -> str:
        """A string that has to be UTF-8.

        :param limit: bytes allowed; more is a protocol error.
        """
        try:
            return self.string(limit).decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError("a text field is not UTF-8") from None

    def name_list(self, limit: int | None = None) -> tuple[bytes, ...]:
        """Comma-separated names; an empty string is no names.

        :param limit: bytes allowed; more is a protocol error.
        """
        names = self.string(limit)
        return tuple(names.split(b",")) if names else ()

    def mpint(self, limit: int | None = None) -> int:
        """A number in two's complement, which for us must not be negative.

        :param limit: bytes allowed; more is a protocol error.
        """
        data = self.string(limit)
        if data and data[0] & 0x80:
            raise ProtocolError("a negative number where none can be")
        return int.from_bytes(data, "big")

    def rest(self) -> bytes:
        """Everything not read yet."""
        return self.take(self.remaining)

    def end(self) -> None:
        """Assert that the message ends here."""
        if self.remaining:
            raise ProtocolError(
                f"{counted(self.remaining, 'byte')} too many in a message"
            )


def uint32(value: int) -> bytes:
    """Encode a uint32."""
    return _UINT32.pack(value)


def uint64(value: int) -> bytes:
    """Encode a uint64."""
    return _UINT64.pack(value)


def boolean(value: bool) -> bytes:
    """Encode a boolean."""
    return b"\x01" if value else b"\x00"


def string(value: bytes) -> bytes:
    """Encode a string: its length, then its bytes."""
    return _UINT32.pack(len(value)) + value


def text(value: str) -> bytes:
    """Encode a string of UTF-8."""
    return string(value.encode("utf-8"))


def name_list(names: Sequence[bytes]) -> bytes:
    """Encode a name-list."""
    return string(b",".join(names))


def mpint(value: int) -> bytes:
    """Encode a number that is not negative as an mpint."""
    if value == 0:
        return _UINT32.pack(0)
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big"))
