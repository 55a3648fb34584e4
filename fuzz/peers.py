"""Who has logged in and misbehaves: a client, an agent, another proxy.

Each is a state machine of the proxy's, over a connection in memory. The script opens
channels, asks, writes, ends and forges as the other end; and decides what the rest of
the proxy says, and when.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from fuzz.harness import Harness
from fuzz.keys import USER
from fuzz.script import Script
from rtunnel.audit.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    Event,
)
from rtunnel.discovery.messages import (
    ACTIVE,
    DiscoveryRequest,
    Drain,
    Heartbeat,
    Hello,
    ProxyAdvert,
    encode,
)
from rtunnel.discovery.peer_request import PeerRequest
from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.errors import (
    AuthenticationRefused,
    OpenRefused,
    ProtocolError,
    RequestFailed,
)
from rtunnel.errors import ConnectionClosed as Closed
from rtunnel.naming import Target, check_cluster
from rtunnel.proxy.client import Client
from rtunnel.proxy.dispatch import Dispatcher, Reached
from rtunnel.proxy.peer import Peer
from rtunnel.proxy.status import status_document
from rtunnel.proxy.target_connections import TargetConnection
from rtunnel.proxy.tunnel import (
    CONTROL_CHANNEL,
    TRANSPORT_CHANNEL,
    Tunnel,
)
from rtunnel.registry.records import ProxyRecord, TunnelRecord
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.testing import (
    ConnectionPair,
    MemoryStream,
    RecordingHandler,
    RecordingReceiver,
)
from rtunnel.trust.identity import (
    AgentIdentity,
    Identity,
    PeerIdentity,
    UserIdentity,
)
from rtunnel.trust.login_proof import CONNECTION_SERVICE, LoginProof, signed_data
from rtunnel.wire.data_types import string, text, uint32

_ID = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
_OTHER = "00000000-0000-4000-8000-000000000001"
_LIMITS = ChannelLimits(
    window=8192, initial_window=4096, channels=6, opens_per_second=100.0, opens_burst=40
)
_NUMBERS = (80, 81, 82, *range(90, 101))
_USER = UserIdentity("alice", ("alice",), "alice", "SHA256:x", "192.0.2.7", None, None)

# The longest that anything here waits, in seconds.
_HOUR = 3600.0


class _Moods:
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


class _Rogue:
    """One end of a connection that does what its script says.

    :param handler: the other end's, which is ours.
    :param opens: channels to ask for: type, and what depends on it.
    :param requests: what to ask on a channel: name, and data.
    """

    def __init__(
        self,
        script: Script,
        moods: _Moods,
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
            result.trap(OpenRefused, Closed, RequestFailed, CancelledError)

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
            _STEPS[self.script.below(len(_STEPS))](self)
            self.always()
        self.pair.lose()
        clock = self.pair.clock
        clock.advance(_HOUR)
        assert not clock.getDelayedCalls(), "a timer outlives its connection"
        assert not self._unfired, "somebody waits for ever"
        self.check()

    def always(self) -> None:
        """What has to hold at any time."""


_STEPS: tuple[Callable[[_Rogue], None], ...] = (
    _Rogue.open,
    _Rogue.ask,
    _Rogue.pump,
    _Rogue.write,
    _Rogue.end,
    _Rogue.decide,
    _Rogue.decide,
    _Rogue.step,
    _Rogue.wait,
    _Rogue.ask_globally,
    _Rogue.forge,
)


class _Dispatcher:
    """Stands for the way to all targets."""

    def __init__(self, script: Script, moods: _Moods) -> None:
        self.script = script
        self.moods = moods
        self.streams: list[MemoryStream] = []
        self.waiting: list[Deferred[None]] = []
        self.dialled: list[tuple[UserIdentity, Target]] = []

    async def dial(
        self, user: UserIdentity, target: Target, connection_id: str, *rest: object
    ) -> Reached:
        """Reach it, refuse, or take time."""
        self.dialled.append((user, target))
        assert check_cluster(target.cluster) == target.cluster
        assert 1 <= target.port <= 65535
        match self.moods.next():
            case 1:
                raise OpenRefused(2, "no")
            case 2:
                waiting: Deferred[None] = Deferred()
                self.waiting.append(waiting)
                await waiting
        stream = MemoryStream(1024)
        self.streams.append(stream)
        return Reached(stream, _ID)

    dial_for_peer = dial

    def decide(self) -> None:
        """A dial is over, or a target does something."""
        if self.waiting:
            waiting = self.waiting.pop()
            if not waiting.called:
                waiting.callback(None)
        elif self.streams:
            stream = self.streams[self.script.below(len(self.streams))]
            if stream.receiver is None or stream.finished:
                return
            match self.script.below(5):
                case 0 if not stream.paused:
                    stream.feed(self.script.chunk())
                case 1:
                    stream.feed_eof()
                case 2:
                    stream.finish(None)
                case 3:
                    stream.finish("reset")
                case _:
                    stream.take()


class _Owner:
    """Stands for the proxy."""

    def __init__(self) -> None:
        self.draining = False
        self.may_record = True
        self.expired = False
        self.started = 0
        self.ended = 0
        self.connections_ended = 0
        self.ids = 0
        self.events: list[Event] = []
        self.joined: list[TargetConnection] = []

    def change(self, script: Script) -> None:
        """Something of the proxy changes, or it ends a connection to a target."""
        match script.below(4):
            case 0:
                self.draining = not self.draining
            case 1:
                self.may_record = not self.may_record
            case 2:
                self.expired = not self.expired
            case _:
                if self.joined:
                    self.joined[script.below(len(self.joined))].end("revoked")

    def record(self, event: Event) -> bool:
        # What was never joined has no end.
        if self.may_record or not isinstance(event, ConnectionOpened):
            self.events.append(event)
        return self.may_record

    def connection_joined(self, connection: TargetConnection) -> None:
        self.joined.append(connection)

    def connection_ended(self, connection: TargetConnection) -> None:
        self.connections_ended += 1
        if connection in self.joined:
            self.joined.remove(connection)

    def new_connection_id(self) -> str:
        self.ids += 1
        return f"c-{self.ids}"

    def status_for(self, user: UserIdentity) -> dict[str, object]:
        own = ProxyRecord(_ID, "a")
        tunnels = [TunnelRecord("site", _ID, _ID, 1.5e9, 0.02, 3)]
        return status_document(own, [own], tunnels, ["site", "away"])

    def has_expired(self, identity: Identity) -> bool:
        return self.expired

    def client_started(self, client: Client) -> None:
        self.started += 1

    def client_ended(self, client: Client) -> None:
        self.ended += 1

    def peer_started(self, peer: Peer) -> None:
        self.started += 1

    def peer_ended(self, peer: Peer) -> None:
        self.ended += 1

    def check(
        self, open_connections: Callable[[], int], dispatcher: _Dispatcher
    ) -> None:
        """Every connection that was told of has ended, once."""
        assert (self.started, self.ended) == (1, 1)
        for stream in dispatcher.streams:
            # What was closed in order still waits for its target to read.
            stream.take()
            assert stream.receiver is None or stream.finished
        assert not open_connections()

        def ids(kind: type[Any]) -> list[str]:
            return sorted(e.connection_id for e in self.events if isinstance(e, kind))

        opened, closed = ids(ConnectionOpened), ids(ConnectionClosed)
        assert opened == closed and len(closed) == self.connections_ended
        if self.ids:
            # They are ours, so no two connections have the same.
            assert not set(opened) & set(ids(ConnectionRefused))


class _Client(_Rogue):
    """A client that has logged in: ``direct-tcpip`` and sessions."""

    def __init__(self, script: Script) -> None:
        self.owner = _Owner()
        moods = _Moods(script.take(2))
        self.dispatcher = _Dispatcher(script, moods)
        clock = Clock()
        self.client = _make_client(self.owner, self.dispatcher, clock)
        super().__init__(
            script, moods, self.client, clock, _CLIENT_OPENS, _CLIENT_REQUESTS
        )

    def decide(self) -> None:
        if self.script.below(8) == 7:
            self.owner.change(self.script)
        else:
            self.dispatcher.decide()

    def check(self) -> None:
        self.owner.check(lambda: self.client.open_connections, self.dispatcher)


def _make_client(owner: _Owner, dispatcher: _Dispatcher, clock: Clock) -> Client:
    return Client(_USER, owner, cast(Dispatcher, dispatcher), clock, _ID)


def _direct(host: bytes, port: int) -> bytes:
    return string(host) + uint32(port) + text("::1") + uint32(40000)


_CLIENT_OPENS = (
    (b"session", b""),
    (b"direct-tcpip", _direct(b"db.site", 22)),
    (b"direct-tcpip", _direct(b"[2001:db8::1].Site", 65535)),
    (b"forwarded-tcpip", b""),
)
_CLIENT_REQUESTS = (
    (b"exec", text("ls --json")),
    (b"exec", text("status")),
    (b"exec", text("rm -rf /")),
    (b"shell", b""),
    (b"subsystem", text("proxy:db:22@site")),
    (b"subsystem", text("sftp")),
    (b"pty-req", text("xterm") + uint32(80)),
    (b"env", text("LANG") + text("C")),
    (b"signal", text("INT")),
)


def _direct_tcpip(data: bytes) -> None:
    """What depends on the type, of a channel open."""
    dispatcher = _Dispatcher(Script(b""), _Moods(b""))
    client = _make_client(_Owner(), dispatcher, Clock())
    asking = client.channel_requested(OpenRequest(b"direct-tcpip", data))
    try:
        asking.send(None)
    except StopIteration:
        ((user, target),) = dispatcher.dialled
        assert user == _USER
        port = data[4 + int.from_bytes(data[:4]) :][:4]
        assert target.port == int.from_bytes(port)
    except OpenRefused as error:
        assert error.text.isprintable() and not dispatcher.dialled
        raise


class _Agent(_Rogue):
    """An agent that has logged in: its control channel, and its answers to dials."""

    def __init__(self, script: Script) -> None:
        self.started = 0
        self.ended = 0
        self.in_service = 0
        self.expired = False
        self.admitting: list[Deferred[None]] = []
        identity = AgentIdentity(
            cluster="site",
            instance=_ID,
            fingerprint="SHA256:x",
            source="192.0.2.7",
            certificate=cast(Any, None),
            valid_before=2e9,
        )
        clock = Clock()
        moods = _Moods(script.take(2))
        self.tunnel = Tunnel(identity, self, clock, 5.0, 3, 1.5e9)
        super().__init__(
            script, moods, self.tunnel, clock, _AGENT_OPENS, _AGENT_REQUESTS
        )

    # TunnelOwner.

    def has_expired(self, identity: Identity) -> bool:
        return self.expired

    def tunnel_started(self, tunnel: Tunnel) -> None:
        self.started += 1

    async def admit(self, tunnel: Tunnel) -> bool:
        assert not tunnel.admitted and not self.ended
        mood = self.moods.next()
        if mood & 1:
            waiting: Deferred[None] = Deferred()
            self.admitting.append(waiting)
            await waiting
        return mood < 2

    def tunnel_in_service(self, tunnel: Tunnel) -> None:
        assert tunnel.admitted
        self.in_service += 1

    def tunnel_changed(self, tunnel: Tunnel) -> None:
        assert tunnel is self.tunnel

    def tunnel_ended(self, tunnel: Tunnel, reason: str) -> None:
        self.ended += 1
        assert reason and reason.isprintable()

    def decide(self) -> None:
        tunnel = self.tunnel
        match self.script.below(7):
            case 6:
                self.expired = not self.expired
            case 0:
                if self.admitting:
                    self.admitting.pop().callback(None)
            case 1:
                advert = ProxyAdvert(_OTHER, ("proxy.example:3022",), 3, ACTIVE, 30.0)
                tunnel.send_discovery(DiscoveryRequest((advert,), 10.0))
            case 2:
                tunnel.send_drain("going away", 5.0)
            case 3 | 4:
                request = TransportRequest("db", 22, "alice", "192.0.2.7", "c-1")
                if tunnel.accepts_dials:
                    self.watch(Deferred.fromCoroutine(tunnel.dial(request)))
            case _:
                self.watch(Deferred.fromCoroutine(tunnel.still_answers(3.0)))

    def always(self) -> None:
        assert self.in_service <= 1

    def check(self) -> None:
        assert self.started == self.ended == 1 and not self.tunnel.open_channels


_AGENT_OPENS = (
    (CONTROL_CHANNEL, b""),
    (CONTROL_CHANNEL, b""),
    (TRANSPORT_CHANNEL, TransportRequest("db", 22, "alice", "", "c-1").encode()),
    (b"session", b""),
)
_AGENT_REQUESTS = tuple(
    encode(message)
    for message in (
        Hello("1.0", _ID, ("site",), {"channels": 1000}),
        Hello("1.0", _OTHER, (), {}),
        Heartbeat(7),
        Drain("going away", 0.0),
        DiscoveryRequest((), 0.5),
    )
)


class _Proxy(_Rogue):
    """Another proxy: clients that it passes on, and questions of its own."""

    def __init__(self, script: Script) -> None:
        self.owner = _Owner()
        moods = _Moods(script.take(2))
        self.dispatcher = _Dispatcher(script, moods)
        identity = PeerIdentity(
            proxy_id=_OTHER,
            names=("b",),
            fingerprint="SHA256:x",
            source="192.0.2.8",
            certificate=cast(Any, None),
            valid_before=2e9,
        )
        clock = Clock()
        self.peer = Peer(
            identity,
            self.owner,
            cast(Dispatcher, self.dispatcher),
            _identify,
            clock,
            proxy_id=_ID,
            proxy_name="a",
            heartbeat=5.0,
            missed=3,
            answers={b"question@rtunnel": self._answer},
        )
        super().__init__(
            script, moods, self.peer, clock, _PROXY_OPENS, _CLIENT_REQUESTS
        )

    def _answer(self, data: bytes, identity: PeerIdentity) -> Awaitable[bytes]:
        answer: Deferred[bytes] = Deferred()
        answer.callback(data)
        return answer

    def decide(self) -> None:
        if self.script.below(8) == 7:
            self.owner.change(self.script)
        else:
            self.dispatcher.decide()

    def check(self) -> None:
        self.owner.check(lambda: self.peer.open_connections, self.dispatcher)
        # Nobody is reached but for a person whose signature is right.
        assert all(user == _USER for user, _ in self.dispatcher.dialled)


def _identify(algorithm: bytes, blob: bytes, source: str) -> UserIdentity:
    if blob != USER.public.blob:
        raise AuthenticationRefused("nobody's key")
    return _USER


def _proof() -> LoginProof:
    blob, session_id = USER.public.blob, bytes(32)
    data = signed_data(session_id, b"alice", CONNECTION_SERVICE, b"ssh-ed25519", blob)
    return LoginProof(b"alice", session_id, b"ssh-ed25519", blob, USER.sign(data))


_PROXY_OPENS = (
    (
        TRANSPORT_CHANNEL,
        PeerRequest(Target("db", "site", 22), "192.0.2.7", "c-1", _proof()).encode(),
    ),
    (
        TRANSPORT_CHANNEL,
        PeerRequest(Target("", "site", 22), "::1", "c-2", _proof()).encode(),
    ),
    (b"question@rtunnel", b"what?"),
    (b"direct-tcpip", _direct(b"db.site", 22)),
)


def _script(*steps: tuple[Callable[..., None], bytes], moods: int = 0) -> bytes:
    """Steps, each with what it reads."""
    return moods.to_bytes(2) + b"".join(
        bytes([_STEPS.index(step)]) + rest for step, rest in steps
    )


# Every change of data takes a number first, 0 for none.
_UNCHANGED = b"\0"


def _opened(number: int) -> tuple[tuple[Callable[..., None], bytes], ...]:
    return (_Rogue.open, bytes([number]) + _UNCHANGED), (_Rogue.pump, b"")


def _asked(number: int) -> tuple[tuple[Callable[..., None], bytes], ...]:
    return (
        (_Rogue.ask, bytes([number, 0]) + _UNCHANGED + b"\1"),
        (_Rogue.pump, b""),
        (_Rogue.wait, b"\1"),
        (_Rogue.pump, b""),
    )


def _client_scripts() -> list[bytes]:
    write = (_Rogue.write, b"\0\4data\0")
    data = ((_Rogue.decide, b"\0\0\0\4data"), (_Rogue.pump, b""), write)
    eof = ((_Rogue.decide, b"\0\0\1"), (_Rogue.end, b"\0\0"), (_Rogue.pump, b""))
    return [
        *(_script(*_opened(0), *_asked(number)) for number in range(9)),
        _script(*_opened(1), *data, *data, *eof),
        _script(*_opened(1), *data, (_Rogue.decide, b"\0\0\3"), (_Rogue.pump, b"")),
        _script(*_opened(2), (_Rogue.wait, b"\xff"), (_Rogue.decide, b"\0\0\4")),
        _script(*_opened(0), *[(_Rogue.wait, b"\xff")] * 2, *_asked(0)),
        _script(*_opened(3), (_Rogue.ask_globally, b"\1x"), (_Rogue.pump, b"")),
        _script(*_opened(1), (_Rogue.forge, b"\6\1\1\x08" + uint32(4) + b"data")),
    ]


def _agent_scripts() -> list[bytes]:
    up = (*_opened(0), *_asked(0))
    return [
        _script(*up, *(step for number in (2, 3, 4) for step in _asked(number))),
        _script(*up, *_asked(0)),
        *(
            _script(*up, (_Rogue.decide, b"\0"), moods=moods)
            for moods in (0x5555, 0xAAAA, 0xFFFF)
        ),
        _script(*_opened(0), *_asked(1)),
        _script(*_opened(0), *_opened(1)),
        _script(*_opened(2), (_Rogue.wait, b"\xff")),
        _script(
            *up, (_Rogue.write, b"\0\xff" + bytes(255) + b"\1"), (_Rogue.pump, b"")
        ),
        *(
            _script(*up, (_Rogue.decide, bytes([number])), (_Rogue.pump, b""))
            for number in range(6)
        ),
        _script(*up, *[(_Rogue.wait, b"\xff")] * 2),
        _script(*up, (_Rogue.end, b"\0\1"), (_Rogue.pump, b"")),
    ]


def _proxy_scripts() -> list[bytes]:
    write = (_Rogue.write, b"\0\4data\0")
    return [
        *(
            _script(*_opened(number), write, moods=moods)
            for number in range(4)
            for moods in (0, 0x5555, 0xAAAA)
        ),
        _script(*_opened(0), write, (_Rogue.decide, b"\0\0\2"), (_Rogue.pump, b"")),
        _script(*_opened(0), *[(_Rogue.wait, b"\xff"), (_Rogue.pump, b"")] * 3),
        _script((_Rogue.open, b"\0\1\x80\1x\1"), (_Rogue.pump, b"")),
    ]


HARNESSES = (
    Harness(
        "direct_tcpip",
        _direct_tcpip,
        lambda: [
            _direct(host, port)
            for host, port in (
                (b"db.site", 22),
                (b"[2001:db8::1].Site", 65535),
                (b"site", 0),
                (b"x" * 300, 22),
                (b"\xff.site", 22),
            )
        ],
        (OpenRefused, ProtocolError),
        (b".site", b"\xff", b"[", b"]", b"..", b"%", text("site"), uint32(22)),
    ),
    Harness(
        "rogue_client",
        lambda data: _Client(Script(data)).run(),
        _client_scripts,
        is_machine=True,
    ),
    Harness(
        "rogue_agent",
        lambda data: _Agent(Script(data)).run(),
        _agent_scripts,
        is_machine=True,
    ),
    Harness(
        "rogue_proxy",
        lambda data: _Proxy(Script(data)).run(),
        _proxy_scripts,
        is_machine=True,
    ),
)
