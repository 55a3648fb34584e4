"""What one person may take of a connection that carries everybody's channels.

A tunnel has room for so many channels, and so has a link to another proxy; one person
alone could fill either.
"""

from __future__ import annotations

from collections import Counter

from rtunnel.errors import RtunnelError
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Connection


class ShareTaken(RtunnelError):
    """Somebody has as many channels on a connection as others may still open.

    :ivar count: how many.
    """

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} channels of one person are open already")
        self.count = count


class FairShares:
    """Opens channels for people: each has at most as many as are free for the others.

    However much is taken, somebody new finds room (the dynamic threshold of Choudhury
    and Hahne). Who is alone gets half of it. What is open for nobody, as a control
    channel, takes its place as well.

    :param connection: of whose channels' ends nobody else wants to hear.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Who has how many channels, those being opened included.
        self._shares: Counter[str] = Counter()
        self._opened: dict[Channel, str] = {}
        connection.on_channel_finished = self._finished

    async def open(self, person: str, kind: bytes, data: bytes) -> Channel:
        """Open a channel for somebody; see :meth:`Connection.open_channel`.

        :raises ShareTaken: when they have their share.
        """
        free = self._connection.limits.channels - self._connection.open_channels
        if self._shares[person] and self._shares[person] >= free:
            raise ShareTaken(self._shares[person])
        self._shares[person] += 1
        try:
            channel = await self._connection.open_channel(kind, data)
        except BaseException:
            self._give_back(person)
            raise
        self._opened[channel] = person
        return channel

    def _finished(self, channel: Channel) -> None:
        person = self._opened.pop(channel, None)
        if person is not None:
            self._give_back(person)

    def _give_back(self, person: str) -> None:
        self._shares[person] -= 1
        if not self._shares[person]:
            del self._shares[person]
