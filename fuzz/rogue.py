"""One end of a connection that has logged in and misbehaves, as its script says.

The other end is ours. The script opens channels, asks, writes, ends and forges as the
rogue; and decides what the rest of the proxy does, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from fuzz.script import Script
from rtunnel.errors import ConnectionClosed, OpenRefused, RequestFailed
from rtunnel.proxy.fair_shares import ShareTaken
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.testing import ConnectionPair, RecordingHandler, RecordingReceiver
from rtunnel.wire.data_types import string, uint32

_LIMITS = ChannelLimits(
    window=8192, initial_window=4096, channels=6, opens_per_second=100.0, opens_burst=40
)
_NUMBERS = (80, 81, 82, *range(90, 101))

#: What an open, a dial or a request may fail with, whatever the peer does.
MAY_GO_WRONG = (
    OpenRefused,
    ConnectionClosed,
    RequestFailed,
    ShareTaken,
    CancelledError,
)

# The longest that anything here waits, in seconds.
_HOUR = 3600.0


class Moods:
    """What those do that are asked in the middle of a step; all 0 is what they should.

    :param bits: two for each answer, used over and over.
    """

    def __init__(self, bits: bytes) -> None:
        self._bits = int.from_bytes(bits)
        self._answers = 0

    def next(self) -> int:
        """From 0 to 3."""
        self._answers += 1
        return self._bits >> 2 * (self._answers % 8) & 3


class Rogue:
    """One end of a connection that does what its script says.

    :param handler: the other end's, which is ours.
    :param opens: channels to ask for: type, and what depends on it.
    :param requests: what to ask on a channel: name, and data.
    """

    def __init__(
        self,
        script: Script,
        moods: Moods,
        handler: Any,
        clock: Clock,
        opens: Sequence[tuple[bytes, bytes]],
        requests: Sequence[tuple[bytes, bytes]],
    ) -> None:
        self.script = script
        self.moods = moods
        self._opens = opens
        self._requests = requests
        self._channels: list[Channel] = []
        self._unfired = 0
        self.pair = ConnectionPair(
            RecordingHandler(self._asked),
            cast(RecordingHandler, handler),
            clock=clock,
            client_limits=_LIMITS,
            server_limits=_LIMITS,
            capacity=4096,
        )

    @property
    def _connection(self) -> Connection:
        return self.pair.client

    async def _asked(self, request: OpenRequest) -> Attach:
        if self.moods.next() == 3:
            raise OpenRefused(1, "no")
        return self._attach

    def _attach(self, channel: Channel) -> None:
        channel.on_request = lambda name, data: self.moods.next() < 2
        channel.start(RecordingReceiver())
        self._channels.append(channel)

    def watch(self, waiting: Deferred[Any]) -> None:
        """It has to fire, with nothing but what may go wrong."""
        self._unfired += 1
        waiting.addBoth(self._fired)

    def _fired(self, result: object) -> None:
        self._unfired -= 1
        if isinstance(result, Failure):
            result.trap(*MAY_GO_WRONG)

    def open(self) -> None:
        kind, data = self._opens[self.script.below(len(self._opens))]
        opening = Deferred.fromCoroutine(
            self._connection.open_channel(kind, self.script.changed(data))
        )
        opening.addCallback(self._attach)
        self.watch(opening)
        self.pair.step(self.pair.client_transport)

    def ask(self) -> None:
        name, data = self._requests[self.script.below(len(self._requests))]
        channel = self._channel()
        if channel is not None:
            payload = self.script.changed(string(name) + data)
            name, data = payload[4 : 4 + len(name)], payload[4 + len(name) :]
            self.watch(channel.send_request(name, data, self.script.below(4) > 0))

    def write(self) -> None:
        channel = self._channel()
        if channel is not None:
            channel.write(self.script.chunk() * (1 + 15 * self.script.below(2)))

    def end(self) -> None:
        channel = self._channel()
        if channel is not None:
            (channel.write_eof, channel.close, channel.abort)[self.script.below(3)]()

    def ask_globally(self) -> None:
        name = self.script.chunk()
        self.watch(self._connection.send_global_request(name, b"data"))

    def forge(self) -> None:
        """Send a message that the service at this end would not."""
        number = _NUMBERS[self.script.below(len(_NUMBERS))]
        start = uint32(self.script.below(8)) if self.script.below(4) else b""
        self.pump()
        self.pair.server_transport.receive(number, start + self.script.chunk())

    def step(self) -> None:
        for _ in range(1 + self.script.below(8)):
            self.pair.step(self.pair.client_transport)
            self.pair.step(self.pair.server_transport)

    def pump(self) -> None:
        self.pair.pump()

    def wait(self) -> None:
        self.pair.clock.advance(self.script.byte() / 4)

    def decide(self) -> None:
        """Have the rest of the proxy do something."""

    def check(self) -> None:
        """See whether everything is in order, now that it has ended."""

    def _channel(self) -> Channel | None:
        if not self._channels:
            return None
        return self._channels[self.script.below(len(self._channels))]

    def run(self) -> None:
        """Play the script, and see whether everything ends well."""
        while not self.script.is_over:
            step = _STEPS[self.script.below(len(_STEPS))]
            # By name, as subclasses have their own.
            getattr(self, step.__name__)()
            self.always()
        self.pair.lose()
        clock = self.pair.clock
        clock.advance(_HOUR)
        assert not clock.getDelayedCalls(), "a timer outlives its connection"
        assert not self._unfired, "somebody waits for ever"
        self.check()

    def always(self) -> None:
        """What has to hold at any time."""


_STEPS: tuple[Callable[[Rogue], None], ...] = (
    Rogue.open,
    Rogue.ask,
    Rogue.pump,
    Rogue.write,
    Rogue.end,
    Rogue.decide,
    Rogue.decide,
    Rogue.step,
    Rogue.wait,
    Rogue.ask_globally,
    Rogue.forge,
)


def encode_script(*steps: tuple[Callable[..., None], bytes], moods: int = 0) -> bytes:
    """Steps, each with what it reads."""
    return moods.to_bytes(2) + b"".join(
        bytes([_STEPS.index(step)]) + rest for step, rest in steps
    )


# Every change of data takes a number first, 0 for none.
UNCHANGED = b"\0"


def opened(number: int) -> tuple[tuple[Callable[..., None], bytes], ...]:
    return (Rogue.open, bytes([number]) + UNCHANGED), (Rogue.pump, b"")


def asked(number: int) -> tuple[tuple[Callable[..., None], bytes], ...]:
    return (
        (Rogue.ask, bytes([number, 0]) + UNCHANGED + b"\1"),
        (Rogue.pump, b""),
        (Rogue.wait, b"\1"),
        (Rogue.pump, b""),
    )
