"""A session channel as a stream that ends as a command does: with an exit status."""

from __future__ import annotations

from twisted.internet.interfaces import IProducer

from rtunnel.errors import ConnectionClosed
from rtunnel.splice import StreamReceiver
from rtunnel.ssh.channel import Channel
from rtunnel.wire.data_types import uint32


def send_exit_status(channel: Channel, code: int) -> None:
    """RFC 4254 section 6.10: ``exit-status``, no reply wanted, uint32."""
    told = channel.send_request(b"exit-status", uint32(code), want_reply=False)
    # Whoever has closed the channel does not want to know.
    told.addErrback(lambda failure: failure.trap(ConnectionClosed) and None)


class SessionStream:
    """A :class:`~rtunnel.splice.Stream` over a session channel.

    An orderly end sends exit status 0 before it; without one ``ssh`` would report a
    failure. A connection that breaks sends none.

    :param channel: of a session whose request has been accepted.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def start(self, receiver: StreamReceiver, /) -> None:
        """See ``Stream``, here and below."""
        self._channel.start(receiver)

    def write(self, data: bytes, /) -> None:
        self._channel.write(data)

    def write_eof(self) -> None:
        self._channel.write_eof()

    def abort(self) -> None:
        self._channel.abort()

    def registerProducer(self, producer: IProducer, streaming: bool, /) -> None:
        self._channel.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._channel.unregisterProducer()

    def pauseProducing(self) -> None:
        self._channel.pauseProducing()

    def resumeProducing(self) -> None:
        self._channel.resumeProducing()

    def close(self) -> None:
        """Send what was written and exit status 0, then end."""
        if self._channel.is_open:
            send_exit_status(self._channel, 0)
        self._channel.close()

    def stopProducing(self) -> None:
        """Nothing more is wanted: the same as :meth:`close`."""
        self.close()
