"""Connections to targets that came over one SSH connection: dialled, audited, counted.

The SSH connection is a client's, or another proxy's that passes on what its clients
asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import attrs
from twisted.internet.interfaces import IReactorTime

from rtunnel.audit.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    Event,
    Outcome,
)
from rtunnel.errors import OPEN_ADMINISTRATIVELY_PROHIBITED, OpenRefused
from rtunnel.naming import Target
from rtunnel.proxy.dispatch import Reached
from rtunnel.splice import Splice, SpliceReport, Stream, splice
from rtunnel.trust.identity import UserIdentity


class ConnectionOwner(Protocol):
    """What connections to targets need of the proxy."""

    def record(self, event: Event) -> bool:
        """Write an audit event.

        :return: False when what happened has to be recorded and could not be.
        """

    @property
    def may_record(self) -> bool:
        """False when events have to be recorded and cannot be."""

    def connection_joined(self, connection: TargetConnection) -> None:
        """A connection to a target is open; it may be ended by its ``end``."""

    def connection_ended(self, connection: TargetConnection) -> None:
        """One of the connections to targets has ended."""


class TargetConnections:
    """The connections of one SSH connection.

    :param proxy_id: of this proxy.
    :param left: whether the SSH connection was ended by who asked for the targets.
    :ivar open: how many are joined to their targets now.
    """

    def __init__(
        self,
        owner: ConnectionOwner,
        clock: IReactorTime,
        proxy_id: str,
        left: Callable[[], bool] = lambda: False,
    ) -> None:
        self.open = 0
        self.clock = clock
        self._owner = owner
        self._proxy_id = proxy_id
        self._left = left

    async def reach(
        self,
        user: UserIdentity,
        target: Target,
        connection_id: str,
        dial: Awaitable[Reached],
    ) -> TargetConnection:
        """Wait for a dial, and audit it if it fails.

        :param dial: raises OpenRefused when the target cannot be reached.
        :raises OpenRefused: the same.
        """
        try:
            reached = await dial
        except OpenRefused as error:
            self._owner.record(
                ConnectionRefused(
                    **self._about(user, target, connection_id),
                    reason=error.text,
                    outcome=(
                        "refused"
                        if error.reason_code == OPEN_ADMINISTRATIVELY_PROHIBITED
                        else "failed"
                    ),
                )
            )
            raise
        return TargetConnection(self, user, target, connection_id, reached)

    def opened(self, connection: TargetConnection) -> bool:
        """A target and a channel are about to be joined.

        :return: False when they must not be, for it cannot be recorded.
        """
        recorded = self._owner.record(ConnectionOpened(**self._about_open(connection)))
        self.open += recorded
        return recorded

    def joined(self, connection: TargetConnection) -> None:
        """They are joined."""
        self._owner.connection_joined(connection)

    def closed(self, connection: TargetConnection, report: SpliceReport) -> None:
        """Both directions of a connection have ended."""
        self.open -= 1
        self._owner.record(
            ConnectionClosed(
                **self._about_open(connection),
                bytes_in=report.bytes_in,
                bytes_out=report.bytes_out,
                seconds=report.seconds,
                reason=connection.forbidden or report.reason,
                outcome=self._outcome(connection, report),
            )
        )
        self._owner.connection_ended(connection)

    def _about(
        self, user: UserIdentity, target: Target, connection_id: str
    ) -> dict[str, Any]:
        """What the events of one connection have in common."""
        return {
            "connection_id": connection_id,
            "user": user.name,
            "key_id": user.key_id,
            "source": user.source,
            "cluster": target.cluster,
            "target": str(target),
            "proxy": self._proxy_id,
        }

    def _about_open(self, connection: TargetConnection) -> dict[str, Any]:
        about = self._about(
            connection.user, connection.target, connection.connection_id
        )
        return about | {"agent": connection.reached.agent}

    def _outcome(self, connection: TargetConnection, report: SpliceReport) -> Outcome:
        if connection.forbidden is not None:
            return "refused"
        # ``ssh -J`` ends with a goodbye, in the middle of whatever is open.
        return "failed" if report.reason and not self._left() else "ok"


@attrs.define(eq=False)
class TargetConnection:
    """A target that has been reached, for one user.

    :ivar forbidden: why it is not allowed any longer; None while it is.
    """

    connections: TargetConnections = attrs.field(repr=False)
    user: UserIdentity
    target: Target
    connection_id: str
    reached: Reached
    forbidden: str | None = attrs.field(default=None, init=False)
    _splice: Splice | None = attrs.field(default=None, init=False, repr=False)
    _over: bool = attrs.field(default=False, init=False, repr=False)

    def join(self, stream: Stream) -> None:
        """Join the target and the channel that was asked for."""
        if not self.connections.opened(self):
            stream.abort()
            self.reached.stream.abort()
            return
        self._splice = splice(
            stream, self.reached.stream, self.connections.clock, self._ended
        )
        if not self._over:
            self.connections.joined(self)

    def forbid(self, reason: str) -> None:
        """It is not allowed any longer; whatever ends it now, that is why.

        :param reason: for the audit log.
        """
        if self.forbidden is None:
            self.forbidden = reason

    def end(self) -> None:
        """Cut it off."""
        if self._splice is not None and not self._over:
            self._splice.abort(self.forbidden or "ended by the proxy")

    def _ended(self, report: SpliceReport) -> None:
        self._over = True
        self.connections.closed(self, report)
