"""SSH packets over a byte stream: the part that client and server have in common.

Conch's transport is subclassed for its plumbing; what a peer can reach is ours. Every
message passes one table of what may come when (:meth:`PacketTransport._dispatch`), and
every fault of the peer is one :class:`~rtunnel.errors.ProtocolError`, one log line, one
SSH_MSG_DISCONNECT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import SSHTransportBase
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from rtunnel.direct_socket import DirectSocket, direct_socket
from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_CONNECTION_LOST,
    DISCONNECT_HOST_KEY_NOT_VERIFIABLE,
    HostRefused,
    ProtocolError,
)
from rtunnel.naming import printable
from rtunnel.ssh.exchanges import ExchangeContext, KeyExchanges
from rtunnel.ssh.interfaces import ConnectionService
from rtunnel.ssh.limits import TransportLimits
from rtunnel.ssh.packet_output import PacketOutput
from rtunnel.ssh.peer_socket import peer_address, set_user_timeout, tune_socket
from rtunnel.ssh.write_batch import BATCH
from rtunnel.wire import data_types
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.data_types import Reader, string, uint32
from rtunnel.wire.negotiation import parse_ext_info
from rtunnel.wire.numbers import (
    MSG_DEBUG,
    MSG_DISCONNECT,
    MSG_EXT_INFO,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEXINIT,
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_REQUEST,
)
from rtunnel.wire.packet_cipher import Buffer
from rtunnel.wire.packet_stream import PacketOpener, PacketSealer
from rtunnel.wire.version_line import VersionReader

# Where the ranges of message numbers begin (RFC 4250 section 4.1.1).
_FIRST_OF_EXCHANGE = MSG_KEXINIT
_FIRST_OF_AUTHENTICATION = MSG_USERAUTH_REQUEST
_FIRST_OF_CONNECTION = MSG_GLOBAL_REQUEST
_FIRST_LOCAL = 128

_DISCONNECTING = "disconnecting {address}: {reason} (code {reason_code})"
_DISCONNECTED = "disconnected by {address}: {reason} (code {reason_code})"

_SEQUENCE_MASK = 2**32 - 1
_NO_MEANING = frozenset([MSG_IGNORE, MSG_UNIMPLEMENTED, MSG_DEBUG])


class PacketTransport(SSHTransportBase):
    """One SSH connection, from its version line to its end.

    ``last_received`` is the clock at the newest byte from the peer, ``authenticated``
    whether the login is over. ``close_reason`` says in a sentence why the connection
    ended, as soon as that is known, ``goodbye_code`` is the code of the peer's
    DISCONNECT if that was why.

    :param limits: see :class:`~rtunnel.ssh.limits.TransportLimits`.
    :param algorithms: what to offer.
    :param random: this many random bytes, for cookies and padding.
    """

    _log = Logger()

    # What software this is, a peer may know; which version, it need not.
    ourVersionString = b"SSH-2.0-rtunnel"

    exchanges: KeyExchanges
    transport: Any

    __slots__ = (
        "_abort_timer",
        "_closing",
        "_deliver",
        "_deliver_data",
        "_direct",
        "_exchange_timer",
        "_has_begun",
        "_is_waiting",
        "_login_timer",
        "_lost",
        "_opener",
        "_output",
        "_random",
        "_received_unauthenticated",
        "_rest_timer",
        "_running",
        "_sealer",
        "_unimplemented",
        "_version_reader",
        "algorithms",
        "authenticated",
        "clock",
        "close_reason",
        "goodbye_code",
        "last_received",
        "limits",
        "peer_address",
    )

    def __init__(
        self,
        *,
        clock: IReactorTime,
        limits: TransportLimits,
        algorithms: Algorithms,
        random: Callable[[int], bytes],
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.algorithms = algorithms
        self.last_received = clock.seconds()
        self.peer_address = ""
        self.close_reason = ""
        self.goodbye_code: int | None = None
        self.authenticated = False
        self._random = random
        self._sealer = PacketSealer(random)
        self._opener = PacketOpener(limits.max_packet_unauthenticated)
        self._output = PacketOutput(
            self._sealer, limits, self._writable_changed, self._give_up
        )
        self._version_reader = VersionReader(from_server=self.isClient)
        self._has_begun = False
        # Whether a packet waits for its turn, and all that follow it.
        self._is_waiting = False
        self._received_unauthenticated = 0
        self._unimplemented = 0
        # Whether messages of the connection protocol go straight to the service.
        self._running = False
        self._deliver: Callable[[int, Buffer], None] = self._dispatch
        self._deliver_data: Callable[[int, memoryview, int], None]
        self._direct: DirectSocket | None = None
        self._closing = False
        self._lost = False
        self._login_timer: IDelayedCall | None = None
        self._exchange_timer: IDelayedCall | None = None
        self._abort_timer: IDelayedCall | None = None
        self._rest_timer: IDelayedCall | None = None

    def make_exchange_context(self) -> ExchangeContext:
        """For the subclass's :class:`~rtunnel.ssh.exchanges.KeyExchanges`."""
        return ExchangeContext(
            self,
            self._sealer,
            self._opener,
            self.algorithms,
            self.limits,
            self.clock,
            self._random,
        )

    @property
    def session_id(self) -> bytes:
        """The first exchange hash; empty before the first key exchange."""
        return self.exchanges.session_id

    @property
    def versions(self) -> tuple[bytes, bytes]:
        """Our version line and the peer's, without line ends."""
        assert self._version_reader.line is not None
        return self.ourVersionString, self._version_reader.line

    @property
    def peer_said_goodbye(self) -> bool:
        """Whether the peer ended the connection, and of its own accord."""
        return self.goodbye_code == DISCONNECT_BY_APPLICATION

    @property
    def is_writable(self) -> bool:
        """Whether data may be sent now.

        False while TCP has enough to send or a key exchange holds packets back. The
        running service is told when it changes, by ``pause_writing`` and
        ``resume_writing`` if it has them.
        """
        return self._output.is_writable

    def __repr__(self) -> str:
        if self._lost:
            state = "closed"
        elif self._closing:
            state = "closing"
        else:
            state = "authenticated" if self.authenticated else "not authenticated"
        return f"<{type(self).__name__} {self.peer_address} {state}>"

    # The connection's life

    def connectionMade(self) -> None:
        """The peer is there, and the time that it has to log in runs."""
        self.peer_address = peer_address(self.transport)
        tune_socket(self.transport, self.limits.tcp_user_timeout)
        self._direct = direct_socket(self.transport)
        self._output.connect(self.transport, self._direct)
        self._login_timer = self.clock.callLater(
            self.limits.login_grace, self.login_grace_over
        )
        self.peer_arrived()

    def peer_arrived(self) -> None:
        """For subclasses, that may :meth:`begin` later, or not at all."""
        self.begin()

    def begin(self) -> None:
        """Say who we are, and start the first key exchange without waiting."""
        with BATCH:
            self._send_version()
            self.exchanges.start()

    def _send_version(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._output.send_line(self.ourVersionString)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Stop every timer and the running service."""
        if self._lost:
            return
        self._lost = True
        self._closing = True
        self._running = False
        self._output.drop()
        if self._direct is not None:
            self._direct.release()
        if not self.close_reason:
            self.close_reason = "the connection was lost"
            if reason is not None:
                self.close_reason += f": {reason.getErrorMessage()}"
        for timer in (
            self._login_timer,
            self._exchange_timer,
            self._abort_timer,
            self._rest_timer,
        ):
            _cancel(timer)
        service, self.service = self.service, None
        try:
            if service is not None:
                service.serviceStopped()
        finally:
            self.connection_ended()

    def connection_ended(self) -> None:
        """For subclasses: the connection is gone and the service has been stopped."""

    def disconnect(self, reason_code: int, text: str) -> None:
        """End the connection: tell the peer, close, and cut it when that takes long.

        :param reason_code: DISCONNECT reason code (RFC 4253 section 11.1).
        :param text: one sentence; the peer gets it.
        """
        if self._closing:
            return
        self._closing = True
        if not self.close_reason:
            self.close_reason = text
        self._log_end(_DISCONNECTING, printable(text), reason_code)
        with BATCH:
            self._send_version()
            self._output.send(
                MSG_DISCONNECT,
                uint32(reason_code) + data_types.text(text) + string(b""),
            )
        # What a server says about why, nobody else can tell.
        self._close(linger=not self.isClient)

    def may_log(self) -> bool:
        """For servers: whether peers that did not log in caused few enough lines."""
        return True

    def _log_end(self, line: str, reason: str, reason_code: int) -> None:
        if self.authenticated or self.may_log():
            # Agents hang up early on proxies that have their tunnel already.
            is_routine = reason_code == DISCONNECT_HOST_KEY_NOT_VERIFIABLE
            self._log.emit(
                LogLevel.debug if is_routine else LogLevel.info,
                line,
                address=self.peer_address,
                reason=reason,
                reason_code=reason_code,
            )

    def loseConnection(self) -> None:
        """Conch's way to say :meth:`disconnect`."""
        self.disconnect(DISCONNECT_BY_APPLICATION, "closed by the application")

    def sendDisconnect(self, reason: int, desc: bytes) -> None:
        """Conch's way to say :meth:`disconnect`."""
        self.disconnect(reason, desc.decode("utf-8", "replace"))

    def _close(self, *, linger: bool) -> None:
        self._closing = True
        self._running = False
        _cancel(self._login_timer)
        _cancel(self._exchange_timer)
        self._output.close(linger=linger)
        if not self._lost:
            self._abort_timer = self.clock.callLater(
                self.limits.abort_after, self.transport.abortConnection
            )

    def _give_up(self, reason: str) -> None:
        self.disconnect(DISCONNECT_CONNECTION_LOST, reason)

    def login_grace_over(self) -> None:
        """The peer took too long to log in."""
        self.disconnect(
            DISCONNECT_BY_APPLICATION,
            f"not authenticated within {self.limits.login_grace:g} seconds",
        )

    def _exchange_stalled(self) -> None:
        self._give_up(
            f"the key exchange took over {self.limits.exchange_seconds:g} seconds"
        )

    # What comes from the peer

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the peer, act on every whole packet, answer in one write."""
        if not self._closing:
            self._act(data)

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the peer go, once it is authenticated."""
        return self._opener.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Act on bytes that are where :meth:`get_buffer` said."""
        if not self._closing:
            self._opener.buffer_updated(nbytes)
            self._act(b"")

    def _act(self, data: bytes) -> None:
        self.last_received = self.clock.seconds()
        self._guard(self._receive, data)

    def _guard(self, take: Callable[..., None], *arguments: Any) -> None:
        """Do what the peer asks for, whatever comes of it."""
        with BATCH:
            try:
                take(*arguments)
                if self._rekey_is_due():
                    self.exchanges.start()
            except ProtocolError as error:
                self.protocol_broken(error)
            except HostRefused as error:
                self.host_refused(error)
            except Exception:
                self._log.failure(
                    "a message from {address} met an error of ours",
                    address=self.peer_address,
                )
                self.protocol_broken(
                    ProtocolError("internal error", DISCONNECT_BY_APPLICATION)
                )
            finally:
                self._opener.keep()

    def protocol_broken(self, error: ProtocolError) -> None:
        """The peer broke the protocol, or met an error of ours."""
        self.disconnect(error.reason_code, str(error))

    def _receive(self, data: bytes) -> None:
        if not self.authenticated:
            self._received_unauthenticated += len(data)
            if self._received_unauthenticated > self.limits.unauthenticated_bytes:
                raise ProtocolError("too many bytes before authentication")
            if self._version_reader.line is None:
                own = self.own_bytes(data)
                rest = None if own is None else self._version_reader.feed(own)
                if rest is None:
                    return
                data = rest
        if data:
            self._opener.feed(data)
        if not self._is_waiting:
            self._take_packets()

    def own_bytes(self, data: bytes) -> bytes | None:
        """For servers: those of the first bytes that are the peer's own.

        :return: None for "none yet".
        """
        return data

    def _take_packets(self) -> None:
        next_packet = self._opener.next_packet
        left = self.limits.messages_at_once
        while not self._closing:
            packet = next_packet()
            if packet is None:
                break
            number, payload = packet
            if self._running and _FIRST_OF_CONNECTION <= number < _FIRST_LOCAL:
                if isinstance(payload, memoryview):
                    self._deliver_data(*self._opener.gather(payload))
                else:
                    self._deliver(number, payload)
            elif self.may_dispatch(number, payload):
                self._dispatch(number, payload)
            else:
                break
            left -= 1
            if not left:
                self._rest()
                break

    def _rest(self) -> None:
        """Let everybody else have their turn before more of this peer's messages."""
        if not self._closing:
            self._is_waiting = True
            self.transport.pauseProducing()
            self._rest_timer = self.clock.callLater(0, self._rested)

    def _rested(self) -> None:
        self._is_waiting = False
        # That the peer has hung up is noticed by reading.
        self.transport.resumeProducing()
        if not self._closing:
            self._guard(self._take_packets)

    def may_dispatch(self, number: int, payload: Buffer) -> bool:
        """For servers: whether a message is to be acted upon now.

        If not, it is theirs to keep, and :attr:`_is_waiting` until it is.
        """
        return True

    def _dispatch(self, number: int, content: Buffer) -> None:
        """The table: which message may come when, and who takes it."""
        # A view is of channel data, which only the service takes.
        payload = bytes(content)
        exchanges = self.exchanges
        if number == MSG_DISCONNECT:
            self._disconnected_by_peer(payload)
        elif number in _NO_MEANING:
            if exchanges.strict and not exchanges.completed:
                raise ProtocolError(
                    f"message {number} in the first key exchange, which is strict"
                )
        elif _FIRST_OF_EXCHANGE <= number < _FIRST_OF_AUTHENTICATION:
            exchanges.receive(number, payload)
            self._running = self.authenticated and not exchanges.peer_is_bound
        elif not exchanges.completed or exchanges.peer_is_bound:
            raise ProtocolError(f"message {number} in a key exchange")
        elif number == MSG_EXT_INFO:
            # Those that come in no place for them are passed over unread.
            if self.takes_ext_info():
                self.extensions_received(parse_ext_info(payload))
        elif number < _FIRST_OF_EXCHANGE:
            self.service_message(number, payload)
        elif number < _FIRST_OF_CONNECTION:
            # After the first success, RFC 4252 section 5.1 has them ignored.
            if not self.authenticated:
                if self.service is None:
                    raise ProtocolError(f"message {number} before its service")
                self.service.packetReceived(number, payload)
        elif not self.authenticated:
            raise ProtocolError(f"message {number} before authentication")
        elif number < _FIRST_LOCAL:
            self._deliver(number, payload)
        else:
            self.sendUnimplemented()

    def _disconnected_by_peer(self, payload: bytes) -> None:
        reader = Reader(payload)
        reason_code = reader.uint32()
        text = printable(reader.string())
        self.close_reason = f"the peer disconnected: {text}"
        self.goodbye_code = reason_code
        self._log_end(_DISCONNECTED, text, reason_code)
        self._close(linger=False)

    def takes_ext_info(self) -> bool:
        """Whether an EXT_INFO that comes now has its place (RFC 8308 section 2.4)."""
        return False

    def extensions_received(self, extensions: dict[bytes, bytes]) -> None:
        """For subclasses: what the peer's EXT_INFO said."""

    def service_message(self, number: int, payload: bytes) -> None:
        """For subclasses: messages 5, 6 and those below 20 that nobody knows."""
        self.sendUnimplemented()

    def host_refused(self, error: HostRefused) -> None:
        """For clients: hang up, before saying who we are."""
        raise error

    # What goes to the peer

    def sendPacket(self, messageType: int, payload: bytes, data: Buffer = b"") -> None:
        """Send one packet, or queue it while a key exchange runs.

        After the end of the connection it is dropped.

        :param messageType: the message number.
        :param payload: the message without it.
        :param data: more of the message, so that the caller need not join the two. Its
            memory is the caller's again when this returns.
        """
        if self._closing:
            return
        self._output.send(messageType, payload, data)
        if self._rekey_is_due():
            self.exchanges.start()

    def send_data(self, channel: int, data: Buffer, limit: int) -> None:
        """Send CHANNEL_DATA, which may become part of the packet before.

        :param channel: the peer's number of it.
        :param data: its memory is the caller's again when this returns.
        :param limit: bytes of data in one packet.
        """
        if self._closing:
            return
        self._output.send_data(channel, data, limit)
        if self._rekey_is_due():
            self.exchanges.start()

    def sendUnimplemented(self) -> None:
        """Tell the peer that we do not know the message that came last.

        :raises ProtocolError: when there were too many of these.
        """
        self._unimplemented += 1
        if self._unimplemented > self.limits.unimplemented:
            raise ProtocolError("too many messages that we do not know")
        self.sendPacket(
            MSG_UNIMPLEMENTED, uint32((self._opener.sequence - 1) & _SEQUENCE_MASK)
        )

    def _rekey_is_due(self) -> bool:
        if not self._running or self._output.is_holding:
            return False
        limits, sealer, opener = self.limits, self._sealer, self._opener
        return (
            sealer.sealed > limits.rekey_bytes
            or opener.opened > limits.rekey_bytes
            or sealer.packets > limits.rekey_packets
            or opener.packets > limits.rekey_packets
            or self.last_received - self.exchanges.completed_at > limits.rekey_seconds
        )

    def _writable_changed(self) -> None:
        if self.authenticated and not self._closing:
            what = "resume_writing" if self.is_writable else "pause_writing"
            tell = getattr(self.service, what, None)
            if tell is not None:
                tell()

    # What the key exchanges tell (ExchangeLink)

    def exchange_started(self) -> None:
        """Our KEXINIT has been sent."""
        self._output.hold()
        self._exchange_timer = self.clock.callLater(
            self.limits.exchange_seconds, self._exchange_stalled
        )

    def our_keys_in_use(self) -> None:
        """Our NEWKEYS has been sent."""
        if not self.exchanges.completed:
            self._output.is_holding = False
            self.first_keys_in_use()
        self._output.release()

    def their_keys_in_use(self) -> None:
        """The peer's NEWKEYS has come."""
        _cancel(self._exchange_timer)
        self._exchange_timer = None
        self._unimplemented = 0
        if self.exchanges.completed == 1:
            self.first_exchange_over()

    def first_keys_in_use(self) -> None:
        """For subclasses: our first NEWKEYS has been sent, and nothing after it."""

    def first_exchange_over(self) -> None:
        """For subclasses: the peer's first NEWKEYS has come."""

    # Services

    def setService(self, service: SSHService) -> None:
        """Run ``service`` in place of the one that runs."""
        if self.service is not None:
            self.service.serviceStopped()
        self.service = service
        service.transport = self
        service.serviceStarted()

    def start_service(self, service: ConnectionService) -> None:
        """The peer is authenticated: run ``service`` until the connection ends."""
        _cancel(self._login_timer)
        self._login_timer = None
        self.authenticated = True
        self._running = not self.exchanges.peer_is_bound
        self._deliver = service.packetReceived
        self._deliver_data = service.data_received
        self._opener.limit = self.limits.max_packet
        self.set_tcp_user_timeout(0)
        if self._direct is not None:
            # Not before: strangers share no memory with those who have logged in.
            self._direct.read_into(self)
        self.setService(service)

    def set_tcp_user_timeout(self, seconds: float) -> None:
        """See :func:`~rtunnel.ssh.peer_socket.set_user_timeout`."""
        set_user_timeout(self.transport, seconds)

    def isEncrypted(self, direction: str = "out") -> bool:
        """Conch asks whether keys are in use."""
        return self.exchanges.completed > 0

    def isVerified(self, direction: str = "out") -> bool:
        """Conch asks whether packets are authentic; no cipher of ours is without."""
        return self.exchanges.completed > 0


def _cancel(timer: IDelayedCall | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()
