"""Both ends of a channel, and what they are told."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.testing import AcceptingHandler, ConnectionPair, RecordingReceiver
from rtunnel.wire.data_types import string, uint32
from rtunnel.wire.numbers import MSG_CHANNEL_DATA

KIB = 1024


class Ends:
    """A channel's two ends over a :class:`ConnectionPair`, with a receiver each.

    :param start: whether the receivers are started.
    """

    def __init__(
        self,
        *,
        start: bool = True,
        capacity: int = 2**30,
        limits: ChannelLimits | None = None,
    ) -> None:
        self.handler = AcceptingHandler()
        self.pair = ConnectionPair(
            server_handler=self.handler,
            client_limits=limits,
            server_limits=limits,
            capacity=capacity,
        )
        opened = Deferred.fromCoroutine(self.pair.client.open_channel(b"test"))
        self.pair.pump()
        results: list[Channel] = []
        opened.addCallback(results.append)
        self.near = results[0]
        self.far = self.handler.channels[0]
        self.near_receiver = RecordingReceiver()
        self.far_receiver = RecordingReceiver()
        if start:
            self.near.start(self.near_receiver)
            self.far.start(self.far_receiver)
        self.sent = self.pair.client_transport.sent
        self.sent.clear()
        self.answered = self.pair.server_transport.sent
        self.answered.clear()

    def to_far(self, number: int, payload: bytes) -> None:
        """The far end gets a message that the near end never sent."""
        self.pair.server_transport.receive(number, payload)

    def data(self, data: bytes) -> None:
        """The far end gets data, whatever its window."""
        self.to_far(MSG_CHANNEL_DATA, uint32(self.far.number) + string(data))
