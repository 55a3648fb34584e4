"""The books of a connection's channels: which there are, and what we call them.

A channel stays in them until both ends have closed it (RFC 4254 section 5.3) and its
receiver has been told so.
"""

from __future__ import annotations

from collections.abc import Container

from twisted.internet.interfaces import IReactorTime

from rtunnel.errors import ProtocolError
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_closes import SentCloses

#: What is wrong with a message that names a channel which is not in the books.
NOT_OPEN = "a message for a channel that is not open"


class ChannelTable:
    """The channels of one connection that have been confirmed.

    :param close_seconds: that the peer has to answer our CLOSE.
    """

    __slots__ = ("_close_seconds", "_lingering", "_next_number", "_sent_closes", "open")

    def __init__(self, close_seconds: float) -> None:
        #: Those that the peer has not closed, by our number.
        self.open: dict[int, Channel] = {}
        # Closed by both ends, but with data that our receiver has not taken yet.
        self._lingering: set[Channel] = set()
        self._sent_closes: SentCloses | None = None
        self._close_seconds = close_seconds
        self._next_number = 0

    def __len__(self) -> int:
        return len(self.open) + len(self._lingering)

    def allocate_number(self, asked_for: Container[int]) -> int:
        """A number for a new channel, as far from reuse as 32 bits allow.

        :param asked_for: numbers of channels that are still being opened.
        """
        number = self._next_number
        while number in self.open or number in asked_for:
            number = (number + 1) & 0xFFFFFFFF
        self._next_number = (number + 1) & 0xFFFFFFFF
        return number

    def find(self, number: int) -> Channel:
        """The open channel of a number that the peer named.

        :raises ProtocolError: when there is none.
        """
        channel = self.open.get(number)
        if channel is None:
            raise ProtocolError(NOT_OPEN)
        return channel

    def close_sent(self, channel: Channel, clock: IReactorTime) -> None:
        """Our CLOSE has been sent: the peer has to answer it in time."""
        if channel.number not in self.open:
            return
        if self._sent_closes is None:
            self._sent_closes = SentCloses(
                clock, self._close_seconds, self._close_overdue
            )
        self._sent_closes.sent(channel.number)

    def close_arrived(self, channel: Channel) -> None:
        """The peer's CLOSE has come: tell the channel."""
        del self.open[channel.number]
        if self._sent_closes is not None:
            self._sent_closes.answered(channel.number)
        self._lingering.add(channel)
        channel.close_arrived()
        if channel.is_finished:
            self._lingering.discard(channel)

    def finished(self, channel: Channel) -> None:
        """The channel's receiver has been told of its end, or will be at its start."""
        self._lingering.discard(channel)

    def connection_lost(self, reason: str) -> None:
        """The connection is gone: tell every channel, and keep none."""
        for channel in [*self.open.values(), *self._lingering]:
            channel.connection_lost(reason)
        self.open.clear()
        self._lingering.clear()
        if self._sent_closes is not None:
            self._sent_closes.stop()

    def _close_overdue(self, number: int) -> None:
        self.open[number].close_overdue()
