"""The "reach this through one of your tunnels" that one proxy asks of another.

It is the type-specific part of SSH_MSG_CHANNEL_OPEN (RFC 4254 section 5.1) of a
``transport@rtunnel`` channel between two proxies::

    string    cluster         whose host it is
    string    host            "" is the agent's own host
    uint32    port            1 to 65535
    string    source          the IP address that the user comes from
    string    connection id   the same in the logs of every process that it crosses
    string    user name       that the user logged in with at the asking proxy
    string    session id      of the SSH connection that the user logged in on
    string    algorithm       public key or certificate algorithm of that login
    string    key             key or certificate of that login
    string    signature       the user's, over that login (RFC 4252 section 7)

Who is asking follows from the last five, which the asked proxy verifies; nothing of
what is here names a user that it would have to believe in. Pure: no Twisted.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from rtunnel.counting import counted
from rtunnel.errors import InvalidName, MessageError, ProtocolError
from rtunnel.naming import Target, parse_target
from rtunnel.trust.login_proof import MAX_USERNAME_LENGTH, LoginProof
from rtunnel.wire import data_types
from rtunnel.wire.algorithms import MAX_SIGNATURE_LENGTH
from rtunnel.wire.certificate import MAX_CERTIFICATE_LENGTH

#: Bytes of cluster, host, source and connection id, each.
MAX_STRING: Final = 255
#: Bytes in the name of an algorithm (RFC 4250 section 4.6.1).
MAX_ALGORITHM: Final = 64
#: Bytes in a session id: it is a hash, SHA-256 at least and SHA-512 at most.
SESSION_ID_LENGTHS: Final = (32, 64)

_CONNECTION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@attrs.frozen
class PeerRequest:
    """One connection that a proxy asks another proxy for.

    :param target: what the user wants to reach; never in the proxies' own cluster.
    :param source: the IP address that the user comes from; may be empty.
    :param connection_id: 1 to 64 of letters, digits and ``._-``.
    :param proof: how the user logged in.
    :raises MessageError: when a field breaks its limit.
    """

    target: Target
    source: str
    connection_id: str
    proof: LoginProof

    def __attrs_post_init__(self) -> None:
        target = self.target
        name = f"{target.host}.{target.cluster}" if target.host else target.cluster
        try:
            # What a client may ask for, no more.
            understood = parse_target(name, target.port)
        except InvalidName as error:
            raise MessageError(f"a peer request: {error}") from None
        if understood != target:
            raise MessageError("a peer request: the target is not well-formed")
        if len(self.source.encode("utf-8", "replace")) > MAX_STRING:
            raise MessageError("a peer request: the source is too long")
        if not self.source.isprintable():
            raise MessageError("a peer request: the source cannot be printed")
        if _CONNECTION_ID.fullmatch(self.connection_id) is None:
            raise MessageError("a peer request: the connection id is malformed")
        self._check_proof()

    def _check_proof(self) -> None:
        proof = self.proof
        shortest, longest = SESSION_ID_LENGTHS
        for what, value, least, most in (
            ("user name", proof.username, 0, MAX_USERNAME_LENGTH),
            ("session id", proof.session_id, shortest, longest),
            ("algorithm", proof.algorithm, 1, MAX_ALGORITHM),
            ("key", proof.blob, 1, MAX_CERTIFICATE_LENGTH),
            ("signature", proof.signature, 1, MAX_SIGNATURE_LENGTH),
        ):
            if not least <= len(value) <= most:
                raise MessageError(
                    f"a peer request: the {what} has {counted(len(value), 'byte')}; "
                    f"{least} to {most} are allowed"
                )

    def encode(self) -> bytes:
        """The type-specific part of the channel open."""
        return b"".join(
            (
                data_types.text(self.target.cluster),
                data_types.text(self.target.host),
                data_types.uint32(self.target.port),
                data_types.text(self.source),
                data_types.text(self.connection_id),
                data_types.string(self.proof.username),
                data_types.string(self.proof.session_id),
                data_types.string(self.proof.algorithm),
                data_types.string(self.proof.blob),
                data_types.string(self.proof.signature),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> PeerRequest:
        """Read the type-specific part of a channel open.

        :raises MessageError: when it is malformed or a field breaks its limit.
        """
        reader = data_types.Reader(data)
        try:
            cluster = reader.text(MAX_STRING)
            host = reader.text(MAX_STRING)
            port = reader.uint32()
            source = reader.text(MAX_STRING)
            connection_id = reader.text(MAX_STRING)
            proof = LoginProof(
                username=reader.string(MAX_USERNAME_LENGTH),
                session_id=reader.string(SESSION_ID_LENGTHS[1]),
                algorithm=reader.string(MAX_ALGORITHM),
                blob=reader.string(MAX_CERTIFICATE_LENGTH),
                signature=reader.string(MAX_SIGNATURE_LENGTH),
            )
            reader.end()
        except ProtocolError as error:
            raise MessageError(f"a peer request: {error}") from None
        return cls(Target(host, cluster, port), source, connection_id, proof)
