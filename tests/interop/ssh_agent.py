"""An SSH agent that holds one security key, made of software.

Stock ssh signs with it as it would with a real one: through the agent protocol
(draft-ietf-sshm-ssh-agent).
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from rtunnel.wire.data_types import Reader, string, uint32
from tests.wire.examples import SecurityKey

_FAILURE = b"\x05"
_REQUEST_IDENTITIES = 11
_IDENTITIES_ANSWER = b"\x0c"
_SIGN_REQUEST = 13
_SIGN_RESPONSE = b"\x0e"


class SecurityKeyAgent:
    """Listens on a UNIX socket until it is closed.

    :param path: of the socket.
    :param key: signs whatever it is asked to.
    :param flags: what the key says of the person: 1, she touched it.
    """

    def __init__(self, path: Path, key: SecurityKey, flags: int = 1) -> None:
        self.path = path
        self._key = key
        self._flags = flags
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(
                target=self._serve, args=(connection,), daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while header := stream.read(4):
                message = stream.read(int.from_bytes(header, "big"))
                stream.write(string(self._answer(message)))
                stream.flush()

    def _answer(self, message: bytes) -> bytes:
        blob = self._key.public.blob
        if message[0] == _REQUEST_IDENTITIES:
            return _IDENTITIES_ANSWER + uint32(1) + string(blob) + string(b"")
        if message[0] == _SIGN_REQUEST:
            reader = Reader(message[1:])
            if reader.string() == blob:
                signature = self._key.sign(reader.string(), self._flags)
                return _SIGN_RESPONSE + string(signature)
        return _FAILURE
