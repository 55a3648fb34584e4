"""The "dial this for me" that opens a ``transport@rtunnel`` channel.

It is the type-specific part of SSH_MSG_CHANNEL_OPEN (RFC 4254 section 5.1), so that a
new connection costs one round trip::

    string    host            "" is the agent's own host
    uint32    port            1 to 65535
    string    user            who is asking, by the proxy's word
    string    source          the IP address that the user comes from
    string    connection id   the same in the logs of every process that it crosses

All strings are UTF-8. Pure: no Twisted.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from rtunnel.errors import InvalidName, MessageError, ProtocolError
from rtunnel.naming import parse_target
from rtunnel.wire import data_types

#: Bytes of any one string.
MAX_STRING: Final = 255

_CONNECTION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@attrs.frozen
class TransportRequest:
    """One connection that a proxy asks for.

    :param host: name or IP address as the agent resolves it; empty is its own host.
    :param port: TCP port, 1 to 65535.
    :param user: the name of who is asking, for logs; not empty.
    :param source: the IP address that the user comes from, for logs; may be empty.
    :param connection_id: 1 to 64 of letters, digits and ``._-``.
    :raises MessageError: when a field breaks its limit.
    """

    host: str
    port: int
    user: str
    source: str
    connection_id: str

    def __attrs_post_init__(self) -> None:
        try:
            # What may come before the cluster in what a client asks for, no more.
            parse_target(f"{self.host}.a" if self.host else "a", self.port)
        except InvalidName as error:
            raise MessageError(f"a transport request: {error}") from None
        for what, value in (("user", self.user), ("source", self.source)):
            if len(value.encode("utf-8", "replace")) > MAX_STRING:
                raise MessageError(f"a transport request: {what} is too long")
            if not value.isprintable():
                raise MessageError(f"a transport request: {what} cannot be printed")
        if not self.user:
            raise MessageError("a transport request: user is empty")
        if _CONNECTION_ID.fullmatch(self.connection_id) is None:
            raise MessageError("a transport request: the connection id is malformed")

    def encode(self) -> bytes:
        """The type-specific part of the channel open."""
        return b"".join(
            (
                data_types.text(self.host),
                data_types.uint32(self.port),
                data_types.text(self.user),
                data_types.text(self.source),
                data_types.text(self.connection_id),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> TransportRequest:
        """Read the type-specific part of a channel open.

        :raises MessageError: when it is malformed or a field breaks its limit.
        """
        reader = data_types.Reader(data)
        try:
            host = reader.text(MAX_STRING)
            port = reader.uint32()
            user = reader.text(MAX_STRING)
            source = reader.text(MAX_STRING)
            connection_id = reader.text(MAX_STRING)
            reader.end()
        except ProtocolError as error:
            raise MessageError(f"a transport request: {error}") from None
        return cls(host, port, user, source, connection_id)
