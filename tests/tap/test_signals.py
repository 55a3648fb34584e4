"""What SIGTERM, SIGINT and SIGHUP do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from twisted.internet.error import ReactorNotRunning
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.tap.signals import Signals


class FakeReactor:
    """Counts its stops; runs what a signal handler hands over when told to."""

    def __init__(self) -> None:
        self.stops = 0
        self.handed_over: list[Callable[[], object]] = []

    def stop(self) -> None:
        """As the real one: the second is an error."""
        self.stops += 1
        if self.stops > 1:
            raise ReactorNotRunning

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        """Keep it for :meth:`run`."""
        self.handed_over.append(lambda: callable(*args))

    def run(self) -> None:
        """One turn of the loop."""
        ready, self.handed_over = self.handed_over, []
        for each in ready:
            each()


class SignalsTests(SynchronousTestCase):
    """The handlers, driven by real signals to this process."""

    def setUp(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.reactor = FakeReactor()
        self.reloads = 0
        Signals(self.reactor, self.reload).install()

    def reload(self) -> None:
        """What SIGHUP is for."""
        self.reloads += 1

    def receive(self, number: signal.Signals) -> None:
        """Send a signal to this process and let its handler run."""
        os.kill(os.getpid(), number)

    def test_first_stops_the_reactor(self) -> None:
        """In the reactor, not in the handler, which may interrupt anything."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.reactor = FakeReactor()
            Signals(self.reactor, self.reload).install()
            self.receive(number)
            self.assertEqual(self.reactor.stops, 0)
            self.reactor.run()
            self.assertEqual(self.reactor.stops, 1)

    def test_second_ends_the_process_by_its_default_action(self) -> None:
        """Whichever of the two it is, and however busy the reactor is."""
        killed: list[tuple[int, int]] = []
        self.receive(signal.SIGTERM)
        real_kill = os.kill
        self.patch(os, "kill", lambda pid, number: killed.append((pid, number)))
        real_kill(os.getpid(), signal.SIGINT)
        self.assertEqual(killed, [(os.getpid(), signal.SIGINT)])
        self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_DFL)

    def test_reactor_that_stops_already_is_left_to_it(self) -> None:
        """``rtunnel drain`` came first."""
        self.reactor.stop()
        self.receive(signal.SIGTERM)
        self.reactor.run()
        self.assertEqual(self.reactor.stops, 2)

    def test_hangup_reloads_and_nothing_else(self) -> None:
        """As often as it comes."""
        for _ in range(2):
            self.receive(signal.SIGHUP)
            self.reactor.run()
        self.assertEqual((self.reloads, self.reactor.stops), (2, 0))

    def test_reload_that_fails_is_logged(self) -> None:
        """And the next one is tried all the same."""

        def fail() -> None:
            raise ZeroDivisionError

        Signals(self.reactor, fail).install()
        for _ in range(2):
            self.receive(signal.SIGHUP)
            self.reactor.run()
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
