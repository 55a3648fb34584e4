"""SSH packets over a byte stream: the part that client and server have in common.

Every message passes one table of what may come when
(:meth:`PacketTransport._dispatch`), and every fault of the peer is one
:class:`~rtunnel.errors.ProtocolError`, one log line, one SSH_MSG_DISCONNECT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    HostRefused,
    ProtocolError,
)
from rtunnel.ssh.exchanges import ExchangeContext
from rtunnel.ssh.interfaces import ConnectionService
from rtunnel.ssh.limits import TransportLimits
from rtunnel.ssh.peer_socket import set_user_timeout
from rtunnel.ssh.transport_lifetime import TransportLifetime, cancel
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.data_types import uint32
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
from rtunnel.wire.packet_stream import PacketOpener
from rtunnel.wire.version_line import VersionReader
from rtunnel.write_batch import BATCH

# Where the ranges of message numbers begin (RFC 4250 section 4.1.1).
_FIRST_OF_EXCHANGE = MSG_KEXINIT
_FIRST_OF_AUTHENTICATION = MSG_USERAUTH_REQUEST
_FIRST_OF_CONNECTION = MSG_GLOBAL_REQUEST
_FIRST_LOCAL = 128

_SEQUENCE_MASK = 2**32 - 1
_NO_MEANING = frozenset([MSG_IGNORE, MSG_UNIMPLEMENTED, MSG_DEBUG])


class PacketTransport(TransportLifetime):
    """The packets of one SSH connection, and whose they are.

    :param limits: see :class:`~rtunnel.ssh.limits.TransportLimits`.
    :param algorithms: what to offer.
    :param random: this many random bytes, for cookies and padding.
    """

    __slots__ = (
        "_deliver",
        "_deliver_data",
        "_is_waiting",
        "_opener",
        "_random",
        "_received_unauthenticated",
        "_unimplemented",
        "_version_reader",
        "algorithms",
    )

    def __init__(
        self,
        *,
        clock: IReactorTime,
        limits: TransportLimits,
        algorithms: Algorithms,
        random: Callable[[int], bytes],
    ) -> None:
        super().__init__(clock=clock, limits=limits, random=random)
        self.algorithms = algorithms
        self._random = random
        self._opener = PacketOpener(limits.max_packet_unauthenticated)
        self._version_reader = VersionReader(from_server=self.isClient)
        # Whether a packet waits for its turn, and all that follow it.
        self._is_waiting = False
        self._received_unauthenticated = 0
        self._unimplemented = 0
        self._deliver: Callable[[int, Buffer], None] = self._dispatch
        self._deliver_data: Callable[[int, memoryview, int], None]

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

    # What comes from the peer

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the peer, act on every whole packet, answer in one write."""
        if not self._closing:
            self.last_received = self.clock.seconds()
            self._guard(self._receive, data)

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the peer go, once it is authenticated."""
        return self._opener.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Act on bytes that are where :meth:`get_buffer` said."""
        if not self._closing:
            self._opener.buffer_updated(nbytes)
            self.last_received = self.clock.seconds()
            self._guard(self._take_packets)

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
        self._take_packets()

    def own_bytes(self, data: bytes) -> bytes | None:
        """For servers: those of the first bytes that are the peer's own.

        :return: None for "none yet".
        """
        return data

    def _take_packets(self) -> None:
        if self._is_waiting:
            return
        next_packet = self._opener.next_packet
        seconds = self.clock.seconds
        left, end = self.limits.messages_at_once, seconds() + self.limits.turn_seconds
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
            if not left or seconds() > end:
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
        if self._sealer_is_worn() and self._rekey_is_due():
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
        if self._sealer_is_worn() and self._rekey_is_due():
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

    def _sealer_is_worn(self) -> bool:
        # All else that makes an exchange due comes from the peer.
        sealer, limits = self._sealer, self.limits
        return (
            sealer.sealed > limits.rekey_bytes or sealer.packets > limits.rekey_packets
        )

    def _rekey_is_due(self) -> bool:
        if not self._running or self._output.is_holding:
            return False
        limits, opener = self.limits, self._opener
        return (
            self._sealer_is_worn()
            or opener.opened > limits.rekey_bytes
            or opener.packets > limits.rekey_packets
            or self.last_received - self.exchanges.completed_at > limits.rekey_seconds
        )

    # What the key exchanges tell (ExchangeLink)

    def _exchange_stalled(self) -> None:
        self._give_up(
            f"the key exchange took over {self.limits.exchange_seconds:g} seconds"
        )

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
        cancel(self._exchange_timer)
        self._exchange_timer = None
        self._unimplemented = 0
        if self.exchanges.completed == 1:
            self.first_exchange_over()

    def first_keys_in_use(self) -> None:
        """For subclasses: our first NEWKEYS has been sent, and nothing after it."""

    def first_exchange_over(self) -> None:
        """For subclasses: the peer's first NEWKEYS has come."""

    # Services

    def start_service(self, service: ConnectionService) -> None:
        """The peer is authenticated: run ``service`` until the connection ends."""
        cancel(self._login_timer)
        self._login_timer = None
        self.authenticated = True
        self._running = not self.exchanges.peer_is_bound
        self._deliver = service.packetReceived
        self._deliver_data = service.data_received
        self._opener.limit = self.limits.max_packet
        set_user_timeout(self.transport, 0)
        if self._direct is not None:
            # Not before: strangers share no memory with those who have logged in.
            self._direct.read_into(self)
        self.setService(service)

    def isEncrypted(self, direction: str = "out") -> bool:
        """Conch asks whether keys are in use."""
        return self.exchanges.completed > 0

    def isVerified(self, direction: str = "out") -> bool:
        """Conch asks whether packets are authentic; no cipher of ours is without."""
        return self.exchanges.completed > 0
