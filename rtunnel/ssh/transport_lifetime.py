"""How one SSH connection begins, how it is known to be alive, and how it ends.

Conch's transport is subclassed for its plumbing; what a peer can reach is ours. What
comes in between is in :mod:`rtunnel.ssh.packet_transport`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import SSHTransportBase
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from rtunnel.counting import counted
from rtunnel.direct_socket import DirectSocket, direct_socket
from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_CONNECTION_LOST,
    DISCONNECT_HOST_KEY_NOT_VERIFIABLE,
)
from rtunnel.naming import printable
from rtunnel.ssh.exchanges import KeyExchanges
from rtunnel.ssh.limits import TransportLimits
from rtunnel.ssh.packet_output import PacketOutput
from rtunnel.ssh.peer_socket import expect_to_read, peer_address, tune_socket
from rtunnel.wire import data_types
from rtunnel.wire.data_types import Reader, string, uint32
from rtunnel.wire.numbers import MSG_DISCONNECT
from rtunnel.wire.packet_stream import PacketSealer
from rtunnel.write_batch import BATCH

_DISCONNECTING = "disconnecting {address}: {reason} (code {reason_code})"
_DISCONNECTED = "disconnected by {address}: {reason} (code {reason_code})"


class TransportLifetime(SSHTransportBase):
    """From the TCP connection to its end, whoever brings that about.

    ``last_received`` is the clock at the newest byte from the peer, ``authenticated``
    whether the login is over. ``close_reason`` says in a sentence why the connection
    ended, as soon as that is known, ``goodbye_code`` is the code of the peer's
    DISCONNECT if that was why.

    :param limits: see :class:`~rtunnel.ssh.limits.TransportLimits`.
    :param random: this many random bytes, for padding.
    """

    _log = Logger()

    # What software this is, a peer may know; which version, it need not.
    ourVersionString = b"SSH-2.0-rtunnel"

    exchanges: KeyExchanges
    transport: Any

    __slots__ = (
        "_abort_timer",
        "_closing",
        "_direct",
        "_exchange_timer",
        "_has_begun",
        "_login_timer",
        "_lost",
        "_output",
        "_rest_timer",
        "_running",
        "_sealer",
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
        random: Callable[[int], bytes],
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.last_received = clock.seconds()
        self.peer_address = ""
        self.close_reason = ""
        self.goodbye_code: int | None = None
        self.authenticated = False
        self._sealer = PacketSealer(random)
        self._output = PacketOutput(
            self._sealer, limits, self._writable_changed, self._give_up
        )
        self._direct: DirectSocket | None = None
        self._has_begun = False
        # Whether messages of the connection protocol go straight to the service.
        self._running = False
        self._closing = False
        self._lost = False
        self._login_timer: IDelayedCall | None = None
        self._exchange_timer: IDelayedCall | None = None
        self._abort_timer: IDelayedCall | None = None
        self._rest_timer: IDelayedCall | None = None

    def __repr__(self) -> str:
        if self._lost:
            state = "closed"
        elif self._closing:
            state = "closing"
        else:
            state = "authenticated" if self.authenticated else "not authenticated"
        return f"<{type(self).__name__} {self.peer_address} {state}>"

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

    # Beginning

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

    # Ending

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
            cancel(timer)
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
        cancel(self._login_timer)
        cancel(self._exchange_timer)
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
            f"not authenticated within {counted(self.limits.login_grace, 'second')}",
        )

    def _disconnected_by_peer(self, payload: bytes) -> None:
        reader = Reader(payload)
        reason_code = reader.uint32()
        text = printable(reader.string())
        self.close_reason = f"the peer disconnected: {text}"
        self.goodbye_code = reason_code
        self._log_end(_DISCONNECTED, text, reason_code)
        self._close(linger=False)

    # Running

    def _writable_changed(self) -> None:
        if self.authenticated and not self._closing:
            what = "resume_writing" if self.is_writable else "pause_writing"
            tell = getattr(self.service, what, None)
            if tell is not None:
                tell()

    def setService(self, service: SSHService) -> None:
        """Run ``service`` in place of the one that runs."""
        if self.service is not None:
            self.service.serviceStopped()
        self.service = service
        service.transport = self
        service.serviceStarted()

    def expect_peer_to_read(self, seconds: float) -> None:
        """See :func:`~rtunnel.ssh.peer_socket.expect_to_read`."""
        expect_to_read(self.transport, seconds)


def cancel(timer: IDelayedCall | None) -> None:
    """Stop a timer, if there is one and it runs."""
    if timer is not None and timer.active():
        timer.cancel()
