"""All threads of a reactor, held so that nothing else gets one."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from twisted.internet.interfaces import IReactorThreads
from twisted.trial.unittest import TestCase


def hold_threads(test: TestCase, reactor: IReactorThreads) -> Callable[[], None]:
    """Keep all threads of the reactor's pool busy.

    :return: call it to let them go; done at the end of the test at the latest.
    """
    pool = reactor.getThreadPool()
    released = Event()
    for _ in range(pool.max):
        pool.callInThread(released.wait)
    test.addCleanup(released.set)
    return released.set
