"""What SIGTERM, SIGINT and SIGHUP do to a proxy or an agent.

The reactor's own handlers make ``twistd`` die of the signal after an orderly stop, so
that a finished drain looks like a crash, and they have nothing to say to a second
signal. These replace them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Protocol

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

_log = Logger()


class Stoppable(Protocol):
    """The part of the reactor that is needed here."""

    def stop(self) -> None:
        """Begin the orderly shutdown; see ``IReactorCore.stop``."""

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        """Run ``callable`` soon, in the reactor; see ``IReactorFromThreads``."""


class Signals:
    """SIGTERM and SIGINT stop in order, and then at once; SIGHUP reloads.

    The first SIGTERM or SIGINT stops the reactor, which waits for every service: that
    is the drain, and the exit code is then 0. A second one ends the process where it
    stands, by that signal's default action.

    :param reload: what SIGHUP calls, in the reactor.
    """

    def __init__(self, reactor: Stoppable, reload: Callable[[], object]) -> None:
        self._reactor = reactor
        self._reload = reload
        self._stopping = False

    def install(self) -> None:
        """Take the three signals over. Call it in the main thread, reactor running."""
        signal.signal(signal.SIGTERM, self._stop_received)
        signal.signal(signal.SIGINT, self._stop_received)
        signal.signal(signal.SIGHUP, self._hangup_received)

    def _stop_received(self, number: int, frame: FrameType | None) -> None:
        # A Python signal handler may interrupt a log call: no logging here.
        if self._stopping:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._stopping = True
        self._reactor.callFromThread(self._stop, number)

    def _stop(self, number: int) -> None:
        _log.info(
            "{signal} received: stopping in order; once more ends it now",
            signal=signal.Signals(number).name,
        )
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            _log.info("stopping already")

    def _hangup_received(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._reload_now)

    def _reload_now(self) -> None:
        try:
            self._reload()
        except Exception:
            _log.failure("reloading on SIGHUP failed")
