"""A server's connections until somebody has logged in on them.

Where the peer really is (PROXY protocol), whether there is a place for it, when it is
answered, and when it is its turn to cost us time. After the login all of this is over.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_HOST_KEY_NOT_VERIFIABLE,
    DISCONNECT_MAC_ERROR,
    DISCONNECT_PROTOCOL_ERROR,
    DISCONNECT_TOO_MANY_CONNECTIONS,
    ProtocolError,
)
from rtunnel.ssh.admission import Admission, Refused, Ticket
from rtunnel.ssh.handshake_turns import HandshakeTurns
from rtunnel.ssh.limits import TransportLimits
from rtunnel.ssh.log_rate import LogRate
from rtunnel.ssh.packet_transport import PacketTransport
from rtunnel.ssh.peer_socket import is_proxied, peer_address
from rtunnel.ssh.penalties import Offence
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.numbers import (
    MSG_KEX_ECDH_INIT,
    MSG_KEXINIT,
    MSG_USERAUTH_REQUEST,
)
from rtunnel.wire.packet_cipher import Buffer
from rtunnel.wire.proxy_protocol import ProxyHeaderReader, looks_like_header
from rtunnel.wire.source_address import Network, in_networks, parse_address

#: The messages that cost more than reading them: public key cryptography.
_COSTLY = frozenset([MSG_KEX_ECDH_INIT, MSG_USERAUTH_REQUEST])

#: What an honest peer of another kind or version does not run into.
_FAULTS = frozenset(
    [DISCONNECT_PROTOCOL_ERROR, DISCONNECT_MAC_ERROR, DISCONNECT_BY_APPLICATION]
)


@attrs.frozen
class Listener:
    """What the connections of one listener have in common.

    :param admission: where they are counted until somebody has logged in.
    :param turns: when it is a stranger's turn.
    :param log_rate: asked before logging what happens until then.
    :param proxy_protocol_from: the balancers that say whom a connection is from, and
        that have to say it.
    """

    admission: Admission
    turns: HandshakeTurns
    log_rate: LogRate
    proxy_protocol_from: tuple[Network, ...] = ()

    def is_balancer(self, address: str) -> bool:
        """Whether that is a balancer's address.

        :param address: an IP address, or what is none.
        """
        if not self.proxy_protocol_from:
            return False
        try:
            return in_networks(parse_address(address), self.proxy_protocol_from)
        except ValueError:
            return False


class AdmittedTransport(PacketTransport):
    """One connection that a listener accepted.

    ``login_attempted`` is whether a key or certificate has been shown.

    :param listener: what it shares with the others.
    """

    __slots__ = (
        "_begin_timer",
        "_first_bytes",
        "_header",
        "_is_holding",
        "_listener",
        "_offence",
        "_peer_is_hidden",
        "_postponed",
        "_ticket",
        "_turned_away",
        "login_attempted",
    )

    def __init__(
        self,
        *,
        listener: Listener,
        clock: IReactorTime,
        limits: TransportLimits,
        algorithms: Algorithms,
        random: Callable[[int], bytes],
    ) -> None:
        super().__init__(
            clock=clock, limits=limits, algorithms=algorithms, random=random
        )
        self.login_attempted = False
        self._listener = listener
        self._ticket: Ticket | None = None
        self._turned_away = False
        self._offence: Offence | None = None
        # A header that says whom the connection is from is still to come: ours to
        # read, or that of something wrapped around the connection.
        self._header: ProxyHeaderReader | None = None
        self._peer_is_hidden = False
        self._first_bytes = b""
        self._begin_timer: IDelayedCall | None = None
        self._postponed: tuple[int, bytes] | None = None
        self._is_holding = False

    # Who it is, and whether there is a place

    def peer_arrived(self) -> None:
        """Ask for a place; begin when it is there, and it is known whose it is."""
        address: str | None = self.peer_address
        if self._listener.is_balancer(self.peer_address):
            self._header = ProxyHeaderReader()
            address = None
        elif is_proxied(self.transport):
            self._peer_is_hidden = True
            address = None
        try:
            self._ticket = self._listener.admission.enter(address, self._displaced)
        except Refused as error:
            self._refuse(error)
            return
        if self._header is None:
            self._begin_in(self._ticket.delay)

    def own_bytes(self, data: bytes) -> bytes | None:
        """Those after a PROXY header, if there has to be one; else there may be none.

        :raises ProtocolError: for a header that is wrong, or in the wrong place.
        """
        if self._header is None:
            if self._peer_is_hidden:
                self._peer_is_hidden = False
                self._found(peer_address(self.transport))
            elif looks_like_header(data):
                raise ProtocolError(
                    f"a PROXY header from {self.peer_address}, which is not listed in "
                    "ssh.proxy_protocol_from"
                )
            return data
        rest = self._header.feed(data)
        if rest is None:
            return None
        source, self._header = self._header.source, None
        if source is not None:
            self._found(source)
        assert self._ticket is not None
        if self._ticket.delay > 0:
            self._first_bytes = rest
            rest = None
        self._begin_in(self._ticket.delay)
        return rest

    def _found(self, address: str) -> None:
        assert self._ticket is not None
        self.peer_address = address
        self._ticket.found(address)

    def _refuse(self, error: Refused) -> None:
        """Say why, unless there are too many to say it to."""
        self._turned_away = self._listener.admission.turn_away(self.peer_address)
        if self._turned_away:
            self.disconnect(error.reason_code, str(error))
        else:
            self.close_reason = str(error)
            self.transport.abortConnection()

    def _displaced(self, reason: str) -> None:
        self.disconnect(DISCONNECT_TOO_MANY_CONNECTIONS, reason)

    # When it is answered

    def _begin_in(self, seconds: float) -> None:
        if seconds <= 0:
            self.begin()
            return
        assert self._ticket is not None
        # A peer that hangs up meanwhile keeps its place, as if it were still there:
        # else those who come and go would be answered all the faster.
        self.transport.pauseProducing()
        self._ticket.waits()
        self._begin_timer = self.clock.callLater(seconds, self._begin_now)

    def _begin_now(self) -> None:
        assert self._ticket is not None
        if self._closing:
            return
        self._ticket.heard()
        self.begin()
        self.transport.resumeProducing()
        first_bytes, self._first_bytes = self._first_bytes, b""
        if first_bytes:
            self.dataReceived(first_bytes)

    # When it is its turn

    def _take_packets(self) -> None:
        # Those who have logged in come first.
        if self.authenticated:
            self._listener.turns.traffic += 1
        super()._take_packets()

    def may_dispatch(self, number: int, payload: Buffer) -> bool:
        """What costs time has to wait for its turn, and all that follows it."""
        if self._is_holding:
            self._keep_back(number, payload)
            return False
        if number not in _COSTLY or self.authenticated or self._listener.turns.may_go():
            return True
        self._keep_back(number, payload)
        self._listener.turns.wait(self._turn_source, self._my_turn)
        return False

    def _keep_back(self, number: int, payload: Buffer) -> None:
        assert self._ticket is not None
        self._is_waiting = True
        self._postponed = number, bytes(payload)
        self.transport.pauseProducing()
        self._ticket.waits()

    def hold_messages(self) -> None:
        """Take no further message of the peer until :meth:`go_on`."""
        self._is_holding = True

    def go_on(self, act: Callable[[], None]) -> None:
        """Act on the message that was the last to be taken, then take further ones."""
        self._is_holding = False
        if not self._closing:
            self._guard(self._act_first, act)

    def _act_first(self, act: Callable[[], None]) -> None:
        act()
        postponed, self._postponed = self._postponed, None
        if postponed is None or self._closing:
            return
        self._is_waiting = False
        self.transport.resumeProducing()
        if self.may_dispatch(*postponed):
            self._go_on(*postponed)

    @property
    def _turn_source(self) -> str:
        assert self._ticket is not None
        return self._ticket.source or ""

    def _my_turn(self) -> None:
        postponed, self._postponed = self._postponed, None
        if self._closing or postponed is None:
            return
        self.transport.resumeProducing()
        self._is_waiting = False
        self._guard(self._go_on, *postponed)

    def _go_on(self, number: int, payload: bytes) -> None:
        self._dispatch(number, payload)
        # Whoever has just logged in with this is no traffic that others wait for.
        super()._take_packets()

    def _dispatch(self, number: int, content: Buffer) -> None:
        if self.authenticated or self._ticket is None:
            super()._dispatch(number, content)
            return
        if number >= MSG_KEXINIT:
            # A step towards a login; what has no meaning is none.
            self._ticket.heard()
        if number in _COSTLY:
            with self._listener.turns.working():
                super()._dispatch(number, content)
        else:
            super()._dispatch(number, content)

    # How it ends

    def may_log(self) -> bool:
        """See :class:`~rtunnel.ssh.log_rate.LogRate`."""
        return self._listener.log_rate.allows()

    def protocol_broken(self, error: ProtocolError) -> None:
        """Remember it, unless there was no place for the peer."""
        if isinstance(error, Refused):
            self._refuse(error)
            return
        if error.reason_code in _FAULTS:
            self._offence = Offence.PROTOCOL_BROKEN
        super().protocol_broken(error)

    def login_grace_over(self) -> None:
        """Remember that."""
        self._offence = Offence.GRACE_EXCEEDED
        super().login_grace_over()

    def logged_in(self, as_somebody: bool = True) -> None:
        """Somebody has: it is no stranger's connection any more.

        :param as_somebody: False for the bearer of a token.
        """
        if self._ticket is not None:
            self._ticket.logged_in(as_somebody)

    def token_was_good(self) -> None:
        """The bearer of a token is somebody now."""
        if self._ticket is not None:
            self._ticket.is_somebody()

    def token_was_refused(self) -> None:
        """The token has logged in its bearer and was refused after all: that counts as
        a refused login."""
        self._offence = Offence.LOGIN_REFUSED

    def connection_ended(self) -> None:
        """No longer count it, but what it did if nobody had logged in."""
        if self._begin_timer is not None and self._begin_timer.active():
            self._begin_timer.cancel()
        if self._postponed is not None:
            self._listener.turns.give_up(self._turn_source, self._my_turn)
        if self._ticket is not None:
            least = None if self.authenticated else self._least_offence()
            self._ticket.leave(self._offence or least)
        if self._turned_away:
            self._listener.admission.gone()

    def _least_offence(self) -> Offence | None:
        if self.login_attempted:
            return Offence.LOGIN_REFUSED
        if self._host_key_was_refused:
            return None
        return Offence.NO_LOGIN

    @property
    def _host_key_was_refused(self) -> bool:
        """Whether the peer has seen who we are, and then said that it wants another.

        Agents do, whom a balancer sends to a proxy that they have a tunnel to, and not
        always from the address of that tunnel. For those who would only cost us key
        exchanges there is the pace of their source.
        """
        return (
            self.goodbye_code == DISCONNECT_HOST_KEY_NOT_VERIFIABLE
            and self.exchanges.has_answered
        )
