"""The version lines that both sides send before their first packet.

Source: RFC 4253 section 4.2. Pure; what follows the line in the same segment is
packets already and is handed back untouched.
"""

from __future__ import annotations

from rtunnel.errors import DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED, ProtocolError

#: Bytes in a version line, its end included.
MAX_VERSION_LINE = 255

#: Lines that a server may send before its version line.
MAX_LINES_BEFORE = 20

_PREFIX = b"SSH-"
_FROM_CLIENT = (b"SSH-2.0-",)
# A server that also speaks SSH 1 says so (RFC 4253 section 5.1).
_FROM_SERVER = (b"SSH-2.0-", b"SSH-1.99-")


class VersionReader:
    """Waits for the peer's version line; ``line`` is it, without its end, once read.

    :param from_server: whether the peer is a server, which alone may send other lines
        before.
    """

    def __init__(self, *, from_server: bool) -> None:
        self.line: bytes | None = None
        self._from_server = from_server
        self._data = b""
        self._lines_before = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes from the peer.

        :return: what follows the version line, None while that is not complete.
        :raises ProtocolError: too long, too many lines, or no version that we speak.
        """
        data = self._data + data
        while True:
            line, end, rest = data.partition(b"\n")
            if len(line) + 1 > MAX_VERSION_LINE:
                raise _refused(f"a version line of over {MAX_VERSION_LINE} bytes")
            # A few bytes are enough to see that this will never be one.
            is_version = line[: len(_PREFIX)] == _PREFIX[: len(line)]
            if not is_version and not self._from_server:
                raise _refused("this is not SSH")
            if not end:
                self._data = line
                return None
            if is_version:
                self._accept(line.removesuffix(b"\r"))
                self._data = b""
                return rest
            self._lines_before += 1
            if self._lines_before > MAX_LINES_BEFORE:
                raise _refused("too many lines before the version line")
            data = rest

    def _accept(self, line: bytes) -> None:
        if not line.startswith(_FROM_SERVER if self._from_server else _FROM_CLIENT):
            raise _refused("this is no version of SSH that we speak")
        if any(not 32 <= byte < 127 for byte in line):
            raise _refused("a version line that is not printable ASCII")
        self.line = line


def _refused(text: str) -> ProtocolError:
    return ProtocolError(text, DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED)
