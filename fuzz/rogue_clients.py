"""Who asks a proxy for targets and misbehaves: a client, and another proxy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from fuzz.harness import Harness
from fuzz.keys import USER
from fuzz.rogue import UNCHANGED, Moods, Rogue, asked, encode_script, opened
from fuzz.script import Script
from rtunnel.audit.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    Event,
)
from rtunnel.discovery.peer_request import PeerRequest
from rtunnel.errors import AuthenticationRefused, OpenRefused, ProtocolError
from rtunnel.naming import Target, check_cluster
from rtunnel.proxy.client import Client
from rtunnel.proxy.dispatch import Dispatcher, Reached
from rtunnel.proxy.peer import Peer
from rtunnel.proxy.status import status_document
from rtunnel.proxy.target_connections import TargetConnection
from rtunnel.proxy.tunnel import TRANSPORT_CHANNEL
from rtunnel.registry.records import ProxyRecord, TunnelRecord
from rtunnel.ssh.connection import OpenRequest
from rtunnel.testing import MemoryStream
from rtunnel.trust.identity import Identity, PeerIdentity, UserIdentity
from rtunnel.trust.login_proof import CONNECTION_SERVICE, LoginProof, signed_data
from rtunnel.wire.data_types import string, text, uint32

_ID = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
_OTHER = "00000000-0000-4000-8000-000000000001"
_USER = UserIdentity("alice", ("alice",), "alice", "SHA256:x", "192.0.2.7", None, None)


class _Dispatcher:
    """Stands for the way to all targets."""

    def __init__(self, script: Script, moods: Moods) -> None:
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
                    self.joined[script.below(len(self.joined))].end()

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

    def has_lapsed(self, identity: Identity) -> bool:
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


class _Client(Rogue):
    """A client that has logged in: ``direct-tcpip`` and sessions."""

    def __init__(self, script: Script) -> None:
        self.owner = _Owner()
        moods = Moods(script.take(2))
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
    dispatcher = _Dispatcher(Script(b""), Moods(b""))
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


class _Proxy(Rogue):
    """Another proxy: clients that it passes on, and questions of its own."""

    def __init__(self, script: Script) -> None:
        self.owner = _Owner()
        moods = Moods(script.take(2))
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


def _client_scripts() -> list[bytes]:
    write = (Rogue.write, b"\0\4data\0")
    data = ((Rogue.decide, b"\0\0\0\4data"), (Rogue.pump, b""), write)
    eof = ((Rogue.decide, b"\0\0\1"), (Rogue.end, b"\0\0"), (Rogue.pump, b""))
    return [
        *(encode_script(*opened(0), *asked(number)) for number in range(9)),
        encode_script(*opened(1), *data, *data, *eof),
        encode_script(*opened(1), *data, (Rogue.decide, b"\0\0\3"), (Rogue.pump, b"")),
        encode_script(*opened(2), (Rogue.wait, b"\xff"), (Rogue.decide, b"\0\0\4")),
        encode_script(*opened(0), *[(Rogue.wait, b"\xff")] * 2, *asked(0)),
        # Asks, and has closed the channel before the answer.
        encode_script(
            *opened(0),
            (Rogue.ask, b"\0\0" + UNCHANGED + b"\1"),
            (Rogue.end, b"\0\1"),
            *[(Rogue.pump, b""), (Rogue.wait, b"\1")] * 2,
        ),
        # The data of a channel open, without its first length.
        encode_script((Rogue.open, b"\1\1\0\0\4"), (Rogue.pump, b"")),
        encode_script(*opened(3), (Rogue.ask_globally, b"\1x"), (Rogue.pump, b"")),
        encode_script(*opened(1), (Rogue.forge, b"\6\1\1\x08" + uint32(4) + b"data")),
    ]


def _proxy_scripts() -> list[bytes]:
    write = (Rogue.write, b"\0\4data\0")
    return [
        *(
            encode_script(*opened(number), write, moods=moods)
            for number in range(4)
            for moods in (0, 0x5555, 0xAAAA)
        ),
        encode_script(*opened(0), write, (Rogue.decide, b"\0\0\2"), (Rogue.pump, b"")),
        encode_script(*opened(0), *[(Rogue.wait, b"\xff"), (Rogue.pump, b"")] * 3),
        encode_script((Rogue.open, b"\0\1\x80\1x\1"), (Rogue.pump, b"")),
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
        "rogue_proxy",
        lambda data: _Proxy(Script(data)).run(),
        _proxy_scripts,
        is_machine=True,
    ),
)
