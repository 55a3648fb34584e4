"""Streams that notice when a single byte is lost, doubled or out of place."""

from __future__ import annotations

import hashlib
import random

from twisted.internet.defer import Deferred, DeferredList

from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Connection
from tests.interop.socket_client import target

#: Bytes on their way in each stream.
CHUNK = 4096


class Witness:
    """One channel to a target that echoes: sends, compares, and goes on.

    ``rounds`` counts the chunks that have come back whole. ``done`` fires after
    :meth:`finish`, or fails with what went wrong.
    """

    def __init__(self, channel: Channel, seed: int) -> None:
        self.rounds = 0
        self.done: Deferred[None] = Deferred()
        self._channel = channel
        self._random = random.Random(seed)
        self._sent = hashlib.sha256()
        self._came = hashlib.sha256()
        self._waiting = 0
        self._finishing = False
        channel.start(self)
        self._send()

    def _send(self) -> None:
        chunk = self._random.randbytes(CHUNK)
        self._sent.update(chunk)
        self._waiting = len(chunk)
        self._channel.write(chunk)

    def finish(self) -> None:
        """Send no more; the end of data has to come back, and nothing else."""
        self._finishing = True

    def data_received(self, data: bytes) -> None:
        """What comes has to be what was sent."""
        self._came.update(data)
        self._waiting -= len(data)
        if self._waiting:
            return
        self.rounds += 1
        if self._finishing:
            self._channel.write_eof()
        else:
            self._send()

    def eof_received(self) -> None:
        """All must have come back."""
        self._end("" if self._finishing and not self._waiting else "an early end")

    def closed(self, reason: str | None) -> None:
        """The end of data has to come first."""
        self._end(f"closed: {reason}")

    def _end(self, what: str) -> None:
        if self.done.called:
            return
        if not what and self._came.digest() != self._sent.digest():
            what = "other bytes came back than were sent"
        if what:
            self.done.errback(AssertionError(f"after {self.rounds} rounds: {what}"))
        else:
            self.done.callback(None)


class Witnesses:
    """Many of them on one connection."""

    def __init__(self, streams: list[Witness]) -> None:
        self.streams = streams

    @classmethod
    async def open(
        cls, connection: Connection, host: str, port: int, count: int
    ) -> Witnesses:
        """Open so many channels to a target."""
        opening = [
            Deferred.fromCoroutine(
                connection.open_channel(b"direct-tcpip", target(host, port))
            )
            for _ in range(count)
        ]
        opened = await DeferredList(opening, fireOnOneErrback=True, consumeErrors=True)
        return cls([Witness(channel, seed) for seed, (_, channel) in enumerate(opened)])

    def rounds(self) -> list[int]:
        """How often each has had its bytes back."""
        return [stream.rounds for stream in self.streams]

    def raise_if_any_ended(self) -> None:
        """Raise what went wrong, if something did."""
        for stream in self.streams:
            if stream.done.called:
                result = stream.done.result
                raise AssertionError(f"a stream has ended: {result}")

    async def wait_cut(self) -> None:
        """Wait until the last of them is cut off, and forget them."""
        streams, self.streams = self.streams, []
        await DeferredList([stream.done for stream in streams], consumeErrors=True)

    async def finish(self) -> None:
        """Let all come to their end.

        :raises Exception: when one has lost something.
        """
        for stream in self.streams:
            stream.finish()
        await DeferredList(
            [stream.done for stream in self.streams],
            fireOnOneErrback=True,
            consumeErrors=True,
        )
