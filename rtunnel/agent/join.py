"""Joining: a public key and a token go to a proxy, certificate and CA keys come back.

For agents and, with another kind of token, for further proxies. It goes over the SSH
port of the tunnels: the host certificate there has to be signed by an authority whose
fingerprint is in the line, before the token is shown. See docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, cast

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import ConnectError, DNSLookupError

from rtunnel.agent.connect import Connector
from rtunnel.config import Address
from rtunnel.errors import (
    OPEN_UNKNOWN_CHANNEL_TYPE,
    AuthenticationFailed,
    AuthorityUnknown,
    ConnectionClosed,
    ConnectionFailed,
    HostRefused,
    InvalidName,
    JoinFailed,
    MessageError,
    OpenRefused,
    ProtocolError,
    RequestFailed,
    RtunnelError,
)
from rtunnel.naming import printable
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import JoinFactory
from rtunnel.ssh.transport import ClientTransport
from rtunnel.state_directory import HOST_CA, public_path
from rtunnel.target_dialer import IDialingReactor
from rtunnel.trust.host_check import check_host
from rtunnel.trust.join_bundle import MAX_BUNDLE, decode_bundle
from rtunnel.trust.join_token import TOKEN_REFUSED, JoinLine
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import Reader, text
from rtunnel.wire.keys import PublicKey

_T = TypeVar("_T")

#: Seconds for a connection to one address: names, TCP, HTTP proxy and TLS.
CONNECT_TIMEOUT: Final = 10.0
#: Seconds from there to the login.
LOGIN_TIMEOUT: Final = 15.0
#: Seconds from there to the certificate. The proxy itself gives it 60.
ANSWER_TIMEOUT: Final = 65.0
#: Bytes of what the proxy says on its standard error.
MAX_STDERR: Final = 4096


class Joining:
    """One newcomer's way in.

    :param line: what the operator has given.
    :param key: to be certified.
    :param now: wall clock, seconds since the epoch.
    :param progress: hears of each step, in a sentence.
    :ivar host_key: of the proxy that was believed last, None before.
    """

    def __init__(
        self,
        line: JoinLine,
        key: PublicKey,
        *,
        reactor: IDialingReactor,
        connector: Connector,
        now: Callable[[], float],
        progress: Callable[[str], None],
    ) -> None:
        self._line = line
        self._key = key
        self._reactor = reactor
        self._connector = connector
        self._now = now
        self._progress = progress
        self.host_key: PublicKey | None = None

    async def run(self) -> dict[str, str]:
        """Try every address, until a proxy answers.

        An address that cannot be reached leads on to the next one. A proxy that is not
        genuine ends it at once: somebody is in the way.

        :return: files by name, see :mod:`rtunnel.trust.join_bundle`.
        :raises JoinFailed: with one sentence about what to do.
        """
        failures = []
        for given in self._line.addresses:
            address = _address(given)
            self._progress(f"connecting to {address}")
            try:
                connection = await self._connected(address)
            except HostRefused as error:
                raise JoinFailed(
                    f"{address} is not a proxy that this line is for: {error}. The "
                    "token was not sent and is still good. Somebody may be in the "
                    "way; compare the line with the one that `rtunnel token add` "
                    "printed"
                ) from None
            except AuthenticationFailed:
                raise JoinFailed(TOKEN_REFUSED) from None
            except (RtunnelError, ConnectError, DNSLookupError) as error:
                failures.append(self._no_luck(address, error))
                continue
            self._progress("the token is accepted, asking for a certificate")
            try:
                return await self._asked(connection)
            except ConnectionFailed as error:
                failures.append(self._no_luck(address, error))
            finally:
                connection.close("joined")
        raise JoinFailed(
            "no proxy can be reached (" + "; ".join(failures) + "); the token was not "
            "used"
        )

    def _no_luck(self, address: Address, error: Exception) -> str:
        reason = printable(str(error))
        self._progress(f"no luck there: {reason}")
        return f"{address}: {reason}"

    # Up to the login.

    async def _connected(self, address: Address) -> Connection:
        """A connection on which we are logged in.

        :raises HostRefused: the proxy there is not genuine.
        :raises AuthenticationFailed: it does not take the token.
        :raises ConnectionFailed: anything else.
        """
        factory = JoinFactory(
            clock=self._reactor,
            token=self._line.token,
            check_host=self._check_host,
            handler=_Handler(),
        )
        connecting = Deferred.fromCoroutine(
            self._connector.connect(address, 0, factory)
        )
        transport = cast(
            ClientTransport,
            await self._within(connecting, CONNECT_TIMEOUT, "does not answer"),
        )
        return await self._within(
            transport.ready, LOGIN_TIMEOUT, "answers, but does not finish the login"
        )

    async def _within(self, waiting: Deferred[_T], seconds: float, what: str) -> _T:
        waiting.addTimeout(seconds, self._reactor)
        try:
            return await waiting
        except TimeoutError:
            raise ConnectionFailed(f"it {what} within {seconds:g} seconds") from None

    def _check_host(self, algorithm: bytes, blob: bytes) -> Certificate:
        """Is this a proxy of the authority that the line names?

        :raises HostRefused: to hang up before the token is sent.
        """
        try:
            host = check_host(
                algorithm,
                blob,
                trusts=lambda key: key.fingerprint in self._line.host_cas,
                now=self._now(),
            )
        except AuthorityUnknown as error:
            raise HostRefused(
                f"{error}; the line names " + " and ".join(self._line.host_cas)
            ) from None
        self._progress(
            f"proxy {host.proxy_id} is genuine, by host authority "
            f"{host.certificate.ca_key.fingerprint}"
        )
        self.host_key = host.certificate.key
        return host.certificate

    # From the login on.

    async def _asked(self, connection: Connection) -> dict[str, str]:
        """What the proxy answers.

        :raises ConnectionFailed: it takes no request now; the token is as it was.
        :raises JoinFailed: it says no, or cannot be understood.
        """
        session = _Session()
        asking = Deferred.fromCoroutine(self._ask(connection, session))
        asking.addTimeout(ANSWER_TIMEOUT, self._reactor)
        try:
            return self._believed(decode_bundle(await asking))
        except TimeoutError:
            problem = f"the proxy has not answered within {ANSWER_TIMEOUT:g} seconds"
        except OpenRefused as error:
            raise ConnectionFailed(str(error)) from None
        except (ConnectionClosed, RequestFailed) as error:
            problem = printable(str(error))
        except MessageError as error:
            problem = f"the proxy's answer cannot be read: {error}"
        raise JoinFailed(
            f"{problem}; the token may be used up: see `rtunnel token ls` there"
        ) from None

    def _believed(self, files: dict[str, str]) -> dict[str, str]:
        """The files, with those host authorities alone that the line names: the proxy
        is genuine, but it might want to be believed for longer than its certificate is.

        Others come by trust bundles, which say who vouches for them.

        :raises MessageError: when there is none.
        """
        name = public_path(Path(HOST_CA)).name
        try:
            keys = [
                line
                for line in files.get(name, "").splitlines()
                if PublicKey.from_openssh(line)[0].fingerprint in self._line.host_cas
            ]
        except ProtocolError as error:
            raise MessageError(f"{name}: {error}") from None
        if not keys:
            raise MessageError(f"{name} holds no authority that the line names")
        return files | {name: "".join(f"{key}\n" for key in keys)}

    async def _ask(self, connection: Connection, session: _Session) -> bytes:
        channel = await connection.open_channel(b"session")
        session.attach(channel)
        line = self._line
        command = f"agent {line.cluster}" if line.kind == "agent" else "proxy"
        await channel.send_request(b"exec", text(command))
        channel.write(f"{self._key.to_openssh()}\n".encode())
        channel.write_eof()
        return await session.answered


class _Handler:
    """A proxy has nothing to ask of a newcomer."""

    def connection_started(self, connection: Connection) -> None:
        """Whoever waits for ``ready`` hears of it."""

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """Nothing is served."""
        raise OpenRefused(OPEN_UNKNOWN_CHANNEL_TYPE, "a newcomer serves nothing")

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """Nothing is served."""
        return None

    def connection_lost(self, reason: str) -> None:
        """Whoever waits for ``ready`` or the session hears of it."""


class _Session:
    """Collects what a command prints, until its end.

    :ivar answered: fires with standard output; fails with :class:`JoinFailed` and the
        sentence on standard error when the exit status is not 0.
    """

    def __init__(self) -> None:
        self.answered: Deferred[bytes] = Deferred()
        self._output = bytearray()
        self._errors = b""
        self._status: int | None = None

    def attach(self, channel: Channel) -> None:
        """Listen to a channel."""
        self._channel = channel
        channel.on_request = self._request_received
        channel.on_stderr = self._stderr_received
        channel.start(self)

    def _request_received(self, name: bytes, data: bytes) -> bool:
        if name != b"exit-status":
            return False
        try:
            self._status = Reader(data).uint32()
        except ProtocolError:
            return False
        return True

    def _stderr_received(self, data: bytes) -> None:
        self._errors = (self._errors + data)[:MAX_STDERR]

    def data_received(self, data: bytes) -> None:
        """Some bytes of standard output."""
        self._output += data
        if len(self._output) > MAX_BUNDLE:
            self._end(MessageError("it is too long"))
            self._channel.abort()

    def eof_received(self) -> None:
        """The exit status may still come."""

    def closed(self, reason: str | None) -> None:
        """The end."""
        if reason is not None:
            self._end(ConnectionClosed(f"the connection broke: {reason}"))
        elif self._status == 0:
            self._end(bytes(self._output))
        elif self._errors:
            said = self._errors.decode("utf-8", "replace").strip()
            self._end(JoinFailed(printable(said.removeprefix("rtunnel: "), MAX_STDERR)))
        else:
            self._end(ConnectionClosed("the proxy has hung up without an answer"))

    def _end(self, result: bytes | RtunnelError) -> None:
        if self.answered.called:
            return
        if isinstance(result, bytes):
            self.answered.callback(result)
        else:
            self.answered.errback(result)


def _address(given: str) -> Address:
    try:
        return Address.parse(given)
    except InvalidName as error:
        raise JoinFailed(f"the line to join with: {error}") from None
