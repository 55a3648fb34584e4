"""A session on the proxy itself: ``ls``, ``status`` and the ``proxy:`` subsystem.

No shell and no program is ever run here (RFC 4254 section 6).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater

from rtunnel.errors import InvalidName, OpenRefused, ProtocolError
from rtunnel.naming import Target, printable
from rtunnel.proxy.session_stream import SessionStream, send_exit_status
from rtunnel.proxy.subsystem import parse_subsystem
from rtunnel.splice import Stream
from rtunnel.ssh.channel import Channel
from rtunnel.status_text import clusters_text, status_text
from rtunnel.wire.data_types import Reader

#: Seconds a session may stay without asking for anything.
IDLE_TIMEOUT = 60.0

#: Seconds between the reason of a refused subsystem and the refusal. OpenSSH's client
#: ends on the refusal, without showing what came in one go with it.
REASON_LEAD = 0.1

#: Bytes of a command that is read; the longest sensible one is far shorter.
MAX_COMMAND = 1024

_HELP = (
    "This is an rtunnel proxy; it runs no shell.\n"
    "Reach a server with:  ssh -J THIS-PROXY user@HOST.CLUSTER\n"
    "Commands here:        ls [--json]   status [--json]\n"
)


class SessionOwner(Protocol):
    """What a session needs of the client's connection."""

    def status(self) -> dict[str, object]:
        """The status document for this user."""

    async def reach(self, target: Target) -> Callable[[Stream], None]:
        """Dial a target; raises OpenRefused."""


class Session:
    """One session channel of a client.

    :param owner: the client's connection.
    :param clock: ends a session that asks for nothing in :data:`IDLE_TIMEOUT`.
    """

    def __init__(self, owner: SessionOwner, clock: IReactorTime) -> None:
        self._owner = owner
        self._clock = clock
        self._terminal = False
        self._busy = False
        self._joined = False
        self._channel: Channel
        self._idle: IDelayedCall | None = None

    @property
    def is_pending(self) -> bool:
        """Whether it has come neither to its end nor to a target."""
        if self._idle is None:
            return True
        return not self._joined and self._channel.is_open

    def attach(self, channel: Channel) -> None:
        """Serve a channel that has just been confirmed."""
        self._channel = channel
        self._idle = self._clock.callLater(IDLE_TIMEOUT, channel.abort)
        channel.on_request = self.request_received

    def end(self) -> None:
        """The client has left: if it asked for nothing, nothing is waited for."""
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
            self._channel.abort()

    def request_received(self, name: bytes, data: bytes) -> bool | Awaitable[bool]:
        """Answer a channel request (RFC 4254 sections 6.2 to 6.5)."""
        if name == b"pty-req":
            self._terminal = True
            return True
        if name not in (b"shell", b"exec", b"subsystem") or self._busy:
            return False
        try:
            command = b"" if name == b"shell" else Reader(data).string(MAX_COMMAND)
        except ProtocolError:
            return False
        self._busy = True
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
        if name == b"subsystem":
            return Deferred.fromCoroutine(self._subsystem(command))
        # The reply to the request goes out before what the command prints.
        self._clock.callLater(0, self._run, command)
        return True

    async def _subsystem(self, name: bytes) -> bool:
        try:
            target = parse_subsystem(name)
            join = await self._owner.reach(target)
        except (InvalidName, OpenRefused) as error:
            self._channel.start(_Discard())
            self._channel.write_stderr(f"rtunnel: {error}\n".encode())
            await deferLater(self._clock, REASON_LEAD)
            self._clock.callLater(0, self._exit, 1)
            return False
        self._joined = True
        join(SessionStream(self._channel))
        return True

    def _run(self, command: bytes) -> None:
        self._channel.start(_Discard())
        words = command.decode("utf-8", "replace").split()
        as_json = "--json" in words
        verb = [word for word in words if word != "--json"]
        status = self._owner.status()
        if verb in ([], ["ls"]):
            text = (
                json.dumps(_clusters(status)) + "\n"
                if as_json
                else clusters_text(status)
            )
            if not verb and not as_json:
                text = _HELP + "\n" + text
            self._print(text, 0)
        elif verb == ["status"]:
            self._print(json.dumps(status) + "\n" if as_json else status_text(status))
        elif verb == ["help"]:
            self._print(_HELP)
        else:
            self._channel.write_stderr(
                self._lines(
                    f"rtunnel: no command {printable(command, 64)!r} here; "
                    "there are: ls [--json], status [--json]\n"
                )
            )
            self._exit(2)

    def _print(self, text: str, code: int = 0) -> None:
        self._channel.write(self._lines(text))
        self._exit(code)

    def _lines(self, text: str) -> bytes:
        if self._terminal:
            text = text.replace("\n", "\r\n")
        return text.encode()

    def _exit(self, code: int) -> None:
        send_exit_status(self._channel, code)
        self._channel.close()


class _Discard:
    """What a session's standard input goes to: nothing reads it."""

    def data_received(self, data: bytes) -> None:
        """Drop it."""

    def eof_received(self) -> None:
        """Nothing waits for the end of input."""

    def closed(self, reason: str | None) -> None:
        """Nothing is held."""


def _clusters(status: dict[str, object]) -> object:
    clusters = status["clusters"]
    assert isinstance(clusters, list)
    return [{"name": c["name"], "online": c["online"]} for c in clusters]
