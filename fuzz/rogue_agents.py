"""Who asks to serve a cluster and misbehaves: an agent, and a newcomer."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from fuzz.harness import Harness
from fuzz.keys import CA, KEY_BLOBS, NOW, USER, certificate
from fuzz.rogue import UNCHANGED, Moods, Rogue, asked, encode_script, opened
from fuzz.script import Script
from rtunnel.discovery.messages import (
    ACTIVE,
    DiscoveryRequest,
    Drain,
    Heartbeat,
    Hello,
    ProxyAdvert,
    encode,
)
from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.discovery.trust_messages import Renew
from rtunnel.errors import SigningRefused, SigningUnavailable
from rtunnel.proxy.joiner import Joiner
from rtunnel.proxy.tunnel import CONTROL_CHANNEL, TRANSPORT_CHANNEL, Tunnel
from rtunnel.trust.identity import AgentIdentity, Identity, JoinIdentity
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.trust.signing_role import Role
from rtunnel.wire.data_types import text
from rtunnel.wire.keys import PublicKey

_ID = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
_OTHER = "00000000-0000-4000-8000-000000000001"


class _Agent(Rogue):
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
        moods = Moods(script.take(2))
        self.tunnel = Tunnel(identity, self, clock, 5.0, 3, 1.5e9)
        super().__init__(
            script, moods, self.tunnel, clock, _AGENT_OPENS, _AGENT_REQUESTS
        )

    # TunnelOwner.

    def has_lapsed(self, identity: Identity) -> bool:
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

    def own_authority(self) -> PublicKey:
        return CA.public

    def renew(self, tunnel: Tunnel, request: RenewalRequest) -> bool:
        return self.moods.next() < 2

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


_CERTIFICATE = certificate(ca=CA, principals=("site",), extensions=())
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
        Renew(RenewalRequest.make(_CERTIFICATE, USER, NOW)),
    )
)


class _Newcomer(Rogue):
    """The bearer of a token: one session, one command, a key on standard input."""

    def __init__(self, script: Script) -> None:
        moods = Moods(script.take(2))
        self.draining = False
        self.started = 0
        self.ended = 0
        self.joining: list[Deferred[None]] = []
        self.joins = 0
        identity = JoinIdentity("agent", "site", "0123", "rtj-x", "192.0.2.7", NOW)
        clock = Clock()
        joiner = Joiner(identity, self, self, clock)
        super().__init__(
            script, moods, joiner, clock, _NEWCOMER_OPENS, _NEWCOMER_REQUESTS
        )

    # JoinerOwner and Desk.

    def joiner_started(self, joiner: Joiner) -> None:
        self.started += 1

    def joiner_ended(self, joiner: Joiner) -> None:
        self.ended += 1

    async def join(
        self, bearer: JoinIdentity, role: Role, cluster: str, key: PublicKey
    ) -> str:
        self.joins += 1
        assert not self.ended
        assert PublicKey.from_blob(key.blob) == key
        match self.moods.next():
            case 1:
                raise SigningRefused("the token is used up")
            case 2:
                raise SigningUnavailable("nobody here signs")
            case 3:
                waiting: Deferred[None] = Deferred()
                self.joining.append(waiting)
                await waiting
        return "-----BEGIN a-----\n-----END a-----\n"

    def write(self) -> None:
        """A key, or anything."""
        number = self.script.below(len(_KEYS) + 1)
        channel = self._channel()
        if channel is not None and number < len(_KEYS):
            channel.write(self.script.changed(_KEYS[number]))
        else:
            super().write()

    def decide(self) -> None:
        if self.script.below(4) == 3:
            self.draining = not self.draining
        elif self.joining:
            waiting = self.joining.pop()
            if not waiting.called:
                waiting.callback(None)

    def always(self) -> None:
        assert self.joins <= 1

    def check(self) -> None:
        assert self.started == self.ended == 1


_KEYS = tuple(
    PublicKey.from_blob(blob).to_openssh("a comment").encode() + b"\n"
    for blob in KEY_BLOBS
)
_NEWCOMER_OPENS = ((b"session", b""), (b"session", b""), (b"direct-tcpip", b""))
_NEWCOMER_REQUESTS = (
    (b"exec", text("agent")),
    (b"exec", text("agent site")),
    (b"exec", text("proxy")),
    (b"exec", text("")),
    (b"shell", b""),
    (b"env", text("LANG") + text("C")),
)


def _agent_scripts() -> list[bytes]:
    up = (*opened(0), *asked(0))
    return [
        encode_script(
            *up, *(step for number in (2, 3, 4, 5) for step in asked(number))
        ),
        encode_script(*up, *asked(0)),
        *(
            encode_script(*up, (Rogue.decide, b"\0"), moods=moods)
            for moods in (0x5555, 0xAAAA, 0xFFFF)
        ),
        encode_script(*opened(0), *asked(1)),
        encode_script(*opened(0), *opened(1)),
        encode_script(*opened(2), (Rogue.wait, b"\xff")),
        encode_script(
            *up, (Rogue.write, b"\0\xff" + bytes(255) + b"\1"), (Rogue.pump, b"")
        ),
        *(
            encode_script(*up, (Rogue.decide, bytes([number])), (Rogue.pump, b""))
            for number in range(6)
        ),
        encode_script(*up, *[(Rogue.wait, b"\xff")] * 2),
        encode_script(*up, (Rogue.end, b"\0\1"), (Rogue.pump, b"")),
    ]


def _newcomer_scripts() -> list[bytes]:
    write = (Rogue.write, b"\0\0" + UNCHANGED)
    end = ((Rogue.pump, b""), (Rogue.decide, b"\0"), (Rogue.pump, b""))
    return [
        *(
            encode_script(*opened(0), *asked(number), write, *end, moods=moods)
            for number in range(6)
            for moods in (0, 0x5555, 0xAAAA, 0xFFFF)
        ),
        encode_script(*opened(0), *opened(1), *opened(2)),
        encode_script(*opened(0), *[(Rogue.wait, b"\xff")] * 2, *asked(0)),
        encode_script(*opened(0), *asked(0), (Rogue.end, b"\0\0"), (Rogue.pump, b"")),
        encode_script((Rogue.decide, b"\3"), *opened(0)),
    ]


HARNESSES = (
    Harness(
        "rogue_agent",
        lambda data: _Agent(Script(data)).run(),
        _agent_scripts,
        is_machine=True,
    ),
    Harness(
        "rogue_newcomer",
        lambda data: _Newcomer(Script(data)).run(),
        _newcomer_scripts,
        is_machine=True,
    ),
)
