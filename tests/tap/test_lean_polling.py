"""Tests for :mod:`rtunnel.tap.lean_polling`: that Twisted is what it relies on."""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rtunnel.tap.lean_polling import use_lean_polling


@implementer(IReadDescriptor)
class Reader:
    """Reads from a socket, and does something then."""

    def __init__(self, end: socket.socket, then: Callable[[], None]) -> None:
        self._end = end
        self._then = then
        self.data = b""
        self.lost: list[Failure] = []

    def logPrefix(self) -> str:
        """Nobody needs to know."""
        raise AssertionError("a context for a log message was made")

    def fileno(self) -> int:
        """Of the socket."""
        return self._end.fileno()

    def doRead(self) -> None:
        """Something has come."""
        self.data += self._end.recv(100)
        self._then()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has given it up."""
        self.lost.append(reason)


class LeanPollingTests(SynchronousTestCase):
    """:func:`use_lean_polling`, under a reactor of its own."""

    def setUp(self) -> None:
        """Make that reactor."""
        self.reactor = EPollReactor()
        self.sockets: list[socket.socket] = []
        self.addCleanup(self._close)
        self.assertTrue(use_lean_polling(self.reactor))

    def _close(self) -> None:
        for reader in self.reactor.removeAll():
            reader.connectionLost(Failure(Exception("over")))
        self.reactor._poller.close()
        for each in self.sockets:
            each.close()

    def reader(self, then: Callable[[], None] = lambda: None) -> Reader:
        """A reader that has something to read."""
        ours, theirs = socket.socketpair()
        self.sockets += [ours, theirs]
        theirs.send(b"data")
        reader = Reader(ours, then)
        self.reactor.addReader(reader)
        return reader

    def iterate(self) -> None:
        """What the reactor does in its main loop."""
        self.reactor.doIteration(1.0)

    def test_what_has_come_is_read(self) -> None:
        """By everybody for whom something has."""
        readers = [self.reader() for _ in range(3)]
        self.iterate()
        self.assertEqual([reader.data for reader in readers], [b"data"] * 3)

    def test_the_main_loop_calls_it(self) -> None:
        """Not what it stands in for."""
        self.patch(EPollReactor, "doIteration", None)
        self.patch(EPollReactor, "doPoll", None)
        reader = self.reader(self.reactor.crash)
        self.reactor.startRunning(installSignalHandlers=False)
        self.reactor.mainLoop()
        self.assertEqual(reader.data, b"data")

    def test_one_that_raises_is_given_up_and_no_other(self) -> None:
        """With a traceback in the log."""
        bad, good = self.reader(lambda: 1 // 0), self.reader()  # type: ignore[arg-type]
        self.iterate()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((len(bad.lost), good.lost), (1, []))
        self.assertEqual(good.data, b"data")

    def test_one_that_another_has_ended_is_not_asked(self) -> None:
        """Whatever the kernel has said of it before."""
        readers: list[Reader] = []

        def end_the_others() -> None:
            for each in readers:
                if not each.data:
                    self.reactor.removeReader(each)

        readers += [self.reader(end_the_others) for _ in range(3)]
        self.iterate()
        self.assertEqual(len([each for each in readers if each.data]), 1)

    def test_it_waits_no_longer_than_it_is_told(self) -> None:
        """Timers depend on it."""
        self.reactor.doIteration(0.0)

    def test_other_reactors_stay_as_they_are(self) -> None:
        """Subclasses of this one, too."""

        class Another(EPollReactor):
            """With a loop of its own, perhaps."""

        another = Another()
        self.addCleanup(another._poller.close)
        for reactor in (another, Clock()):
            self.assertFalse(use_lean_polling(reactor))
            self.assertNotIn("doIteration", vars(reactor))
