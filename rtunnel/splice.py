"""Two byte streams joined: what comes from one goes to the other, both ways.

Back-pressure, end of data and failure pass through; the bytes are counted. A
:class:`Stream` is what can be joined: an SSH channel
(:class:`rtunnel.ssh.channel.Channel`), a TCP connection
(:class:`rtunnel.tcp_stream.TcpStream`), or anything else with these methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
from twisted.internet.interfaces import IProducer, IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.wire.packet_cipher import Buffer
from rtunnel.write_batch import BATCH


class StreamReceiver(Protocol):
    """What a stream tells its owner. Nothing comes before ``start``."""

    def data_received(self, data: bytes) -> None:
        """Some bytes, in order."""

    def eof_received(self) -> None:
        """No more data comes; the other way the stream goes on."""

    def closed(self, reason: str | None) -> None:
        """The stream is gone. Called once, and nothing is called after it.

        :param reason: None when it ended in order: the peer closed it, or our
            ``close`` was carried out. Otherwise what went wrong.
        """


class BufferReceiver(StreamReceiver, Protocol):
    """A receiver that keeps no data, and so can do with memory that is used again."""

    def buffer_received(self, data: memoryview) -> None:
        """Called in place of ``data_received``; ``data`` is gone when this returns.

        It may be in :class:`~rtunnel.wire.passing_memory.PassingMemory`.
        """


def deliver(receiver: StreamReceiver, data: Buffer) -> None:
    """Give ``data`` to a receiver, as a view only if it takes that."""
    if isinstance(data, memoryview):
        take = getattr(receiver, "buffer_received", None)
        if take is not None:
            take(data)
            return
    receiver.data_received(bytes(data))


class Stream(Protocol):
    """A byte stream each way with back-pressure and half-close.

    One that copies what it cannot send at once has ``write_buffer`` as well, which
    takes a memoryview whose memory is the caller's again when it returns.

    It is an IConsumer and an IPushProducer besides; ``registerProducer`` takes push
    producers only.
    """

    def start(self, receiver: StreamReceiver, /) -> None:
        """Deliver to ``receiver`` from now on, ``closed`` too if that is past."""

    def write(self, data: bytes, /) -> None:
        """Send ``data`` after what was written before; ignored after the end."""

    def write_eof(self) -> None:
        """Send end of data after everything written; receiving goes on.

        A producer that is registered, paused or not, does not stand in the way.
        """

    def close(self) -> None:
        """Send everything written, then end the stream. Nothing more is delivered.

        A producer that is registered, paused or not, does not stand in the way.
        """

    def abort(self) -> None:
        """End the stream now; what was not sent is dropped."""

    def registerProducer(self, producer: IProducer, streaming: bool, /) -> None:
        """Pause ``producer`` while what it writes cannot be sent."""

    def unregisterProducer(self) -> None:
        """The producer writes no more."""

    def pauseProducing(self) -> None:
        """Deliver no data for now."""

    def resumeProducing(self) -> None:
        """Deliver data again."""

    def stopProducing(self) -> None:
        """Nothing more is wanted."""


@attrs.frozen
class SpliceReport:
    """What passed through a splice.

    :param bytes_in: from the first stream to the second.
    :param bytes_out: from the second stream to the first.
    :param seconds: from the splice's start until both streams were closed.
    :param reason: what went wrong first; empty when both ended in order.
    """

    bytes_in: int
    bytes_out: int
    seconds: float
    reason: str


@implementer(IPushProducer)
class _Direction:
    """One way through a splice: receives from the source, writes to the sink.

    As the sink's producer it hands pause and resume on to the source. Nothing that the
    sink raises gets back into the source.
    """

    __slots__ = (
        "_write_buffer",
        "closed_already",
        "count",
        "eof",
        "sink",
        "source",
        "splice",
    )

    def __init__(self, splice: Splice, source: Stream, sink: Stream) -> None:
        self.splice = splice
        self.source = source
        self.sink = sink
        self.count = 0
        self.eof = False
        self.closed_already = False
        self._write_buffer: Callable[[memoryview], None] = getattr(
            sink, "write_buffer", self._write_copy
        )

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        try:
            self.sink.write(data)
        except Exception:
            self.splice.failed()

    def buffer_received(self, data: memoryview) -> None:
        self.count += len(data)
        try:
            self._write_buffer(data)
        except Exception:
            self.splice.failed()

    def _write_copy(self, data: memoryview) -> None:
        self.sink.write(bytes(data))

    def eof_received(self) -> None:
        self.eof = True
        # A channel's EOF and CLOSE leave in one write.
        with BATCH:
            try:
                self.sink.write_eof()
            except Exception:
                self.splice.failed()
            else:
                self.splice.eof_passed()

    def closed(self, reason: str | None) -> None:
        self.closed_already = True
        self.splice.stream_closed(self, reason)

    def pauseProducing(self) -> None:
        self.source.pauseProducing()

    def resumeProducing(self) -> None:
        self.source.resumeProducing()

    def stopProducing(self) -> None:
        """The sink is gone; its own ``closed`` says why, and ends the source."""


class Splice:
    """Two streams joined; see :func:`splice`."""

    _log = Logger()

    def __init__(
        self,
        a: Stream,
        b: Stream,
        clock: IReactorTime,
        done: Callable[[SpliceReport], None],
    ) -> None:
        self._clock = clock
        self._done = done
        self._started = clock.seconds()
        self._reason = ""
        self._ending = False
        self._in = _Direction(self, a, b)
        self._out = _Direction(self, b, a)

    @property
    def bytes_in(self) -> int:
        """Bytes so far from the first stream to the second."""
        return self._in.count

    @property
    def bytes_out(self) -> int:
        """Bytes so far from the second stream to the first."""
        return self._out.count

    def start(self) -> None:
        """Join the two. Either may end before this returns."""
        for direction in (self._in, self._out):
            direction.sink.registerProducer(direction, True)
        for direction in (self._in, self._out):
            direction.source.start(direction)

    def abort(self, reason: str) -> None:
        """End both streams now, dropping what is on its way.

        :param reason: what the report says, unless something went wrong before.
        """
        self._reason = self._reason or reason
        self._ending = True
        for direction in (self._in, self._out):
            if not direction.closed_already:
                self._end(direction.source, orderly=False)

    def failed(self) -> None:
        """Writing to a stream raised: log it, and end both."""
        self._log.failure("Writing to a spliced stream failed.")
        self.abort("internal error")

    def eof_passed(self) -> None:
        """End of data was passed on one way; with the other way ended too, close."""
        if self._in.eof and self._out.eof and not self._ending:
            self._ending = True
            for direction in (self._in, self._out):
                if not direction.closed_already:
                    self._end(direction.source, orderly=True)

    def stream_closed(self, direction: _Direction, reason: str | None) -> None:
        """One stream is gone: so is the other, after what it was given to send."""
        self._reason = self._reason or reason or ""
        other = self._out if direction is self._in else self._in
        if other.closed_already:
            self._report()
            return
        self._ending = True
        self._end(other.source, orderly=reason is None)

    def _end(self, stream: Stream, orderly: bool) -> None:
        try:
            if orderly:
                stream.close()
            else:
                stream.abort()
        except Exception:
            self._log.failure("Ending a spliced stream failed.")

    def _report(self) -> None:
        report = SpliceReport(
            bytes_in=self._in.count,
            bytes_out=self._out.count,
            seconds=self._clock.seconds() - self._started,
            reason=self._reason,
        )
        try:
            self._done(report)
        except Exception:
            self._log.failure("The owner of a splice failed.")


def splice(
    a: Stream, b: Stream, clock: IReactorTime, done: Callable[[SpliceReport], None]
) -> Splice:
    """Join two streams until both are closed.

    A stream that is slow to take data pauses the other. End of data passes one way and
    leaves the other way running; when it has passed both ways both streams are closed.
    A stream that closes in order closes the other after what it still has to send; one
    that fails aborts the other.

    :param done: called exactly once, after both are closed.
    """
    joined = Splice(a, b, clock, done)
    joined.start()
    return joined
