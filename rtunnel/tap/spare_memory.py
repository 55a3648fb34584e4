"""Memory that bulk data took goes back to the system when it is not used any more.

The C library keeps what a program frees, for the next time. After a burst of stuck
connections that is tens of MiB, which nobody else can have for as long as the proxy
runs. glibc gives it back when it is asked to.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds between two looks.
INTERVAL = 4.0

#: Bytes above the least that there was, from which on it may be worth it.
WORTH_IT = 8 * 1024 * 1024

#: Share of the time that it may take. Of a large heap in many pieces it takes tens of
#: milliseconds, in which nothing else happens.
TIME_SHARE = 0.0005

_STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def find_trim() -> Callable[[], object] | None:
    """What gives freed memory back; None where that cannot be asked for."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
        resident()
    except (AttributeError, OSError, TypeError):
        return None
    return lambda: trim(ctypes.c_size_t(0))


class SpareMemory(Service):
    """Gives memory back every few seconds, where there may be some.

    :param trim: gives it back; :func:`find_trim`.
    :param resident: bytes that the process has.
    """

    def __init__(
        self,
        clock: IReactorTime,
        trim: Callable[[], object],
        resident: Callable[[], int] = resident,
    ) -> None:
        self._clock = clock
        self._trim = trim
        self._resident = resident
        self._least = 0
        self._next: IDelayedCall | None = None

    def startService(self) -> None:
        """Begin; what there is now counts as needed."""
        super().startService()
        self._least = self._resident()
        self._wait(INTERVAL)

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _wait(self, seconds: float) -> None:
        self._next = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        seconds = INTERVAL
        if self._resident() > self._least + WORTH_IT:
            started = self._clock.seconds()
            self._trim()
            took = self._clock.seconds() - started
            seconds = max(seconds, took / TIME_SHARE)
            self._least = min(self._least, self._resident())
        self._wait(seconds)
