"""The ssh-connection service: as a parser of messages, and as a state machine.

Two ends over memory, see :mod:`rtunnel.testing`. The parser gets messages of any kind
for channels that are open; the machine opens, writes, pauses, asks, ends and loses in
any order, and then has to have kept every promise: all data in order, ``closed`` once
and last, every Deferred fired, nothing left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from fuzz.harness import Harness
from fuzz.script import Script
from rtunnel.errors import ConnectionClosed, OpenRefused, RequestFailed
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.testing import (
    ConnectionPair,
    MemoryTransport,
    RecordingHandler,
    RecordingReceiver,
)
from rtunnel.wire.data_types import boolean, string, text, uint32
from rtunnel.wire.numbers import MSG_DISCONNECT

_LIMITS = ChannelLimits(
    window=8192,
    initial_window=4096,
    window_budget=16384,
    max_packet=1024,
    queue=1024,
    channels=6,
    pending_opens=3,
    opens_per_second=100.0,
    opens_burst=40,
    outstanding_requests=4,
)
# Bytes that tell their place.
_PATTERN = bytes(range(251)) * 21
_NUMBERS = (80, 81, 82, *range(90, 101))


class _Receiver(RecordingReceiver):
    """Asserts that the end comes once and last, and no data after EOF."""

    def data_received(self, data: bytes) -> None:
        assert not self.has_eof and not self.is_closed
        super().data_received(data)

    def eof_received(self) -> None:
        assert not self.has_eof and not self.is_closed
        super().eof_received()

    def closed(self, reason: str | None) -> None:
        assert not self.is_closed
        super().closed(reason)


class _End(RecordingHandler):
    """One end: its channels, and what was written to and read from each.

    A channel's kind is its name at both ends: no two opens have the same.
    """

    def __init__(self) -> None:
        super().__init__(self._decide)
        self.channels: list[Channel] = []
        self.receivers: dict[bytes, _Receiver] = {}
        self.written: dict[bytes, bytearray] = {}
        #: Opens, by us or the peer, that have not been decided.
        self.undecided: list[Deferred[None]] = []
        self.opens: list[Deferred[Channel]] = []
        self.answers: list[Deferred[Any]] = []
        self.unfired = 0

    async def _decide(self, request: OpenRequest) -> Attach:
        match request.data[:1]:
            case b"r":
                raise OpenRefused(1, "no")
            case b"w":
                waiting: Deferred[None] = Deferred()
                self.undecided.append(waiting)
                await waiting
        return self.attach

    def attach(self, channel: Channel) -> None:
        """A channel is open."""
        channel.on_request = self._requested
        self.channels.append(channel)
        self.written[channel.kind] = bytearray()

    def start(self, channel: Channel) -> None:
        """Have the channel's data delivered."""
        if channel.kind not in self.receivers:
            self.receivers[channel.kind] = receiver = _Receiver()
            channel.start(receiver)

    def _requested(self, name: bytes, data: bytes) -> bool | Deferred[bool]:
        if name != b"wait":
            return name == b"yes"
        waiting: Deferred[None] = Deferred()
        self.undecided.append(waiting)
        return waiting.addCallback(lambda _: True)

    def watch(self, waiting: Deferred[Any]) -> None:
        """It has to fire, with nothing but what may go wrong."""
        self.unfired += 1
        waiting.addBoth(self._fired)

    def _fired(self, result: object) -> None:
        self.unfired -= 1
        if isinstance(result, Failure):
            result.trap(OpenRefused, ConnectionClosed, RequestFailed, CancelledError)


class _World:
    """Both ends, and the decisions of one script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.ends = (_End(), _End())
        self.pair = ConnectionPair(
            *self.ends, client_limits=_LIMITS, server_limits=_LIMITS, capacity=2048
        )
        self.opened = 0
        self.is_honest = True

    def connection(self, end: _End) -> Connection:
        assert end.connection is not None
        return end.connection

    def transport(self, end: _End) -> MemoryTransport:
        is_client = end is self.ends[0]
        return self.pair.client_transport if is_client else self.pair.server_transport

    def open(self, end: _End) -> None:
        kind = b"kind-%d" % self.opened
        self.opened += 1
        data = (b"", b"", b"", b"r", b"w")[self.script.below(5)]
        opening = Deferred.fromCoroutine(self.connection(end).open_channel(kind, data))
        end.opens.append(opening)
        opening.addCallback(end.attach)
        end.watch(opening)

    def cancel_open(self, end: _End) -> None:
        if end.opens:
            end.opens[self.script.byte() % len(end.opens)].cancel()

    def decide(self, end: _End) -> None:
        if end.undecided:
            waiting = end.undecided.pop(self.script.byte() % len(end.undecided))
            if not waiting.called:
                waiting.callback(None)

    def step(self, end: _End) -> None:
        for _ in range(1 + self.script.below(16)):
            self.pair.step(self.transport(end))

    def pump(self, end: _End) -> None:
        self.pair.pump()

    def pass_time(self, end: _End) -> None:
        self.pair.clock.advance(self.script.byte() / 16)

    def ask_globally(self, end: _End) -> None:
        want_reply = self.script.below(2) == 0
        end.watch(
            self.connection(end).send_global_request(b"name", b"data", want_reply)
        )

    def forge(self, end: _End) -> None:
        """Send the peer a message that this end's own service would not."""
        self.is_honest = False
        number = _NUMBERS[self.script.below(len(_NUMBERS))]
        start = uint32(self.script.below(8)) if self.script.below(4) else b""
        payload = start + self.script.chunk()
        self.pair.step(self.transport(end))
        peer = self.ends[1] if end is self.ends[0] else self.ends[0]
        self.transport(peer).receive(number, payload)

    def hang_up(self, end: _End) -> None:
        if self.script.below(4) == 3:
            self.connection(end).close("enough")

    def with_channel(self, end: _End) -> None:
        if not end.channels:
            return
        channel = end.channels[self.script.below(len(end.channels))]
        _CHANNEL_STEPS[self.script.below(len(_CHANNEL_STEPS))](self, end, channel)

    # What may be done with a channel.

    def start(self, end: _End, channel: Channel) -> None:
        end.start(channel)

    def write(self, end: _End, channel: Channel) -> None:
        written = end.written[channel.kind]
        size = (1, 100, 1024, 5000)[self.script.below(4)]
        start = len(written) % 251
        data = _PATTERN[start : start + size]
        if channel.is_open:
            written += data
        channel.write(data)

    def write_eof(self, end: _End, channel: Channel) -> None:
        channel.write_eof()

    def write_stderr(self, end: _End, channel: Channel) -> None:
        channel.write_stderr(self.script.chunk())

    def close(self, end: _End, channel: Channel) -> None:
        channel.close()

    def abort(self, end: _End, channel: Channel) -> None:
        channel.abort()

    def pause(self, end: _End, channel: Channel) -> None:
        channel.pauseProducing()

    def resume(self, end: _End, channel: Channel) -> None:
        channel.resumeProducing()

    def ask(self, end: _End, channel: Channel) -> None:
        name = (b"yes", b"no", b"wait")[self.script.below(3)]
        end.watch(channel.send_request(name, b"", self.script.below(4) > 0))

    def run(self) -> None:
        """Play the script, and see whether everything ends well."""
        while not self.script.is_over:
            decision = self.script.byte()
            _STEPS[(decision >> 1) % len(_STEPS)](self, self.ends[decision & 1])
        if self.script.byte() % 2 == 0:
            self.pair.pump()
        self.pair.lose()
        for end, peer in (self.ends, self.ends[::-1]):
            for channel in end.channels:
                end.start(channel)
            self._check(end, peer)

    def _check(self, end: _End, peer: _End) -> None:
        assert len(end.lost) == 1, "the end of a connection is told once"
        assert self.connection(end).open_channels == 0
        assert not end.unfired, "somebody waits for ever"
        for kind, receiver in end.receivers.items():
            assert receiver.is_closed, "a receiver waits for ever"
            if self.is_honest:
                sent = peer.written.get(kind, b"")
                assert sent.startswith(receiver.data), "data that was not written"


_CHANNEL_STEPS: tuple[Callable[[_World, _End, Channel], None], ...] = (
    _World.start,
    _World.write,
    _World.write,
    _World.write,
    _World.write_eof,
    _World.write_stderr,
    _World.close,
    _World.abort,
    _World.pause,
    _World.resume,
    _World.ask,
)
_STEPS: tuple[Callable[[_World, _End], None], ...] = (
    _World.open,
    _World.with_channel,
    _World.with_channel,
    _World.with_channel,
    _World.with_channel,
    _World.step,
    _World.step,
    _World.pump,
    _World.decide,
    _World.cancel_open,
    _World.pass_time,
    _World.ask_globally,
    _World.forge,
    _World.hang_up,
)


def _machine(data: bytes) -> None:
    _World(Script(data)).run()


def _steps(*steps: tuple[Callable[[_World, _End], None], int, bytes]) -> bytes:
    """A script of steps, each with the end that takes it and what that reads."""
    return b"".join(
        bytes([_STEPS.index(step) << 1 | end]) + rest for step, end, rest in steps
    )


def _with(
    step: Callable[[_World, _End, Channel], None], end: int, rest: bytes = b""
) -> tuple[Callable[[_World, _End], None], int, bytes]:
    decision = bytes([0, _CHANNEL_STEPS.index(step)])
    return _World.with_channel, end, decision + rest


def _scripts() -> list[bytes]:
    opened = _steps(
        (_World.open, 0, b"\0"),
        (_World.pump, 0, b""),
        _with(_World.start, 0),
        _with(_World.start, 1),
    )
    bulk = _steps(
        *[_with(_World.write, 0, b"\3"), _with(_World.write, 1, b"\2")] * 2,
        _with(_World.pause, 1),
        (_World.step, 0, b"\3"),
        _with(_World.resume, 1),
        (_World.pump, 0, b""),
    )
    return [
        opened + bulk + _steps(_with(_World.write_eof, 0), _with(_World.close, 1)),
        opened + bulk + _steps(_with(_World.abort, 0), (_World.step, 0, b"\2")),
        opened
        + _steps(
            _with(_World.ask, 0, b"\2\1"),
            _with(_World.ask, 0, b"\0\1"),
            (_World.pump, 0, b""),
            (_World.decide, 1, b"\0"),
            (_World.ask_globally, 1, b"\0"),
            (_World.hang_up, 1, b"\3"),
        ),
        _steps(
            (_World.open, 1, b"\4"),
            (_World.open, 0, b"\4"),
            (_World.pump, 0, b""),
            (_World.decide, 0, b"\0"),
            (_World.cancel_open, 0, b"\0"),
            (_World.decide, 1, b"\0"),
        ),
        opened + _steps((_World.forge, 0, b"\6\1\1\x08" + uint32(4) + b"data")),
        opened + _steps((_World.forge, 1, b"\5\1\1\4" + uint32(2**32 - 1))),
    ]


def _messages(data: bytes) -> None:
    """Messages for a connection with two open channels, and answers to wait for."""
    script = Script(data)
    world = _World(script)
    server = world.ends[1]
    for end in world.ends:
        world.open(end)
    world.pair.pump()
    for channel in list(server.channels):
        server.start(channel)
        server.watch(channel.send_request(b"yes"))
    world.open(server)
    server.watch(world.connection(server).send_global_request(b"name"))
    transport = world.pair.server_transport
    while not script.is_over and not transport.close_reason:
        number, payload = script.byte(), script.take(int.from_bytes(script.take(2)))
        # That one is the transport's own.
        if number != MSG_DISCONNECT:
            transport.receive(number, payload)
        if transport.outbox_size > 65536:
            transport.outbox.clear()
    world.pair.lose()
    assert server.connection is not None and not server.connection.open_channels
    assert not server.unfired


def _message(number: int, *fields: bytes) -> bytes:
    payload = b"".join(fields)
    return bytes([number]) + len(payload).to_bytes(2) + payload


def _message_seeds() -> list[bytes]:
    one = uint32(1)
    opening = _message(90, text("kind"), uint32(9), uint32(4096), uint32(1024), b"w")
    return [
        _message(80, text("keepalive@openssh.com"), boolean(True)) + opening,
        _message(94, one, string(b"data")) + _message(93, one, uint32(9)),
        _message(95, one, one, string(b"error")) + _message(96, one),
        _message(98, one, text("wait"), boolean(True)) + _message(97, one),
        _message(91, uint32(2), uint32(0), uint32(4096), uint32(1024)),
        _message(92, uint32(2), uint32(4), text("no"), text("")),
        _message(99, one) + _message(81, b"data") + _message(100, uint32(0)),
        _message(81) + _message(82),
        _message(99, one) * 2,
        _message(82) + _message(94, uint32(0), string(bytes(4000))),
    ]


HARNESSES = (
    Harness(
        "connection_messages",
        _messages,
        _message_seeds,
        (),
        (
            _message(81),
            _message(82),
            *(_message(number, uint32(1)) for number in _NUMBERS),
            text("kind"),
        ),
    ),
    Harness("connection", _machine, _scripts, is_machine=True),
)
