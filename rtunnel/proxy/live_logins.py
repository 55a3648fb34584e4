"""Who is logged in at this proxy, and how long that may last.

A login is decided once, but it does not stand for ever: it ends when it is revoked, and
when its certificate or key expires. When the authority of its certificate is trusted no
longer, nothing new is opened by it, and it ends when nothing is open any more; at once,
if the operator wants it so. A connection to a target ends with the login that
it was asked for by, whether that was made here or is shown by a peer, and, if the
operator wants it so, when the rules no longer allow it.

An identity is asked for at each look: whoever renews one in place gives its login more
time. What was shown at the login is remembered besides, for it may still be revoked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rtunnel.audit.events import Event
from rtunnel.naming import Target, printable
from rtunnel.proxy.login_events import login_ended
from rtunnel.timestamps import rfc3339
from rtunnel.trust.identity import Identity, UserIdentity
from rtunnel.trust.policy import Allow, Deny, Policy
from rtunnel.trust.revocation import Revocations

#: Seconds between two looks at the wall clock, which may have been set meanwhile.
LOOK_INTERVAL = 30.0

#: Seconds from one look to the next at least, however many logins end.
SHORTEST = 0.05

#: What somebody hears whose login is revoked. Why is for the audit log.
REVOKED = "your certificate or key has been revoked"

#: The same when its authority was exchanged, or its line in authorized_keys is gone.
NOT_TRUSTED = "your certificate or key is trusted no longer; log in with a new one"


class Login(Protocol):
    """Somebody who is logged in: a client, an agent or another proxy."""

    @property
    def identity(self) -> Identity:
        """Who, as it is known now."""

    @property
    def open_connections(self) -> int:
        """Connections to targets that are open through it."""

    @property
    def lets_connections_finish(self) -> bool:
        """Whether they go on when the identity has lapsed, though no new one is
        opened."""

    def close(self, reason: str) -> None:
        """End it, with a sentence that the other end hears."""


class OpenConnection(Protocol):
    """A connection to a target."""

    @property
    def user(self) -> UserIdentity:
        """Whose it is."""

    @property
    def target(self) -> Target:
        """Where it leads."""

    def forbid(self, reason: str) -> None:
        """It is to end, for a reason that goes into the audit log."""

    def end(self) -> None:
        """End it."""


class LiveLogins:
    """The logins and connections of this proxy that are open.

    :param now: wall clock, seconds since the epoch.
    :param revocations: what is revoked now.
    :param policy: the rules in force now.
    :param may_reach: what they say of a user and a target.
    :param record: takes audit events.
    :param proxy_id: our own.
    :param outlive: whether connections go on when a certificate or key expires.
    :param retired: why the authority of somebody's certificate is trusted no longer;
        None when it is, or there is none.
    :param unlisted: the same of a line of authorized_keys.
    :ivar close_on_change: whether what is open ends when the rules no longer allow it,
        or who opened it could not log in any longer.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        revocations: Callable[[], Revocations],
        policy: Callable[[], Policy],
        may_reach: Callable[[UserIdentity, Target], Allow | Deny],
        record: Callable[[Event], Any],
        proxy_id: str,
        outlive: bool = False,
        close_on_change: bool = False,
        retired: Callable[[Identity], str | None] = lambda identity: None,
        unlisted: Callable[[Identity], str | None] = lambda identity: None,
    ) -> None:
        self.close_on_change = close_on_change
        self._clock = clock
        self._now = now
        self._revocations = revocations
        self._policy = policy
        self._may_reach = may_reach
        self._record = record
        self._proxy_id = proxy_id
        self._outlive = outlive
        self._retired = retired
        self._unlisted = unlisted
        self._logins: dict[Login, Identity] = {}
        self._connections: dict[OpenConnection, None] = {}
        self._looking: IDelayedCall | None = None

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def add(self, login: Login) -> None:
        """Somebody has logged in."""
        self._logins[login] = login.identity
        self._look_by(login.identity.valid_before)

    def remove(self, login: Login) -> None:
        """Somebody is gone."""
        self._logins.pop(login, None)

    def add_connection(self, connection: OpenConnection) -> None:
        """A connection is open. Its user may have been revoked while it was made, and
        what else ends those that are open may have come meanwhile."""
        self._connections[connection] = None
        self._look_by(connection.user.valid_before)
        reason = self._revocations().reason(connection.user)
        if reason is None and self.close_on_change:
            reason = self._changed_for(connection)
        if reason is not None:
            self._end_connections({connection: reason})

    def remove_connection(self, connection: OpenConnection) -> None:
        """A connection is over."""
        self._connections.pop(connection, None)

    def has_lapsed(self, identity: Identity) -> bool:
        """Whether an identity may open nothing new: its time is over, or it would not
        be believed any longer."""
        return (
            self.has_expired(identity)
            or self._retired(identity) is not None
            or self._unlisted(identity) is not None
        )

    def has_expired(self, identity: Identity) -> bool:
        """Whether an identity's time is over."""
        end = identity.valid_before
        return end is not None and self._now() >= end

    def revocations_changed(self) -> None:
        """Something else is revoked now: end what is."""
        revocations = self._revocations()
        self.end_if(revocations.reason, REVOKED)

    def end_if(self, reason_for: Callable[[Identity], str | None], told: str) -> None:
        """End all logins, and connections of users, for which there is a reason.

        :param reason_for: from an identity to a sentence for the audit log, or None.
        :param told: what the other end hears.
        """
        forbidden = {}
        for connection in self._connections:
            reason = reason_for(connection.user)
            if reason is not None:
                forbidden[connection] = reason
                connection.forbid(reason)
        # The logins first: they hear why before their channels close.
        for login, shown in list(self._logins.items()):
            reason = reason_for(login.identity) or reason_for(shown)
            if reason is not None:
                self._end_login(login, reason, told)
        self._end_connections(forbidden)

    def authorities_changed(self) -> None:
        """Others are trusted now: end who is of one that is not, as far as nothing is
        open, or all of it, if that is wanted."""
        self._end_retired()

    def reloaded(self) -> None:
        """Rules and the people's keys were read again: end what is not allowed any
        longer, if that is wanted."""
        if self.close_on_change:
            self.end_if(self._unlisted, NOT_TRUSTED)
            self._end_retired()
        self.rules_changed()

    def rules_changed(self) -> None:
        """The rules are others, or the time is: end what is not allowed any longer, if
        that is wanted."""
        if not self.close_on_change:
            return
        forbidden = {}
        for connection in self._connections:
            reason = self._denied(connection)
            if reason is not None:
                forbidden[connection] = reason
        self._end_connections(forbidden)

    def _denied(self, connection: OpenConnection) -> str | None:
        decision = self._may_reach(connection.user, connection.target)
        return decision.reason if isinstance(decision, Deny) else None

    def _changed_for(self, connection: OpenConnection) -> str | None:
        """Why a connection could not be asked for now."""
        return (
            self._denied(connection)
            or self._retired(connection.user)
            or self._unlisted(connection.user)
        )

    # Time passes.

    def _look_by(self, end: float | None) -> None:
        """See that we look again at ``end``, or in a while."""
        delay = LOOK_INTERVAL
        if end is not None:
            delay = min(delay, max(SHORTEST, end - self._now()))
        when = self._clock.seconds() + delay
        if self._looking is None:
            self._looking = self._clock.callLater(delay, self._look)
        elif when < self._looking.getTime():
            self._looking.reset(delay)

    def _look(self) -> None:
        self._looking = None
        self._end_expired()
        self._end_retired()
        if self._policy().is_timed:
            self.rules_changed()
        # Those that may finish have no end that is worth waiting for.
        now = self._now()
        ends = [
            end
            for end in (
                *(login.identity.valid_before for login in self._logins),
                *(connection.user.valid_before for connection in self._connections),
            )
            if end is not None and end > now
        ]
        if self._logins or self._connections:
            self._look_by(min(ends, default=None))

    def _end_expired(self) -> None:
        forbidden = {}
        for connection in () if self._outlive else self._connections:
            if self.has_expired(connection.user):
                end = rfc3339(connection.user.valid_before or 0.0)
                reason = f"the user's certificate or key expired at {end}"
                forbidden[connection] = reason
                connection.forbid(reason)
        for login in list(self._logins):
            if not self.has_expired(login.identity):
                continue
            may_finish = self._outlive or login.lets_connections_finish
            if may_finish and login.open_connections:
                continue
            end = rfc3339(login.identity.valid_before or 0.0)
            self._end_login(
                login,
                f"its certificate or key expired at {end}",
                f"your certificate or key expired at {end}; log in with a new one",
            )
        self._end_connections(forbidden)

    def _end_retired(self) -> None:
        forbidden = {}
        for connection in self._connections if self.close_on_change else ():
            reason = self._retired(connection.user)
            if reason is not None:
                forbidden[connection] = reason
                connection.forbid(reason)
        for login in list(self._logins):
            reason = self._retired(login.identity)
            may_finish = not self.close_on_change or login.lets_connections_finish
            if reason is not None and not (may_finish and login.open_connections):
                self._end_login(login, reason, NOT_TRUSTED)
        self._end_connections(forbidden)

    def _end_login(self, login: Login, reason: str, told: str) -> None:
        self._log.info(
            "ending the login of {who}: {reason}",
            who=printable(str(login)),
            reason=printable(reason),
        )
        # Now, not when it is gone: it is ended once.
        self._logins.pop(login, None)
        self._record(login_ended(login.identity, self._proxy_id, reason))
        with self._one_fault_ends_no_other():
            login.close(told)

    def _end_connections(self, forbidden: Mapping[OpenConnection, str]) -> None:
        for connection, reason in forbidden.items():
            with self._one_fault_ends_no_other():
                connection.forbid(reason)
                connection.end()

    @contextmanager
    def _one_fault_ends_no_other(self) -> Iterator[None]:
        with self._log.failuresHandled("ending a login or connection failed"):
            yield
