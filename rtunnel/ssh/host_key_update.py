"""A server with several host keys tells clients of all of them, and proves each.

A client that believes one of them may learn the others, and forget those that are
gone; so a key can be replaced without anybody being warned. Source: OpenSSH PROTOCOL,
section 2.5. ``ssh`` does nothing of this where it believes a certificate authority.
"""

from __future__ import annotations

from collections.abc import Sequence

from rtunnel.ssh.host_key import HostKey
from rtunnel.wire.algorithms import signature_algorithm
from rtunnel.wire.data_types import Reader, string

#: The global requests; the second is the client's.
HOST_KEYS = b"hostkeys-00@openssh.com"
PROVE_HOST_KEYS = b"hostkeys-prove-00@openssh.com"


class HostKeyUpdate:
    """What one connection's client is told, and may ask.

    :param host_keys: every host key; what certificates say of them does not matter.
    :param algorithm: the host key algorithm of the key exchange, in which an RSA key
        has to sign.
    :param session_id: what proofs are for.
    """

    def __init__(
        self, host_keys: Sequence[HostKey], algorithm: bytes, session_id: bytes
    ) -> None:
        self._keys = {key.private.public.blob: key.private for key in host_keys}
        self._signature = signature_algorithm(algorithm)
        self._session_id = session_id
        self._proven = False

    @property
    def is_needed(self) -> bool:
        """Whether there is a key that the client has not just seen."""
        return len(self._keys) > 1

    def announcement(self) -> bytes:
        """The data of ``hostkeys-00@openssh.com``: ``string[] hostkeys``."""
        return b"".join(map(string, self._keys))

    def prove(self, data: bytes) -> bytes | None:
        """Answer ``hostkeys-prove-00@openssh.com``, once.

        Signing takes milliseconds; a client has no reason to ask a second time.

        :param data: ``string[] hostkeys``.
        :return: ``string[] signatures``; None to refuse.
        :raises ProtocolError: malformed.
        """
        reader = Reader(data)
        asked = []
        while reader.remaining:
            asked.append(reader.string())
            if len(asked) > len(self._keys):
                return None
        if self._proven or not asked or any(blob not in self._keys for blob in asked):
            return None
        self._proven = True
        return b"".join(string(self._sign(blob)) for blob in asked)

    def _sign(self, blob: bytes) -> bytes:
        key = self._keys[blob]
        algorithm = self._signature
        if algorithm not in key.public.signature_algorithms:
            algorithm = key.public.signature_algorithms[0]
        signed = string(PROVE_HOST_KEYS) + string(self._session_id) + string(blob)
        return key.sign(signed, algorithm)
