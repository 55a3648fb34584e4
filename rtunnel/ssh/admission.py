"""Who may be there without having logged in, how many, and who has to go for another.

Counted in all and by source, so that one source cannot keep the others out. Every
connection that enters gets a ticket, and leaves when it has logged in or is gone. When
many are there, a newcomer takes the place of one that is silent. When all places are
taken and nobody is, a lot decides between the newcomer and one of those that are there
(random early drop, as OpenSSH's MaxStartups), in favour of the source that has fewer.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from rtunnel.counting import counted
from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_SERVICE_NOT_AVAILABLE,
    DISCONNECT_TOO_MANY_CONNECTIONS,
    ProtocolError,
)
from rtunnel.ssh.limits import TransportLimits
from rtunnel.ssh.penalties import Offence, Penalties
from rtunnel.ssh.source_pace import SourcePace
from rtunnel.wire.source_address import in_networks, parse_address

_IPV6_SOURCE_BITS = 64

#: How likely a newcomer costs a silent one its place when ``early_drop`` is reached.
_FIRST_CHANCE = 0.3

#: How likely a newcomer takes a place when its source has as many as the other's.
_FAIR_CHANCE = 0.5

_TOO_MANY = "too many connections that are not authenticated"

#: Sources whose pace is remembered.
_PACED_SOURCES = 65_536


class Refused(ProtocolError):
    """There is no place for this connection; it did nothing wrong."""


class Admission:
    """The connections of a listener that have not logged in.

    ``draining`` refuses every new one. ``unauthenticated`` is how many there are.

    :param clock: for penalties, silence and pace.
    :param chance: a number from 0 up to 1, each time another.
    :param closed: why nobody can log in at the moment, a sentence for them.
    """

    def __init__(
        self,
        limits: TransportLimits,
        clock: IReactorTime,
        chance: Callable[[], float],
        closed: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.draining = False
        self.unauthenticated = 0
        self.pace = SourcePace(
            limits.unanswered_per_second,
            max(limits.unanswered_burst, limits.unauthenticated_per_source),
            _PACED_SOURCES,
        )
        self.penalties = (
            None if limits.penalties is None else Penalties(limits.penalties)
        )
        self._exempt = () if limits.penalties is None else limits.penalties.exempt
        self._turned_away = 0
        self._limits = limits
        self._clock = clock
        self._chance = chance
        self._closed = closed
        self._by_source: Counter[str] = Counter()
        # When each was heard of the last time; who was silent the longest comes first.
        # Those that wait for us are not here.
        self._heard: OrderedDict[Ticket, float] = OrderedDict()
        # All that are there, in no order; each knows its index.
        self._there: list[Ticket] = []

    def enter(self, address: str | None, displaced: Callable[[str], None]) -> Ticket:
        """Let a connection in.

        :param address: its IP address; empty when it has none, as on a UNIX socket;
            None when it is not known yet, until :meth:`Ticket.found`.
        :param displaced: called when it has to go for another, with a sentence for
            the peer.
        :raises Refused: when it has to go at once; the text is for the peer.
        """
        if self.draining:
            raise Refused("this proxy is going away", DISCONNECT_BY_APPLICATION)
        closed = self._closed()
        if closed is not None:
            raise Refused(closed, DISCONNECT_SERVICE_NOT_AVAILABLE)
        ticket = Ticket(self, displaced)
        ticket.found(address or "")
        try:
            self._make_room(ticket)
        except Refused:
            self.forget_source(ticket.source)
            raise
        self.unauthenticated += 1
        ticket.index = len(self._there)
        self._there.append(ticket)
        ticket.counted = True
        ticket.heard()
        return ticket

    def _make_room(self, newcomer: Ticket) -> None:
        """Take the place of another, if need be."""
        limits, there = self._limits, self.unauthenticated
        early = limits.unauthenticated * limits.early_drop
        if there < early:
            return
        is_full = there >= limits.unauthenticated
        crowd = (there - early) / max(1.0, limits.unauthenticated - early)
        if is_full or self._chance() < _FIRST_CHANCE + (1 - _FIRST_CHANCE) * crowd:
            self._displace_silent_one()
        if self.unauthenticated >= limits.unauthenticated:
            self._draw_lots(newcomer)

    def _displace_silent_one(self) -> None:
        if self._heard:
            ticket, heard = next(iter(self._heard.items()))
            if self.now() - heard >= self._limits.silence:
                ticket.leave(Offence.NO_LOGIN)
                ticket.displaced("too many connections, and this one was silent")

    def _draw_lots(self, newcomer: Ticket) -> None:
        """One that is there goes, or the newcomer does.

        To refuse every newcomer would leave the places to those who are quickest to
        take them again, and to refuse none would let nobody stay for long enough.

        :raises Refused: the newcomer has lost.
        """
        if not self._there:
            raise _too_many()
        drawn = int(self._chance() * len(self._there))
        ticket = self._there[min(drawn, len(self._there) - 1)]
        theirs, its = self._places(newcomer), self._places(ticket)
        if theirs > its or (theirs == its and self._chance() >= _FAIR_CHANCE):
            raise _too_many()
        # No fault of its own, so no offence.
        ticket.leave()
        ticket.displaced(_TOO_MANY)

    def _places(self, ticket: Ticket) -> int:
        """How many the ticket's source has; 1 when that is not known."""
        return 1 if ticket.source is None else self._by_source[ticket.source]

    def is_hopeless(self, address: str) -> bool:
        """Whether a connection is not worth being looked at: refused, and unheard.

        :param address: its IP address, empty if it has none.
        """
        source = source_of(address)
        if not address or self.pace.has_room(source, self.now()):
            return False
        limit = self._limits.unauthenticated_per_source
        return self._by_source[source] >= limit or self._penalty(address) > 0

    def turn_away(self, address: str) -> bool:
        """Whether one that was refused may stay for as long as it takes to tell it.

        Only as many as may be let in, and no source too often: in a flood, the others
        are cut off unheard. Call :meth:`gone` when it is.

        :param address: its IP address, empty if it has none or that is not known.
        """
        if self._turned_away >= self._limits.unauthenticated:
            return False
        if address:
            source = source_of(address)
            if not self.pace.has_room(source, self.now()):
                return False
            self.pace.enter(source, self.now())
        self._turned_away += 1
        return True

    def gone(self) -> None:
        """One that was turned away is gone."""
        self._turned_away -= 1

    # What tickets call.

    def now(self) -> float:
        """Seconds."""
        return self._clock.seconds()

    def count_source(self, address: str) -> tuple[str, float]:
        """One more from ``address``.

        :return: its source, and how many seconds it has to wait for its answer.
        :raises Refused: when there are too many, or too many came in vain; it is not
            counted then.
        """
        penalty = self._penalty(address)
        if penalty > 0:
            raise Refused(
                "too many connections that came to nothing from your address; try "
                f"again in {counted(math.ceil(penalty), 'second')}",
                DISCONNECT_TOO_MANY_CONNECTIONS,
            )
        source = source_of(address)
        if self._by_source[source] >= self._limits.unauthenticated_per_source:
            raise _too_many()
        self._by_source[source] += 1
        return source, self.pace.enter(source, self.now())

    def forget_source(self, source: str | None) -> None:
        """One less of it."""
        if source is not None:
            self._by_source[source] -= 1
            if not self._by_source[source]:
                del self._by_source[source]

    def _penalty(self, address: str) -> float:
        if self.penalties is None:
            return 0.0
        remaining = self.penalties.remaining(source_of(address), self.now())
        return remaining if remaining > 0 and not self.is_exempt(address) else 0.0

    def is_exempt(self, address: str) -> bool:
        """Whether an address gets no penalties."""
        try:
            return in_networks(parse_address(address), self._exempt)
        except ValueError:
            return True

    def heard(self, ticket: Ticket) -> None:
        """It has sent something, or we have."""
        self._heard[ticket] = self.now()
        self._heard.move_to_end(ticket)

    def left(self, ticket: Ticket) -> None:
        """One that was counted is not there any more."""
        self.unauthenticated -= 1
        last = self._there.pop()
        if last is not ticket:
            self._there[ticket.index] = last
            last.index = ticket.index

    def not_silent(self, ticket: Ticket) -> None:
        """That it sends nothing is not its fault, or it does not count any more."""
        self._heard.pop(ticket, None)


class Ticket:
    """One connection's place among those that have not logged in, while ``counted``.

    ``source`` is what it counts as, once its address is known; ``delay`` is how many
    seconds it has to wait for its answer from then on. ``index`` is the admission's.
    """

    def __init__(self, admission: Admission, displaced: Callable[[str], None]) -> None:
        self.counted = False
        self.index = 0
        self.source: str | None = None
        self.delay = 0.0
        self.displaced = displaced
        self._admission = admission
        self._address = ""
        self._is_logged_in = False
        self._is_known = False
        self._has_left = False

    def found(self, address: str) -> None:
        """The address has become known; what is found after it does not count.

        :raises Refused: when there are too many from there.
        """
        if self.source is None and address and not self._has_left:
            self.source, self.delay = self._admission.count_source(address)
            self._address = address

    def heard(self) -> None:
        """It has sent something; nothing happens once it has left."""
        if self.counted:
            self._admission.heard(self)

    def waits(self) -> None:
        """It waits for us, until it is :meth:`heard` again."""
        self._admission.not_silent(self)

    def leave(self, offence: Offence | None = None) -> None:
        """It is gone, or as good as; the second time nothing happens.

        :param offence: what it did instead of logging in.
        """
        admission, penalties = self._admission, self._admission.penalties
        if self._is_known:
            self._is_known = self._is_logged_in = False
            if penalties is not None and self.source is not None:
                penalties.logged_out(self.source, admission.now())
        if not self.counted and not self._is_logged_in:
            return
        self._is_logged_in = False
        if self.counted:
            self._uncount()
        if (
            penalties is not None
            and offence is not None
            and self.source is not None
            and not admission.is_exempt(self._address)
        ):
            penalties.add(self.source, offence, admission.now())

    def logged_in(self, as_somebody: bool = True) -> None:
        """It has logged in; call :meth:`leave` when it is gone.

        :param as_somebody: False for the bearer of a token: its source is no better
            known for it, and it can still come in vain.
        """
        if not self.counted:
            return
        self._uncount()
        self._is_logged_in = True
        if self.source is not None:
            self._admission.pace.give_back(self.source)
        if as_somebody:
            self.is_somebody()

    def is_somebody(self) -> None:
        """Who is logged in is known: its source gets no penalties."""
        if not self._is_logged_in or self._is_known:
            return
        self._is_known = True
        if self.source is not None and self._admission.penalties is not None:
            self._admission.penalties.logged_in(self.source)

    def _uncount(self) -> None:
        self.counted = False
        self._has_left = True
        self._admission.not_silent(self)
        self._admission.left(self)
        self._admission.forget_source(self.source)


def source_of(address: str) -> str:
    """What counts as one source: an IPv4 address, an IPv6 /64.

    :param address: an IP address; anything else is its own source.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    network = ipaddress.ip_network((int(parsed), _IPV6_SOURCE_BITS), strict=False)
    return str(network)


def _too_many() -> Refused:
    return Refused(_TOO_MANY, DISCONNECT_TOO_MANY_CONNECTIONS)
