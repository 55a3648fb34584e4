"""What remains of a login by key: enough for another proxy to see for itself.

A user logs in at one proxy with a signature. That proxy keeps it, and shows it to the
peer through which it passes the user's connections; the peer verifies it over the very
data that the user signed (RFC 4252 section 7) and takes nobody's word for who asks.
Pure: no Twisted.
"""

from __future__ import annotations

from typing import Final

import attrs

from rtunnel.errors import AuthenticationRefused, RtunnelError
from rtunnel.naming import printable
from rtunnel.wire.algorithms import USER_KEY_ALGORITHMS
from rtunnel.wire.certificate import parse_public_key
from rtunnel.wire.data_types import boolean, string
from rtunnel.wire.numbers import MSG_USERAUTH_REQUEST

CONNECTION_SERVICE: Final = b"ssh-connection"
PUBLICKEY: Final = b"publickey"

#: Bytes in a login name; it is no identity, only something to log.
MAX_USERNAME_LENGTH: Final = 1024


def signed_data(
    session_id: bytes, username: bytes, service: bytes, algorithm: bytes, blob: bytes
) -> bytes:
    """What the signature of a ``publickey`` request is made over (RFC 4252, 7)."""
    return b"".join(
        [
            string(session_id),
            bytes((MSG_USERAUTH_REQUEST,)),
            string(username),
            string(service),
            string(PUBLICKEY),
            boolean(True),
            string(algorithm),
            string(blob),
        ]
    )


@attrs.frozen
class LoginProof:
    """A login by the method ``publickey``, as it was made.

    :param username: the login name; signed, but no identity.
    :param session_id: of the SSH connection that was logged in on.
    :param algorithm: public key or certificate algorithm.
    :param blob: the key or certificate.
    :param signature: the user's.
    """

    username: bytes
    session_id: bytes = attrs.field(repr=False)
    algorithm: bytes
    blob: bytes = attrs.field(repr=False)
    signature: bytes = attrs.field(repr=False)

    def check(self) -> None:
        """Verify the signature. Whose key that is, this does not say.

        :raises AuthenticationRefused: when the key cannot be used, or it did not sign
            this; the text is for our own log.
        """
        if self.algorithm not in USER_KEY_ALGORITHMS:
            raise AuthenticationRefused(
                f"the algorithm {printable(self.algorithm, 64)!r} is not accepted"
            )
        try:
            key = parse_public_key(self.algorithm, self.blob)
        except RtunnelError as error:
            raise AuthenticationRefused(str(error)) from error
        data = signed_data(
            self.session_id,
            self.username,
            CONNECTION_SERVICE,
            self.algorithm,
            self.blob,
        )
        if not key.verify(self.signature, data, self.algorithm):
            raise AuthenticationRefused("the signature is wrong")
