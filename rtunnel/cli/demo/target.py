"""A small SSH target for the demo: it greets, whatever it is asked, and runs nothing.

It stands where a real machine's sshd would, inside the agent's process.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from twisted.internet.interfaces import IReactorTime

from rtunnel.errors import (
    OPEN_UNKNOWN_CHANNEL_TYPE,
    AuthenticationRefused,
    OpenRefused,
    ProtocolError,
)
from rtunnel.naming import printable
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, ConnectionHandler, OpenRequest
from rtunnel.ssh.factory import ServerFactory
from rtunnel.ssh.host_key import HostKey
from rtunnel.trust.identity import Identity, UserIdentity
from rtunnel.wire.data_types import Reader, uint32
from rtunnel.wire.keys import PrivateKey, PublicKey

#: Bytes of a command that the answer repeats.
MAX_COMMAND = 256


def target_factory(
    clock: IReactorTime, host_key: PrivateKey, users: Collection[PublicKey], name: str
) -> ServerFactory:
    """An SSH server that lets ``users`` in and greets them.

    :param name: what the target calls itself.
    """

    def identify(algorithm: bytes, blob: bytes, source: str) -> Identity:
        for key in users:
            if key.blob == blob and algorithm in key.signature_algorithms:
                return UserIdentity(
                    name="demo",
                    principals=("demo",),
                    key_id="demo",
                    fingerprint=key.fingerprint,
                    source=source,
                    certificate=None,
                    valid_before=None,
                )
        raise AuthenticationRefused("not the demo's key")

    def make_handler(identity: Identity) -> ConnectionHandler:
        return _Login(clock, name)

    return ServerFactory(
        clock=clock,
        host_keys=[HostKey(host_key)],
        identify=identify,
        make_handler=make_handler,
    )


class _Login:
    """One person's connection to the target."""

    def __init__(self, clock: IReactorTime, name: str) -> None:
        self._clock = clock
        self._name = name

    def connection_started(self, connection: Connection) -> None:
        """Nothing is to be prepared."""

    def connection_lost(self, reason: str) -> None:
        """Nothing is held."""

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """None is served."""
        return None

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """Sessions only."""
        if request.kind != b"session":
            raise OpenRefused(OPEN_UNKNOWN_CHANNEL_TYPE, "the demo has sessions only")
        return _Greeting(self._clock, self._name).attach


class _Greeting:
    """One session: an answer, and the end."""

    def __init__(self, clock: Any, name: str) -> None:
        self._clock = clock
        self._name = name
        self._newline = "\n"

    def attach(self, channel: Channel) -> None:
        self._channel = channel
        channel.on_request = self.request_received
        channel.start(self)

    def data_received(self, data: bytes) -> None:
        """Nothing is read."""

    def eof_received(self) -> None:
        """Nothing waits for it."""

    def closed(self, reason: str | None) -> None:
        """Nothing is held."""

    def request_received(self, name: bytes, data: bytes) -> bool:
        if name == b"pty-req":
            self._newline = "\r\n"
            return True
        if name not in (b"exec", b"shell"):
            return False
        try:
            command = Reader(data).string(MAX_COMMAND) if name == b"exec" else b""
        except ProtocolError:
            return False
        # The reply to the request goes out first.
        self._clock.callLater(0, self._answer, command)
        return True

    def _answer(self, command: bytes) -> None:
        lines = [f"Hello from {self._name}: this came through a proxy and the tunnel."]
        if command:
            lines.append(f"You said: {printable(command)}")
        text = "".join(line + self._newline for line in lines)
        self._channel.write(text.encode())
        self._channel.send_request(b"exit-status", uint32(0), want_reply=False)
        self._channel.close()
