"""The control channel of a tunnel: messages both ways, and heartbeats.

Both ends use it. Every message is a channel request with a reply (docs/protocol.md,
"The control channel"); the answer to a heartbeat gives the round trip time, and a peer
from which nothing at all comes is found dead (:mod:`rtunnel.discovery.liveness`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.counting import counted
from rtunnel.discovery.liveness import Liveness
from rtunnel.discovery.messages import Heartbeat, Message, decode, encode
from rtunnel.errors import (
    DISCONNECT_PROTOCOL_ERROR,
    ConnectionClosed,
    MessageError,
    RequestFailed,
    UnknownMessage,
)
from rtunnel.ssh.channel import Channel

#: Bytes of data that a peer may send on the channel, where nothing but requests has a
#: meaning, before the tunnel ends.
MAX_DATA = 1024


#: Log lines that one tunnel's unknown messages get; all are answered.
MAX_UNKNOWN_LOGGED = 8


class ControlReceiver(Protocol):
    """What a control channel tells its owner."""

    def message_received(self, message: Message) -> bool | Awaitable[bool]:
        """A message other than a heartbeat; says what to answer."""

    def peer_dead(self, reason: str) -> None:
        """Nothing came from the peer for too long. Called once."""


class ControlChannel:
    """One end of ``control@rtunnel``.

    :param channel: just opened, not started.
    :param clock: for heartbeats and time-outs.
    :param liveness: the schedule; heartbeats begin at once.
    """

    _log = Logger()

    def __init__(
        self,
        channel: Channel,
        clock: IReactorTime,
        liveness: Liveness,
        receiver: ControlReceiver,
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._liveness = liveness
        self._receiver = receiver
        self._connection = channel.connection
        self._next_tick: IDelayedCall | None = None
        self._data_left = MAX_DATA
        self._unknown_to_log = MAX_UNKNOWN_LOGGED
        self._stopped = False
        channel.on_request = self._request_received
        channel.start(self)
        self._tick()

    @property
    def rtt(self) -> float | None:
        """Seconds that a heartbeat takes to be answered; None before the first."""
        return self._liveness.rtt

    @property
    def suspect(self) -> bool:
        """Whether the peer has missed a heartbeat and sent nothing since."""
        return self._liveness.suspect(self._connection.last_received)

    def send(self, message: Message) -> Deferred[None]:
        """Send a message.

        :return: fires when the peer has accepted it; fails with RequestFailed when it
            refuses, with ConnectionClosed when the tunnel ends first.
        """
        name, payload = encode(message)
        return self._channel.send_request(name, payload)

    async def probe(self, timeout: float) -> bool:
        """Whether the peer answers a heartbeat now.

        :param timeout: seconds that it has.
        """
        asked = self._clock.seconds()
        answer = self.send(Heartbeat(0))
        answer.addTimeout(timeout, self._clock)
        try:
            await answer
        except (TimeoutError, ConnectionClosed):
            return False
        except RequestFailed:
            # Either the peer refused, and lives, or too many requests wait for it.
            return self._connection.last_received >= asked
        return True

    def stop(self) -> None:
        """No more heartbeats: the tunnel has ended."""
        self._stopped = True
        if self._next_tick is not None:
            self._next_tick.cancel()
            self._next_tick = None

    def _tick(self) -> None:
        self._next_tick = None
        beat = self._liveness.tick(
            self._clock.seconds(), self._connection.last_received
        )
        if beat is None:
            self.stop()
            seconds = self._liveness.interval * self._liveness.missed
            self._receiver.peer_dead(
                f"nothing was heard for {counted(seconds, 'second')}"
            )
            return
        self._next_tick = self._clock.callLater(self._liveness.interval, self._tick)
        answer = self.send(beat)
        answer.addCallbacks(
            self._answered, self._not_answered, callbackArgs=(beat.sequence,)
        )

    def _answered(self, result: None, sequence: int) -> None:
        self._liveness.answered(sequence, self._clock.seconds())

    def _not_answered(self, failure: Failure) -> None:
        # A refusal is an answer all the same; a lost connection is told elsewhere.
        failure.trap(RequestFailed, ConnectionClosed)

    def _request_received(self, name: bytes, data: bytes) -> bool | Awaitable[bool]:
        try:
            message = decode(name, data)
        except UnknownMessage as error:
            if self._unknown_to_log:
                self._unknown_to_log -= 1
                self._log.warn("{error}", error=error)
            return False
        except MessageError as error:
            self._end(f"malformed control message: {error}")
            return False
        if isinstance(message, Heartbeat):
            return True
        return self._receiver.message_received(message)

    def _end(self, reason: str) -> None:
        self._connection.close(reason, DISCONNECT_PROTOCOL_ERROR)

    # StreamReceiver

    def data_received(self, data: bytes) -> None:
        """Data has no meaning here; a little of it is passed over."""
        self._data_left -= len(data)
        if self._data_left < 0:
            self._end("data on the control channel")

    def eof_received(self) -> None:
        """Nor has its end."""

    def closed(self, reason: str | None) -> None:
        """The tunnel cannot go on without its control channel."""
        if not self._stopped:
            self.stop()
            self._connection.close("the control channel was closed")
