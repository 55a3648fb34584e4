"""SSH packets over a byte stream: the part that client and server have in common.

Conch's transport is subclassed for its plumbing; what a peer can reach is ours. Every
message passes one table of what may come when (:meth:`PacketTransport._dispatch`), and
every fault of the peer is one :class:`~rtunnel.errors.ProtocolError`, one log line, one
SSH_MSG_DISCONNECT.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import SSHTransportBase
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_CONNECTION_LOST,
    DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED,
    HostRefused,
    ProtocolError,
)
from rtunnel.naming import printable
from rtunnel.ssh.exchanges import ExchangeContext, KeyExchanges
from rtunnel.ssh.limits import TransportLimits
from rtunnel.wire import data_types
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.data_types import Reader, string, uint32
from rtunnel.wire.negotiation import parse_ext_info
from rtunnel.wire.numbers import (
    MSG_DEBUG,
    MSG_DISCONNECT,
    MSG_EXT_INFO,
    MSG_IGNORE,
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_UNIMPLEMENTED,
)
from rtunnel.wire.packet_stream import PacketOpener, PacketSealer

#: Bytes in a version line, its end included (RFC 4253 section 4.2).
MAX_VERSION_LINE = 255

#: Lines that a server may send before its version line.
MAX_LINES_BEFORE_VERSION = 20

#: Bytes collected during one read before they are handed to TCP all the same, so that
#: TCP can say that it has had enough.
_MAX_CORKED = 64 * 1024

_DISCONNECT_TEXT_LIMIT = 1024
_FIRST_EXCHANGE_NUMBER = MSG_KEXINIT
_FIRST_AUTH_NUMBER = 50
_FIRST_CONNECTION_NUMBER = 80
_FIRST_LOCAL_NUMBER = 128
_SEQUENCE_MASK = 2**32 - 1
_NO_MEANING = frozenset([MSG_IGNORE, MSG_UNIMPLEMENTED, MSG_DEBUG])

#: What we may send between our KEXINIT and our NEWKEYS (RFC 4253 section 7.1).
_DURING_EXCHANGE = frozenset(
    [
        MSG_DISCONNECT,
        MSG_IGNORE,
        MSG_UNIMPLEMENTED,
        MSG_DEBUG,
        MSG_KEXINIT,
        MSG_NEWKEYS,
        MSG_KEX_ECDH_INIT,
        MSG_KEX_ECDH_REPLY,
    ]
)


class PacketTransport(SSHTransportBase):
    """One SSH connection, from its version line to its end.

    ``is_writable`` is false while TCP has enough to send or a key exchange holds
    packets back; a running service that has ``pause_writing`` and ``resume_writing``
    is told when it changes. What is sent all the same is queued, within limits.
    ``last_received`` is the clock at the newest byte from the peer. ``close_reason``
    says in a sentence why the connection ended, as soon as that is known.

    :param limits: see :class:`~rtunnel.ssh.limits.TransportLimits`.
    :param algorithms: what to offer.
    :param random: this many random bytes, for cookies and padding.
    """

    _log = Logger()

    # What software this is, a peer may know; which version, it need not.
    ourVersionString = b"SSH-2.0-rtunnel"

    exchanges: KeyExchanges
    transport: Any

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
        self.random = random
        self.is_writable = True
        self.last_received = clock.seconds()
        self.peer_address = ""
        self.close_reason = ""
        self.authenticated = False
        self._sealer = PacketSealer(random)
        self._opener = PacketOpener(limits.max_packet_unauthenticated)
        self._peer_is_hidden = False
        self._version_data = b""
        self._lines_before_version = 0
        self._received_unauthenticated = 0
        self._unimplemented = 0
        # Whether messages of the connection protocol go straight to the service.
        self._running = False
        self._deliver: Callable[[int, bytes], None] = self._dispatch
        self._closing = False
        self._lost = False
        self._out: list[bytes] = []
        self._out_size = 0
        self._corked = False
        self._holding = False
        self._held: list[tuple[int, bytes, bytes]] = []
        self._held_size = 0
        self._tcp_is_writable = True
        self._unread = 0
        self._login_timer: IDelayedCall | None = None
        self._exchange_timer: IDelayedCall | None = None
        self._abort_timer: IDelayedCall | None = None

    def make_exchange_context(self) -> ExchangeContext:
        """For the subclass's :class:`~rtunnel.ssh.exchanges.KeyExchanges`."""
        return ExchangeContext(
            self,
            self._sealer,
            self._opener,
            self.algorithms,
            self.limits,
            self.clock,
            self.random,
        )

    @property
    def session_id(self) -> bytes:
        """The first exchange hash; empty before the first key exchange."""
        return self.exchanges.session_id

    @property
    def versions(self) -> tuple[bytes, bytes]:
        """Our version line and the peer's, without line ends."""
        return self.ourVersionString, self.otherVersionString

    def __repr__(self) -> str:
        state = (
            "closed"
            if self._lost
            else "closing"
            if self._closing
            else "authenticated"
            if self.authenticated
            else "not authenticated"
        )
        return f"<{type(self).__name__} {self.peer_address} {state}>"

    # Life and death of the TCP connection

    def connectionMade(self) -> None:
        """Say who we are, and start the first key exchange without waiting."""
        self.peer_address = peer_address(self.transport)
        self._peer_is_hidden = is_proxied(self.transport)
        tune_socket(self.transport, self.limits.tcp_user_timeout)
        self.transport.registerProducer(_OutputGate(self), True)
        self._corked = True
        self._out.append(self.ourVersionString + b"\r\n")
        try:
            self.peer_found(None if self._peer_is_hidden else self.peer_address)
            self._login_timer = self.clock.callLater(
                self.limits.login_grace, self._login_grace_over
            )
            self.exchanges.start()
        except ProtocolError as error:
            self.disconnect(error.reason_code, str(error))
        finally:
            self._corked = False
            self._flush()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Stop every timer and the running service."""
        if self._lost:
            return
        self._lost = True
        self._closing = True
        self._running = False
        if not self.close_reason:
            self.close_reason = "the connection was lost"
            if reason is not None:
                self.close_reason = (
                    f"the connection was lost: {reason.getErrorMessage()}"
                )
        for timer in (self._login_timer, self._exchange_timer, self._abort_timer):
            _cancel(timer)
        self._held.clear()
        self._out.clear()
        service, self.service = self.service, None
        try:
            if service is not None:
                service.serviceStopped()
        finally:
            self.connection_ended()

    def peer_found(self, address: str | None) -> None:
        """For servers: the peer is there, or its address has become known.

        :param address: its IP address; empty when it has none, None when it is not
            known before the peer has sent something (PROXY protocol).
        :raises ProtocolError: to refuse the connection.
        """

    def connection_ended(self) -> None:
        """For subclasses: the connection is gone and the service has been stopped."""

    def disconnect(self, reason_code: int, text: str) -> None:
        """End the connection: tell the peer, close, and cut it when that takes long.

        :param reason_code: DISCONNECT reason code (RFC 4253 section 11.1).
        :param text: one sentence; the peer gets it.
        """
        if self._closing:
            return
        if not self.close_reason:
            self.close_reason = text
        self._log.info(
            "disconnecting {address}: {description} (code {reason_code})",
            address=self.peer_address,
            description=printable(text),
            reason_code=reason_code,
        )
        self.sendPacket(
            MSG_DISCONNECT,
            uint32(reason_code) + data_types.text(text) + string(b""),
        )
        self._flush()
        self._close()

    def loseConnection(self) -> None:
        """Conch's way to say :meth:`disconnect`."""
        self.disconnect(DISCONNECT_BY_APPLICATION, "closed by the application")

    def sendDisconnect(self, reason: int, desc: bytes) -> None:
        """Conch's way to say :meth:`disconnect`."""
        self.disconnect(reason, desc.decode("utf-8", "replace"))

    def _close(self) -> None:
        self._closing = True
        self._running = False
        self._held.clear()
        _cancel(self._exchange_timer)
        # TCP keeps a connection open for a producer, whatever loseConnection says.
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        if not self._lost:
            self._abort_timer = self.clock.callLater(
                self.limits.abort_after, self.transport.abortConnection
            )

    def _login_grace_over(self) -> None:
        self.disconnect(
            DISCONNECT_BY_APPLICATION,
            f"not authenticated within {self.limits.login_grace:g} seconds",
        )

    def _exchange_stalled(self) -> None:
        self.disconnect(
            DISCONNECT_CONNECTION_LOST,
            f"a key exchange took over {self.limits.exchange_seconds:g} seconds",
        )

    # From the peer

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the peer, act on every whole packet, answer in one write."""
        if self._closing:
            return
        self.last_received = self.clock.seconds()
        self._corked = True
        try:
            self._receive(data)
        except ProtocolError as error:
            self.disconnect(error.reason_code, str(error))
        except HostRefused as error:
            self.host_refused(error)
        except Exception:
            self._log.failure("a message from {address}", address=self.peer_address)
            self.disconnect(DISCONNECT_BY_APPLICATION, "internal error")
        finally:
            self._corked = False
            self._flush()

    def _receive(self, data: bytes) -> None:
        if self._peer_is_hidden:
            self._peer_is_hidden = False
            self.peer_address = peer_address(self.transport)
            self.peer_found(self.peer_address)
        if not self.authenticated:
            self._received_unauthenticated += len(data)
            if self._received_unauthenticated > self.limits.unauthenticated_bytes:
                raise ProtocolError("too many bytes before authentication")
        if not self.gotVersion:
            data = self._version_data + data
            rest = self._read_version(data)
            if rest is None:
                return
            data = rest
        self._opener.feed(data)
        next_packet = self._opener.next_packet
        while not self._closing:
            packet = next_packet()
            if packet is None:
                break
            number, payload = packet
            if self._running and number >= _FIRST_CONNECTION_NUMBER:
                self._deliver(number, payload)
            else:
                self._dispatch(number, payload)

    def _read_version(self, data: bytes) -> bytes | None:
        """Look for the peer's version line; return what came after it."""
        while True:
            line, end, rest = data.partition(b"\n")
            if len(line) + 1 > MAX_VERSION_LINE:
                raise ProtocolError(
                    f"a version line over {MAX_VERSION_LINE} bytes",
                    DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED,
                )
            is_version = line[:4] == b"SSH-"[: len(line)]
            if not is_version:
                # Only a server may send other lines first (RFC 4253 section 4.2).
                self._lines_before_version += 1
                if (
                    not self.isClient
                    or self._lines_before_version > MAX_LINES_BEFORE_VERSION
                ):
                    raise ProtocolError(
                        "not an SSH version line",
                        DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED,
                    )
            if not end:
                self._version_data = line
                return None
            if is_version:
                self._version_received(line.removesuffix(b"\r"))
                self._version_data = b""
                return rest
            data = rest

    def _version_received(self, line: bytes) -> None:
        accepted = (b"SSH-2.0-", b"SSH-1.99-") if self.isClient else (b"SSH-2.0-",)
        if not line.startswith(accepted) or any(not 32 <= c < 127 for c in line):
            raise ProtocolError(
                "not a version of SSH that we speak",
                DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED,
            )
        self.otherVersionString = line
        self.gotVersion = True

    def _dispatch(self, number: int, payload: bytes) -> None:
        """The table: which message may come when, and who takes it."""
        exchanges = self.exchanges
        if number == MSG_DISCONNECT:
            self._disconnected_by_peer(payload)
        elif number in _NO_MEANING:
            if exchanges.strict and not exchanges.completed:
                raise ProtocolError(
                    f"message {number} in the first key exchange, which is strict"
                )
        elif _FIRST_EXCHANGE_NUMBER <= number < _FIRST_AUTH_NUMBER:
            exchanges.receive(number, payload)
            self._running = self.authenticated and not exchanges.peer_is_bound
        elif not exchanges.completed or exchanges.peer_is_bound:
            raise ProtocolError(f"message {number} in a key exchange")
        elif number == MSG_EXT_INFO:
            # Those that come in no place for them are passed over unread.
            if self.takes_ext_info():
                self.extensions_received(parse_ext_info(payload))
        elif number < _FIRST_EXCHANGE_NUMBER:
            self.service_message(number, payload)
        elif number < _FIRST_CONNECTION_NUMBER:
            # After the first success, RFC 4252 section 5.1 has them ignored.
            if not self.authenticated:
                if self.service is None:
                    raise ProtocolError(f"message {number} before its service")
                self.service.packetReceived(number, payload)
        elif not self.authenticated:
            raise ProtocolError(f"message {number} before authentication")
        elif number < _FIRST_LOCAL_NUMBER and self.service is not None:
            self.service.packetReceived(number, payload)
        else:
            self.sendUnimplemented()

    def _disconnected_by_peer(self, payload: bytes) -> None:
        reader = Reader(payload)
        reason_code = reader.uint32()
        description = printable(reader.string(_DISCONNECT_TEXT_LIMIT))
        self.close_reason = f"the peer disconnected: {description}"
        self._log.info(
            "disconnected by {address}: {description} (code {reason_code})",
            address=self.peer_address,
            description=description,
            reason_code=reason_code,
        )
        self.disconnected_by_peer(reason_code)
        self._close()

    def disconnected_by_peer(self, reason_code: int) -> None:
        """For subclasses: the peer said goodbye; ``close_reason`` is set."""

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

    # To the peer

    def sendPacket(self, messageType: int, payload: bytes, data: bytes = b"") -> None:
        """Send one packet, or queue it while a key exchange runs.

        :param messageType: the message number.
        :param payload: the message without it.
        :param data: more of the message, so that the caller need not join the two.
        """
        if self._closing:
            return
        if self._holding and messageType not in _DURING_EXCHANGE:
            self._hold(messageType, payload, data)
            return
        size = self._sealer.seal(messageType, payload, data, self._out)
        self._out_size += size
        if not self._tcp_is_writable:
            self._unread += size
            if self._unread > self.limits.unread_bytes:
                self._give_up("the peer does not read")
                return
        if not self._corked or self._out_size > _MAX_CORKED:
            self._flush()

    def sendUnimplemented(self) -> None:
        """Tell the peer that we do not know the message that came last."""
        self._unimplemented += 1
        if self._unimplemented > self.limits.unimplemented:
            raise ProtocolError("too many messages that we do not know")
        self.sendPacket(
            MSG_UNIMPLEMENTED, uint32((self._opener.sequence - 1) & _SEQUENCE_MASK)
        )

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, []
            self._out_size = 0
            self.transport.writeSequence(out)
        if self._rekey_is_due():
            self.exchanges.start()

    def _rekey_is_due(self) -> bool:
        if not self._running or self._holding:
            return False
        limits, sealer, opener = self.limits, self._sealer, self._opener
        return (
            sealer.sealed > limits.rekey_bytes
            or opener.opened > limits.rekey_bytes
            or sealer.packets > limits.rekey_packets
            or opener.packets > limits.rekey_packets
            or self.last_received - self.exchanges.completed_at > limits.rekey_seconds
        )

    def _hold(self, number: int, payload: bytes, data: bytes) -> None:
        self._held.append((number, payload, data))
        self._held_size += len(payload) + len(data)
        if (
            len(self._held) > self.limits.held_packets
            or self._held_size > self.limits.held_bytes
        ):
            self._give_up("too much to send once the key exchange is over")

    def _give_up(self, reason: str) -> None:
        # May be called from any depth of somebody else's code: must not raise.
        self.disconnect(DISCONNECT_CONNECTION_LOST, reason)

    # Key exchange

    def exchange_started(self) -> None:
        """See :class:`~rtunnel.ssh.exchanges.ExchangeLink`."""
        self._holding = True
        self._exchange_timer = self.clock.callLater(
            self.limits.exchange_seconds, self._exchange_stalled
        )
        self._tell_service()

    def our_keys_in_use(self) -> None:
        """See :class:`~rtunnel.ssh.exchanges.ExchangeLink`."""
        self._holding = False
        if not self.exchanges.completed:
            self.first_keys_in_use()
        held, self._held, self._held_size = self._held, [], 0
        for packet in held:
            self.sendPacket(*packet)
        self._tell_service()

    def their_keys_in_use(self) -> None:
        """See :class:`~rtunnel.ssh.exchanges.ExchangeLink`."""
        _cancel(self._exchange_timer)
        self._exchange_timer = None
        self._unimplemented = 0
        if self.exchanges.completed == 1:
            self.first_exchange_over()

    def first_keys_in_use(self) -> None:
        """For subclasses: our first NEWKEYS has been sent."""

    def first_exchange_over(self) -> None:
        """For subclasses: the peer's first NEWKEYS has come."""

    # Authentication and services

    def setService(self, service: SSHService) -> None:
        """Run ``service`` in place of the one that runs."""
        if self.service is not None:
            self.service.serviceStopped()
        self.service = service
        service.transport = self
        service.serviceStarted()

    def start_service(self, service: SSHService) -> None:
        """The peer is authenticated: run ``service`` from now on."""
        _cancel(self._login_timer)
        self._login_timer = None
        self.authenticated = True
        self._running = not self.exchanges.peer_is_bound
        self._opener.limit = self.limits.max_packet
        self._deliver = service.packetReceived
        self.setService(service)
        if not self.is_writable:
            _tell(service, "pause_writing")

    # Back-pressure

    def tcp_writable(self, writable: bool) -> None:
        """TCP has enough to send, or can take more."""
        self._tcp_is_writable = writable
        self._unread = 0
        self._tell_service()

    def _tell_service(self) -> None:
        writable = self._tcp_is_writable and not self._holding
        if writable == self.is_writable:
            return
        self.is_writable = writable
        if self.authenticated and not self._closing:
            _tell(self.service, "resume_writing" if writable else "pause_writing")


@implementer(IPushProducer)
class _OutputGate:
    """What TCP pauses when it has enough to send, and resumes when it has none."""

    def __init__(self, transport: PacketTransport) -> None:
        self._transport = transport

    def pauseProducing(self) -> None:
        self._transport.tcp_writable(False)

    def resumeProducing(self) -> None:
        self._transport.tcp_writable(True)

    def stopProducing(self) -> None:
        """The connection is lost, which the transport hears for itself."""


def peer_address(transport: Any) -> str:
    """The peer's IP address, an IPv4 one never in IPv6 form; empty if it has none."""
    host = getattr(transport.getPeer(), "host", "")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def is_proxied(transport: Any) -> bool:
    """Whether the peer's address is known only after its first bytes.

    So it is behind whatever wraps a connection, the PROXY protocol that is, but TLS.
    """
    while isinstance(transport, ProtocolWrapper):
        if not isinstance(transport, TLSMemoryBIOProtocol):
            return True
        transport = transport.transport
    return False


def tune_socket(transport: Any, user_timeout: float) -> None:
    """Send small packets at once, and notice a peer that has gone.

    :param user_timeout: seconds; see :class:`~rtunnel.ssh.limits.TransportLimits`.
    """
    set_no_delay = getattr(transport, "setTcpNoDelay", None)
    if set_no_delay is None:
        return
    set_no_delay(True)
    transport.setTcpKeepAlive(True)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and user_timeout:
        milliseconds = int(user_timeout * 1000)
        transport.getHandle().setsockopt(socket.IPPROTO_TCP, option, milliseconds)


def _cancel(timer: IDelayedCall | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()


def _tell(service: SSHService | None, what: str) -> None:
    method = getattr(service, what, None)
    if method is not None:
        method()
