"""Joining, from the newcomer's side: whom it believes, and what it does then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from rtunnel.agent import join
from rtunnel.agent.connect import Connector
from rtunnel.agent.join import Joining
from rtunnel.errors import (
    AuthenticationRefused,
    JoinFailed,
    OpenRefused,
    ProtocolError,
)
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ServerFactory
from rtunnel.ssh.host_key import HostKey
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.identity import Identity, JoinIdentity
from rtunnel.trust.join_bundle import encode_bundle
from rtunnel.trust.join_token import TOKEN_REFUSED, JoinLine, new_token
from rtunnel.wire.data_types import uint32
from rtunnel.wire.keys import PrivateKey

HOST_CA = PrivateKey.generate()
OTHER_CA = PrivateKey.generate()
TOKEN = new_token()
FILES = {"host_ca.pub": HOST_CA.public.to_openssh("host_ca") + "\n"}

_reactor: Any = reactor


def host_key(ca: PrivateKey = HOST_CA, now: Callable[[], float] = time.time) -> HostKey:
    """A proxy's key and certificate."""
    key = PrivateKey.generate()
    certificate = CertificateAuthority(ca, now=now).sign_host(
        key.public,
        proxy_id=str(uuid4()),
        cluster="a",
        public_names=["127.0.0.1"],
        validity=3600,
    )
    return HostKey(key, certificate)


class Desk:
    """A proxy as a newcomer sees it; answers with ``answer``.

    :ivar tokens: those that were shown.
    :ivar asked: the commands.
    """

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.asked: list[bytes] = []
        self.answer: tuple[bytes, bytes, int | None] = (
            encode_bundle(FILES).encode(),
            b"",
            0,
        )
        self.refusal: Exception | None = None
        self.connections: list[Connection] = []

    async def check_token(self, token: str, source: str) -> Identity:
        """Keep it."""
        self.tokens.append(token)
        if self.refusal is not None:
            raise self.refusal
        return JoinIdentity("agent", "b", "id", token, source, None)

    def make_handler(self, identity: Identity) -> Desk:
        """Serve whoever has shown one."""
        return self

    def connection_started(self, connection: Connection) -> None:
        """See ``ConnectionHandler``, as for all below."""
        self.connections.append(connection)

    def connection_lost(self, reason: str) -> None:
        """Nothing to do."""

    def global_request(self, name: bytes, data: bytes) -> bytes | None:
        """None."""
        return None

    async def channel_requested(self, request: OpenRequest) -> Attach:
        """One session."""

        def attach(channel: Any) -> None:
            def asked(name: bytes, data: bytes) -> bool:
                self.asked.append(data)
                _reactor.callLater(0, answer)
                return True

            def answer() -> None:
                out, errors, status = self.answer
                if status is None:
                    self.connections[-1].close("a fault")
                    return
                channel.write(out)
                channel.write_stderr(errors)
                channel.send_request(b"exit-status", uint32(status), want_reply=False)
                channel.close()

            channel.on_request = asked

        return attach


class JoinTests(TestCase):
    """One newcomer, and whoever answers where the line leads."""

    timeout = 20

    def setUp(self) -> None:
        self.desk = Desk()
        self.said: list[str] = []
        self.environ: dict[str, str] = {}

    def listen(self, factory: Any) -> int:
        """Serve on a port of this machine."""
        port = _reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def proxy(self, *keys: HostKey) -> int:
        """Somebody who takes tokens."""
        return self.listen(
            ServerFactory(
                clock=_reactor,
                host_keys=keys or [host_key()],
                identify=self.nobody,
                make_handler=self.desk.make_handler,
                check_token=self.desk.check_token,
            )
        )

    def nobody(self, algorithm: bytes, blob: bytes, source: str) -> Identity:
        """No key is known."""
        raise AuthenticationRefused("nobody")

    async def join(self, *ports: int, **changes: Any) -> dict[str, str]:
        """Join, at each of these ports in turn."""
        fields: dict[str, Any] = {
            "kind": "agent",
            "cluster": "b",
            "addresses": tuple(f"127.0.0.1:{port}" for port in ports),
            "host_cas": (HOST_CA.public.fingerprint,),
            "token": TOKEN,
        }
        joining = Joining(
            JoinLine(**fields | changes),
            PrivateKey.generate().public,
            reactor=_reactor,
            connector=Connector(_reactor, self.environ),
            now=time.time,
            progress=self.said.append,
        )
        try:
            return await joining.run()
        finally:
            for connection in self.desk.connections:
                connection.close()

    async def refusal(self, *ports: int, **changes: Any) -> str:
        """Why that does not work."""
        with self.assertRaises(JoinFailed) as caught:
            await self.join(*ports, **changes)
        self.assertNotIn("\n", str(caught.exception))
        self.assertNotIn(TOKEN, str(caught.exception))
        return str(caught.exception)

    async def test_a_genuine_proxy_gets_the_token_and_answers(self) -> None:
        """Once, and with each step told."""
        self.assertEqual(await self.join(self.proxy()), FILES)
        self.assertEqual(self.desk.tokens, [TOKEN])
        self.assertEqual(self.desk.asked, [uint32(7) + b"agent b"])
        self.assertEqual(len(self.said), 3)
        self.assertIn("is genuine", self.said[1])

    async def test_a_proxy_is_asked_for_a_proxy(self) -> None:
        """By the kind in the line."""
        await self.join(self.proxy(), kind="proxy", cluster="a")
        self.assertEqual(self.desk.asked, [uint32(5) + b"proxy"])

    async def test_whoever_is_not_genuine_does_not_get_the_token(self) -> None:
        """Another authority, a plain key, an expired certificate, one that certifies
        something else; and no further address is tried."""
        genuine = self.proxy()
        agent = PrivateKey.generate()
        as_agent = CertificateAuthority(HOST_CA, now=time.time).sign_agent(
            agent.public, cluster="b", instance=str(uuid4()), validity=60
        )
        for key, said in (
            (host_key(OTHER_CA), "is of the authority SHA256:"),
            (HostKey(PrivateKey.generate()), "no host certificate"),
            (host_key(now=lambda: time.time() - 7200), "expired"),
            (host_key(now=lambda: time.time() + 7200), "not valid"),
            (HostKey(agent, as_agent), "host"),
        ):
            reason = await self.refusal(self.proxy(key), genuine)
            self.assertIn(said, reason)
            self.assertIn("not sent and is still good", reason)
        self.assertEqual(self.desk.tokens, [])
        await self.join(genuine)

    async def test_a_wrong_fingerprint_stops_it(self) -> None:
        """Before the token is sent."""
        wrong = (OTHER_CA.public.fingerprint,)
        reason = await self.refusal(self.proxy(), host_cas=wrong)
        self.assertIn(HOST_CA.public.fingerprint, reason)
        self.assertIn(OTHER_CA.public.fingerprint, reason)
        self.assertEqual(self.desk.tokens, [])

    async def test_any_of_several_fingerprints_will_do(self) -> None:
        """While the host authority is being rotated."""
        both = (OTHER_CA.public.fingerprint, HOST_CA.public.fingerprint)
        await self.join(self.proxy(), host_cas=both)
        await self.join(self.proxy(host_key(OTHER_CA)), host_cas=both)

    async def test_the_next_address_is_tried(self) -> None:
        """When nobody answers at one, or nothing that is SSH."""
        closed = _reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        number = closed.getHost().port
        await closed.stopListening()
        self.assertEqual(
            await self.join(number, self.listen(Chatty()), self.proxy()), FILES
        )
        self.assertEqual(self.desk.tokens, [TOKEN])

    async def test_it_goes_through_an_http_proxy(self) -> None:
        """Which resolves the name."""
        http = HttpProxy(self.proxy())
        self.environ["HTTPS_PROXY"] = f"http://127.0.0.1:{self.listen(http)}"
        await self.join(addresses=("lb.example.com:3023",))
        self.assertEqual(http.asked, [b"CONNECT lb.example.com:3023 HTTP/1.1"])
        self.environ["NO_PROXY"] = "example.com"
        reason = await self.refusal(addresses=("lb.example.invalid.example.com",))
        self.assertIn("does not resolve", reason)

    async def test_silence_does_not_last_for_ever(self) -> None:
        """Neither before nor after the login."""
        self.patch(join, "LOGIN_TIMEOUT", 0.2)
        self.patch(join, "ANSWER_TIMEOUT", 0.2)
        silent = self.listen(Factory.forProtocol(Protocol))
        self.assertIn("does not finish the login", await self.refusal(silent))
        self.desk.answer = b"", b"", 0
        self.patch(self.desk, "channel_requested", lambda request: Deferred())
        reason = await self.refusal(self.proxy())
        self.assertIn("has not answered", reason)
        self.assertIn("may be used up", reason)

    async def test_a_refused_token_is_told_as_the_proxy_would(self) -> None:
        """Whether at the login or later; no other address is asked."""
        self.desk.refusal = AuthenticationRefused("used up")
        port = self.proxy()
        self.assertEqual(await self.refusal(port, port), TOKEN_REFUSED)
        self.assertEqual(self.desk.tokens, [TOKEN])
        self.desk.refusal = None
        self.desk.answer = b"", f"rtunnel: {TOKEN_REFUSED}\n".encode(), 1
        self.assertEqual(await self.refusal(port, port), TOKEN_REFUSED)

    async def test_a_proxy_that_cannot_tell_leads_on(self) -> None:
        """Its registry is away; another one may reach it."""
        self.desk.refusal = ProtocolError("tokens cannot be checked", 7)
        reason = await self.refusal(self.proxy())
        self.assertIn("tokens cannot be checked", reason)
        self.assertIn("was not used", reason)

    async def test_a_proxy_that_is_leaving_leads_on(self) -> None:
        """It takes the token, but no session."""

        async def refuse(request: OpenRequest) -> Attach:
            raise OpenRefused(4, "this proxy is shutting down")

        self.patch(self.desk, "channel_requested", refuse)
        reason = await self.refusal(self.proxy())
        self.assertIn("shutting down", reason)
        self.assertIn("was not used", reason)

    async def test_no_authority_is_taken_over_that_the_line_does_not_name(self) -> None:
        """A genuine proxy in wrong hands would be believed for ever."""
        port = self.proxy()
        lines = [key.public.to_openssh("host_ca") for key in (OTHER_CA, HOST_CA)]
        for keys, expected in ((lines, FILES), (lines[:1], None), ([], None)):
            files = {"host_ca.pub": "".join(f"{line}\n" for line in keys)}
            self.desk.answer = (encode_bundle(files).encode(), b"", 0)
            if expected is not None:
                self.assertEqual(await self.join(port), expected)
                continue
            refused = await self.refusal(port)
            self.assertIn("no authority that the line names", refused)

    async def test_an_answer_that_is_none_is_told(self) -> None:
        """Cut off, or not a bundle; what a proxy says is made printable."""
        port = self.proxy()
        for answer, said in (
            ((b"hello", b"", 0), "cannot be read"),
            ((b"", b"", 1), "without an answer"),
            ((b"", b"", None), "connection broke"),
            ((b"", b"a \x1b[2J b\n", 1), r"a \x1b[2J b"),
        ):
            self.desk.answer = answer
            self.assertIn(said, await self.refusal(port))


class HttpProxy(Factory):
    """Serves CONNECT to whatever name, and leads to one port of this machine.

    :ivar asked: the first lines of the requests.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[bytes] = []

    def buildProtocol(self, addr: object) -> Protocol:
        """One connection."""
        return _Connected(self)


class _Connected(Protocol):
    """Waits for the request, then passes bytes on."""

    def __init__(self, proxy: HttpProxy) -> None:
        self._proxy = proxy
        self._head = b""
        self._far: Any = None

    def dataReceived(self, data: bytes) -> None:
        """The request, or what is inside."""
        if self._far is not None:
            self._far.transport.write(data)
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._proxy.asked.append(self._head.split(b"\r\n")[0])
            far = Factory.forProtocol(lambda: _Far(self))
            endpoint = TCP4ClientEndpoint(_reactor, "127.0.0.1", self._proxy.port)
            endpoint.connect(far).addCallback(self._connected)

    def _connected(self, far: Any) -> None:
        self._far = far
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 200 OK\r\n\r\n")

    def connectionLost(self, reason: Any = None) -> None:
        """Hang up on the other side, too."""
        if self._far is not None:
            self._far.transport.loseConnection()


class _Far(Protocol):
    """The other half."""

    def __init__(self, near: Protocol) -> None:
        self._near: Any = near

    def dataReceived(self, data: bytes) -> None:
        """Pass it on."""
        self._near.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        """Hang up."""
        self._near.transport.loseConnection()


class Chatty(Factory):
    """Speaks something else."""

    def buildProtocol(self, addr: object) -> Protocol:
        """Say so at once."""
        protocol = Protocol()
        _reactor.callLater(0.05, lambda: _say(protocol))
        return protocol


def _say(protocol: Protocol) -> None:
    if protocol.transport is not None:
        protocol.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        protocol.transport.loseConnection()
