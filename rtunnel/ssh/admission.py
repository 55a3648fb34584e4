"""How many connections may be there that have not logged in yet.

Counted in all and by source, so that one source cannot keep the others out. Every
connection that enters gets a ticket, and leaves when it has logged in or is gone.
"""

from __future__ import annotations

import ipaddress
from collections import Counter

from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_TOO_MANY_CONNECTIONS,
    ProtocolError,
)
from rtunnel.ssh.limits import TransportLimits

_IPV6_SOURCE_BITS = 64


class Admission:
    """The connections of a listener that have not logged in.

    ``draining`` refuses every new one. ``unauthenticated`` is how many there are.
    """

    def __init__(self, limits: TransportLimits) -> None:
        self.draining = False
        self.unauthenticated = 0
        self._turned_away = 0
        self._limits = limits
        self._by_source: Counter[str] = Counter()

    def enter(self, address: str | None) -> Ticket:
        """Let a connection in.

        :param address: its IP address; empty when it has none, as on a UNIX socket;
            None when it is not known yet, until :meth:`Ticket.found`.
        :raises ProtocolError: when it has to go; the text is for the peer.
        """
        if self.draining:
            raise ProtocolError("this proxy is going away", DISCONNECT_BY_APPLICATION)
        if self.unauthenticated >= self._limits.unauthenticated:
            raise _too_many()
        ticket = Ticket(self)
        ticket.found(address or "")
        self.unauthenticated += 1
        return ticket

    def turn_away(self) -> bool:
        """Whether one that was refused may stay for as long as it takes to tell it.

        Only as many as may be let in: in a flood, the others are cut off unheard. Call
        :meth:`gone` when it is.
        """
        if self._turned_away >= self._limits.unauthenticated:
            return False
        self._turned_away += 1
        return True

    def gone(self) -> None:
        """One that was turned away is gone."""
        self._turned_away -= 1

    def count_source(self, source: str) -> None:
        """One more of ``source``.

        :raises ProtocolError: when that is one too many; it is not counted then.
        """
        if self._by_source[source] >= self._limits.unauthenticated_per_source:
            raise _too_many()
        self._by_source[source] += 1

    def leave(self, source: str | None) -> None:
        """One less."""
        self.unauthenticated -= 1
        if source is not None:
            self._by_source[source] -= 1
            if not self._by_source[source]:
                del self._by_source[source]


class Ticket:
    """One connection's place among those that have not logged in, while ``counted``."""

    def __init__(self, admission: Admission) -> None:
        self.counted = True
        self._admission = admission
        self._source: str | None = None

    def found(self, address: str) -> None:
        """The address has become known; what is found after it does not count.

        :raises ProtocolError: when there are too many from there.
        """
        if self.counted and self._source is None and address:
            source = source_of(address)
            self._admission.count_source(source)
            self._source = source

    def leave(self) -> None:
        """It has logged in, or is gone; the second time nothing happens."""
        if self.counted:
            self.counted = False
            self._admission.leave(self._source)


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


def _too_many() -> ProtocolError:
    return ProtocolError(
        "too many connections that are not authenticated",
        DISCONNECT_TOO_MANY_CONNECTIONS,
    )
