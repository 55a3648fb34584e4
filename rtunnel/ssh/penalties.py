"""Sources that came in vain too often, refused for a while.

Modelled on OpenSSH's PerSourcePenalties (sshd_config(5), srclimit.c): each connection
that ends without a login adds seconds to its source's penalty by what it did, and once
these are more than a moment, nothing from there is let in until they have passed.

Who shares an address with somebody that logs in is no stranger: a source where
somebody is logged in, or was a short while ago, gets no penalty. Else one stranger
could keep everybody out who comes through the same balancer or NAT.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from ipaddress import ip_network

import attrs

from rtunnel.wire.source_address import Network

#: This very machine, its balancer maybe.
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class Offence(enum.Enum):
    """What a connection did that ended without a login; the value is in seconds."""

    #: It never tried to log in.
    NO_LOGIN = 1.0
    #: It tried to, with a key or certificate that does not do.
    LOGIN_REFUSED = 5.0
    #: It was still there when the grace time was over.
    GRACE_EXCEEDED = 10.0
    #: It broke the protocol or a limit, or met an error of ours.
    PROTOCOL_BROKEN = 90.0


@attrs.frozen(kw_only=True)
class PenaltyLimits:
    """How hard penalties are. The defaults are OpenSSH's, but for ``forgiven``.

    :param act_from: seconds that a source's penalty has to reach before it acts.
    :param longest: seconds that it grows to.
    :param sources: sources that are remembered; beyond it, the one that has been left
        alone the longest is forgotten.
    :param forgiven: seconds after the last logged-in connection of a source is gone
        until it can get penalties again.
    :param exempt: networks of sources that get none at all.
    """

    act_from: float = 15.0
    longest: float = 600.0
    sources: int = 65_536
    forgiven: float = 600.0
    exempt: tuple[Network, ...] = LOOPBACK


@attrs.define
class _Penalty:
    """``until`` is when it ends; it ``acts`` from the moment it was long enough."""

    until: float
    acts: bool


@attrs.define
class _Login:
    """``here`` connections are logged in; the last other one went at ``last``."""

    here: int
    last: float


class Penalties:
    """The penalties of a listener's sources.

    Sources are names, see :func:`rtunnel.ssh.admission.source_of`. Times are seconds of
    one clock that only ever grows.
    """

    def __init__(self, limits: PenaltyLimits) -> None:
        self._limits = limits
        self._penalties: OrderedDict[str, _Penalty] = OrderedDict()
        self._logins: OrderedDict[str, _Login] = OrderedDict()

    def __len__(self) -> int:
        return len(self._penalties)

    def add(self, source: str, offence: Offence, now: float) -> None:
        """A connection from ``source`` has ended without a login."""
        if self._is_known(source, now):
            return
        limits = self._limits
        penalty = self._current(source, now) or _Penalty(now, False)
        penalty.until = min(penalty.until + offence.value, now + limits.longest)
        if penalty.until - now >= limits.act_from:
            penalty.acts = True
        self._penalties[source] = penalty
        self._penalties.move_to_end(source)
        self._forget_some(now)

    def remaining(self, source: str, now: float) -> float:
        """For how many more seconds ``source`` is refused; 0 when it is not."""
        penalty = self._current(source, now)
        if penalty is None or not penalty.acts:
            return 0.0
        return penalty.until - now

    def logged_in(self, source: str) -> None:
        """Somebody has logged in from ``source``: what was before is forgotten."""
        login = self._logins.setdefault(source, _Login(0, 0.0))
        login.here += 1
        self._logins.move_to_end(source)
        self._penalties.pop(source, None)
        if len(self._logins) > self._limits.sources:
            self._forget_login()

    def logged_out(self, source: str, now: float) -> None:
        """A connection that was logged in is gone."""
        login = self._logins.get(source)
        if login is not None:
            login.here -= 1
            login.last = now
            self._logins.move_to_end(source)

    def _is_known(self, source: str, now: float) -> bool:
        login = self._logins.get(source)
        if login is None:
            return False
        if login.here or now - login.last < self._limits.forgiven:
            return True
        del self._logins[source]
        return False

    def _current(self, source: str, now: float) -> _Penalty | None:
        penalty = self._penalties.get(source)
        if penalty is not None and penalty.until <= now:
            del self._penalties[source]
            return None
        return penalty

    def _forget_some(self, now: float) -> None:
        """Keep to the limit, and drop what is over at the old end."""
        while self._penalties:
            oldest = next(iter(self._penalties.values()))
            if oldest.until > now and len(self._penalties) <= self._limits.sources:
                break
            self._penalties.popitem(last=False)

    def _forget_login(self) -> None:
        """Forget the source without anybody logged in that was left the first."""
        for source, login in self._logins.items():
            if not login.here:
                del self._logins[source]
                break
