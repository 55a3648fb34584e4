"""The connection of a newcomer that has shown a token: one session, one command.

``agent [CLUSTER]`` or ``proxy``, with the new public key on standard input, as in
``ssh join@PROXY agent < agent_key.pub``. Standard output is a bundle of files.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_UNKNOWN_CHANNEL_TYPE,
    InvalidName,
    OpenRefused,
    ProtocolError,
    SigningRefused,
    SigningUnavailable,
)
from rtunnel.naming import check_cluster, printable
from rtunnel.proxy import refusals
from rtunnel.proxy.join_verifier import check_new_key
from rtunnel.proxy.session_stream import send_exit_status
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.transport import ServerTransport
from rtunnel.trust.identity import JoinIdentity
from rtunnel.trust.join_token import TOKEN_REFUSED
from rtunnel.trust.signing_role import ROLES, Role
from rtunnel.wire.data_types import Reader
from rtunnel.wire.keys import PublicKey

#: Seconds from the login to the answer.
DEADLINE: Final = 60.0

#: Bytes of a command that is read.
MAX_COMMAND: Final = 256

#: Bytes on standard input: a public key and its comment.
MAX_KEY: Final = 16 * 1024

_USAGE = (
    "say what to join as, and give the public key on standard input: "
    "ssh join@PROXY agent < KEY.pub"
)


class Desk(Protocol):
    """See :class:`~rtunnel.proxy.join_desk.JoinDesk`."""

    async def join(
        self, bearer: JoinIdentity, role: Role, cluster: str, key: PublicKey
    ) -> str:
        """Use the token, and make the newcomer's files."""


class JoinerOwner(Protocol):
    """What a newcomer's connection needs of the proxy."""

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""

    def joiner_started(self, joiner: Joiner) -> None:
        """A newcomer has shown a token."""

    def joiner_ended(self, joiner: Joiner) -> None:
        """Its connection is gone."""


class Joiner:
    """A newcomer; a :class:`~rtunnel.ssh.connection.ConnectionHandler`.

    :param clock: ends the connection after :data:`DEADLINE` seconds.
    """

    def __init__(
        self,
        identity: JoinIdentity,
        owner: JoinerOwner,
        desk: Desk,
        clock: IReactorTime,
    ) -> None:
        self.identity = identity
        self._owner = owner
        self._desk = desk
        self._clock = clock
        self._connection: Connection | None = None
        self._timer: IDelayedCall | None = None
        self._session: JoinSession | None = None

    def close(self, reason: str) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close(reason)

    # ConnectionHandler.

    def connection_started(self, connection: Connection) -> None:
        """The newcomer has logged in."""
        self._connection = connection
        self._timer = self._clock.callLater(DEADLINE, self._too_late)
        self._owner.joiner_started(self)

    def _too_late(self) -> None:
        self._timer = None
        self.close(f"not joined within {DEADLINE:g} seconds")

    def connection_lost(self, reason: str) -> None:
        """The SSH connection is gone."""
        self._connection = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner.joiner_ended(self)

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """None is served."""
        return None

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """One session, and nothing else.

        :raises OpenRefused: for everything else.
        """
        if request.kind != b"session":
            raise OpenRefused(
                OPEN_UNKNOWN_CHANNEL_TYPE, "a token is for joining and nothing else"
            )
        if self._owner.draining:
            raise refusals.draining()
        if self._session is not None:
            raise OpenRefused(
                OPEN_ADMINISTRATIVELY_PROHIBITED, "a token is for one session"
            )
        self._session = JoinSession(
            self.identity, self._desk, self._clock, self._decided
        )
        return self._session.attach

    def _decided(self, is_good: bool) -> None:
        # Its source is treated like that of any other login that is good, or not.
        if self._connection is not None:
            transport = cast(ServerTransport, self._connection.transport)
            if is_good:
                transport.token_was_good()
            else:
                transport.token_was_refused()


class JoinSession:
    """The one session of a newcomer.

    :param decided: hears whether the token was good, once that has been tried.
    """

    _log = Logger()

    def __init__(
        self,
        identity: JoinIdentity,
        desk: Desk,
        clock: IReactorTime,
        decided: Callable[[bool], None],
    ) -> None:
        self._identity = identity
        self._decided = decided
        self._desk = desk
        self._clock = clock
        self._busy = False
        self._joining: Deferred[str] | None = None

    def attach(self, channel: Channel) -> None:
        """Serve a channel that has just been confirmed."""
        self._channel = channel
        channel.on_request = self.request_received

    def request_received(self, name: bytes, data: bytes) -> bool | Awaitable[bool]:
        """Answer a channel request: ``exec`` (RFC 4254 section 6.5), once."""
        if name not in (b"exec", b"shell") or self._busy:
            return False
        try:
            command = b"" if name == b"shell" else Reader(data).string(MAX_COMMAND)
        except ProtocolError:
            return False
        self._busy = True
        asked = _parse(command)
        # The reply to the request goes out before anything that is printed.
        if asked is None:
            self._clock.callLater(0, self._begin_with_fault, _USAGE)
        else:
            self._clock.callLater(0, self._begin, *asked)
        return True

    def _begin_with_fault(self, text: str) -> None:
        self._channel.start(_KeyReader(lambda data: None, self._gone))
        self._fail(text)

    def _begin(self, role: Role, cluster: str) -> None:
        self._channel.start(
            _KeyReader(lambda data: self._key_received(role, cluster, data), self._gone)
        )

    def _key_received(self, role: Role, cluster: str, data: bytes) -> None:
        try:
            key = _parse_key(data)
            check_new_key(key)
        except (ProtocolError, SigningRefused) as error:
            self._fail(f"standard input is not a public key to sign: {error}")
            return
        self._joining = Deferred.fromCoroutine(
            self._desk.join(self._identity, role, cluster, key)
        )
        self._joining.addCallbacks(self._joined, self._not_joined).addErrback(
            lambda failure: self._log.failure("an answer could not be sent", failure)
        )

    def _joined(self, bundle: str) -> None:
        self._decided(True)
        self._channel.write(bundle.encode("utf-8"))
        self._exit(0)

    def _not_joined(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(SigningRefused):
            self._decided(False)
            self._fail(TOKEN_REFUSED)
        elif failure.check(SigningUnavailable):
            self._fail(str(failure.value))
        else:
            self._log.failure("a newcomer could not be served", failure)
            self._fail("the proxy met an error of its own; its log says which")

    def _gone(self) -> None:
        if self._joining is not None:
            self._joining.cancel()

    def _fail(self, text: str) -> None:
        self._channel.write_stderr(f"rtunnel: {text}\n".encode())
        self._exit(1)

    def _exit(self, code: int) -> None:
        send_exit_status(self._channel, code)
        self._channel.close()


class _KeyReader:
    """Collects standard input to the end of its first line, or of itself."""

    def __init__(self, done: Callable[[bytes], None], gone: Callable[[], None]) -> None:
        self._done = done
        self._gone = gone
        self._received = b""
        self._is_done = False

    def data_received(self, data: bytes) -> None:
        if self._is_done:
            return
        self._received += data
        if len(self._received) > MAX_KEY or self._received.lstrip().find(b"\n") >= 0:
            self._finish()

    def eof_received(self) -> None:
        if not self._is_done:
            self._finish()

    def closed(self, reason: str | None) -> None:
        self._is_done = True
        self._gone()

    def _finish(self) -> None:
        self._is_done = True
        self._done(self._received)


def _parse(command: bytes) -> tuple[Role, str] | None:
    """What a command asks for; None when it is none of ours."""
    words = command.decode("utf-8", "replace").split()
    if not words or len(words) > 2:
        return None
    cluster = words[1] if len(words) == 2 else ""
    for role in ROLES:
        if role == words[0] and (role == "agent" or not cluster):
            try:
                return role, check_cluster(cluster) if cluster else ""
            except InvalidName:
                return None
    return None


def _parse_key(data: bytes) -> PublicKey:
    """The public key in the first line.

    :raises ProtocolError: when there is none.
    """
    if len(data) > MAX_KEY:
        raise ProtocolError(f"it has more than {MAX_KEY} bytes")
    first, _, rest = data.strip().partition(b"\n")
    if b"PRIVATE KEY" in first:
        raise ProtocolError("that is a private key, which nobody else should see")
    if not first or rest:
        raise ProtocolError("it has to be one line, as in a file KEY.pub")
    try:
        text = first.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ProtocolError(f"it is not text: {printable(first, 40)}") from None
    return PublicKey.from_openssh(text)[0]
