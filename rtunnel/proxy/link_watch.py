"""Is the proxy at the other end of a link still there, and is the link still needed?

A link between two proxies has no control channel. While channels are open on it, or
opening, each end sends the global request ``keepalive@openssh.com`` that OpenSSH's own
ends send; its refusal is the answer that is wanted (OpenSSH, PROTOCOL section 2.11 and
serverloop.c). An idle link is left in peace, and closed after a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from rtunnel.counting import counted
from rtunnel.discovery.liveness import Liveness
from rtunnel.errors import ConnectionClosed, RequestFailed
from rtunnel.ssh.connection import Connection

KEEPALIVE: Final = b"keepalive@openssh.com"


class LinkWatch:
    """Watches one SSH connection, from now until :meth:`stop`.

    :param heartbeat: seconds between keepalives, and between looks at an idle link.
    :param missed: keepalives missed in a row before the link is closed.
    :param idle: seconds without any channel after which it is closed.
    :param silent: called when the peer has missed one, and each time it misses more.
    """

    def __init__(
        self,
        connection: Connection,
        clock: IReactorTime,
        heartbeat: float,
        missed: int,
        *,
        idle: float,
        silent: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._heartbeat = heartbeat
        self._missed = missed
        self._idle = idle
        self._silent = silent
        self._liveness: Liveness | None = None
        self._idle_since = clock.seconds()
        self._stopped = False
        self._next: IDelayedCall | None = clock.callLater(heartbeat, self._look)

    @property
    def suspect(self) -> bool:
        """Whether the peer has missed a keepalive and sent nothing since."""
        return self._liveness is not None and self._liveness.suspect(
            self._connection.last_received
        )

    def wake(self) -> None:
        """A channel is about to be opened: see at once whether the peer is there."""
        if self._liveness is None and not self._stopped:
            self._cancel()
            self._begin()

    def stop(self) -> None:
        """The link is gone."""
        self._stopped = True
        self._cancel()

    def _cancel(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _look(self) -> None:
        self._next = None
        if self._connection.open_channels:
            if self._liveness is None:
                self._begin()
            else:
                self._beat(self._liveness)
            return
        now = self._clock.seconds()
        if self._liveness is not None:
            self._liveness = None
            self._idle_since = now
        if now - self._idle_since >= self._idle:
            self._connection.close("the link between the proxies is idle")
        else:
            self._next = self._clock.callLater(self._heartbeat, self._look)

    def _begin(self) -> None:
        self._liveness = Liveness(self._heartbeat, self._missed)
        self._beat(self._liveness)

    def _beat(self, liveness: Liveness) -> None:
        received = self._connection.last_received
        if liveness.tick(self._clock.seconds(), received) is None:
            seconds = self._heartbeat * self._missed
            self._connection.close(
                f"nothing was heard for {counted(seconds, 'second')}"
            )
            return
        self._next = self._clock.callLater(self._heartbeat, self._look)
        self._connection.send_global_request(KEEPALIVE).addErrback(_answered)
        if liveness.suspect(received):
            self._silent()


def _answered(failure: Failure) -> None:
    # A refusal is an answer; that the link has gone is told elsewhere.
    failure.trap(RequestFailed, ConnectionClosed)
