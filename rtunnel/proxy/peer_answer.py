"""A question that one proxy asks another: a channel open, and bytes until its end.

The question is the type-specific part of the open. A refusal is an open failure, so
a channel that was confirmed always brings an answer.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred

from rtunnel.errors import ConnectionClosed
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection

#: Bytes in an answer.
MAX_ANSWER: Final = 1024 * 1024


async def read_answer(connection: Connection, kind: bytes, data: bytes) -> bytes:
    """Ask, and read the answer to its end.

    :param kind: channel type.
    :raises OpenRefused: with the peer's reason and sentence.
    :raises ConnectionClosed: when the answer does not come to its end, or is longer
        than :data:`MAX_ANSWER`.
    """
    channel = await connection.open_channel(kind, data)
    try:
        reader = _Reader(channel)
        channel.start(reader)
        return await reader.answer
    except BaseException:
        channel.abort()
        raise


def give_answer(answer: bytes) -> Attach:
    """Answer on a channel that is about to be confirmed."""

    def attach(channel: Channel) -> None:
        channel.start(_Nothing())
        channel.write(answer)
        channel.close()

    return attach


class _Reader:
    """Collects what comes until the end."""

    def __init__(self, channel: Channel) -> None:
        self.answer: Deferred[bytes] = Deferred()
        self._channel = channel
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > MAX_ANSWER:
            self._done(ConnectionClosed("the peer's answer is too long"))

    def eof_received(self) -> None:
        self._done(bytes(self._received))

    def closed(self, reason: str | None) -> None:
        self._done(ConnectionClosed(reason or "the peer's answer was cut off"))

    def _done(self, result: bytes | ConnectionClosed) -> None:
        if self.answer.called:
            return
        self._channel.close()
        if isinstance(result, bytes):
            self.answer.callback(result)
        else:
            self.answer.errback(result)


class _Nothing:
    """Nobody says anything more in this direction."""

    def data_received(self, data: bytes) -> None:
        """Drop it."""

    def eof_received(self) -> None:
        """Nothing waits for it."""

    def closed(self, reason: str | None) -> None:
        """Nothing is held."""
