"""Tests for :mod:`rtunnel.ssh.factory`, over real sockets."""

from __future__ import annotations

import datetime
import functools
import socket
from collections.abc import Callable
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL.crypto import X509, PKey
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.interfaces import (
    IListeningPort,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.protocols.haproxy import proxyEndpoint
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from rtunnel.errors import (
    AuthenticationFailed,
    AuthenticationRefused,
    ConnectionFailed,
    HostRefused,
)
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Connection
from rtunnel.ssh.factory import ClientFactory, ServerFactory
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.testing import AcceptingHandler, RecordingHandler, RecordingReceiver
from rtunnel.trust.identity import Identity
from rtunnel.wire.keys import PrivateKey, PublicKey
from tests.ssh.transports import HOST_KEY, USER_KEY, believe, identity

# The module is typed as the module it replaces.
reactor: Any = global_reactor


def tls_options() -> CertificateOptions:
    """A self-signed certificate, as good as any here."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return CertificateOptions(
        privateKey=PKey.from_cryptography_key(key),
        certificate=X509.from_cryptography(certificate),
    )


class Talker(Protocol):
    """Says one thing and keeps what it hears."""

    def __init__(self, first: bytes = b"") -> None:
        self.heard = b""
        self.closed: Deferred[None] = Deferred()
        self._first = first

    def connectionMade(self) -> None:
        """Say it."""
        if self._first:
            cast(Any, self.transport).write(self._first)

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.heard += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Tell."""
        self.closed.callback(None)


def has_heard(talker: Talker) -> bool:
    """Whether the server has said anything."""
    return bool(talker.heard)


class FactoryCase(TestCase):
    """A listening server, and clients for it."""

    timeout = 20

    def setUp(self) -> None:
        """Who logged in and where they came from."""
        self.sources: list[str] = []
        self.handlers: list[AcceptingHandler] = []
        self.factory = self.make_factory(DEFAULT_LIMITS)

    def make_factory(self, limits: TransportLimits) -> ServerFactory:
        """A server factory that lets :data:`USER_KEY` in."""
        return ServerFactory(
            clock=reactor,
            host_keys=[HostKey(HOST_KEY)],
            identify=self.identify,
            make_handler=self.make_handler,
            limits=limits,
        )

    def identify(self, algorithm: bytes, blob: bytes, source: str) -> Identity:
        """Keep the source."""
        if blob != USER_KEY.public.blob:
            raise AuthenticationRefused("nobody's key")
        self.sources.append(source)
        return identity()

    def make_handler(self, who: Identity) -> AcceptingHandler:
        """Keep the handler."""
        self.handlers.append(AcceptingHandler())
        return self.handlers[-1]

    async def listen(
        self,
        limits: TransportLimits = DEFAULT_LIMITS,
        wrap: Callable[[Any], Any] = lambda endpoint: endpoint,
    ) -> int:
        """Listen on a free port and return it."""
        self.factory = self.make_factory(limits)
        endpoint: IStreamServerEndpoint = wrap(
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        )
        port: IListeningPort = await endpoint.listen(self.factory)
        self.addCleanup(port.stopListening)
        return cast(int, cast(Any, port.getHost()).port)

    def client_factory(
        self,
        key: PrivateKey = USER_KEY,
        check_host: Callable[[bytes, bytes], Any] = believe,
        limits: TransportLimits = DEFAULT_LIMITS,
    ) -> ClientFactory:
        """One that knows the right key unless told otherwise."""
        return ClientFactory(
            clock=reactor,
            username="x",
            key=key,
            certificate=None,
            check_host=check_host,
            handler=RecordingHandler(),
            limits=limits,
        )

    async def connect(
        self,
        port: int,
        factory: ClientFactory | None = None,
        wrap: Callable[[Any], Any] = lambda endpoint: endpoint,
    ) -> Connection:
        """Connect, log in, and see that it is gone when the test is over."""
        endpoint: IStreamClientEndpoint = wrap(
            TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        )
        transport = await endpoint.connect(factory or self.client_factory())
        assert hasattr(transport, "ready")
        connection: Connection = await transport.ready
        self.addCleanup(connection.close)
        return connection

    async def talk(self, port: int, first: bytes = b"") -> Talker:
        """Open a plain TCP connection."""
        talker = Talker(first)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        await connectProtocol(endpoint, talker)
        self.addCleanup(talker.transport.abortConnection)  # type: ignore[union-attr]
        return talker

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to come true."""
        while not condition():
            await deferLater(reactor, 0.005, lambda: None)

    async def move(self, connection: Connection, size: int) -> None:
        """Move bytes up and down a channel at the same time, and compare them."""
        channel = await connection.open_channel(b"test")
        await self.until(lambda: bool(self.handlers[-1].channels))
        other = self.handlers[-1].channels[-1]
        up, down = bytes(range(256)) * (size // 256), bytes(size)
        pairs: list[tuple[Channel, bytes, RecordingReceiver]] = []
        for origin, target, data in ((channel, other, up), (other, channel, down)):
            receiver = RecordingReceiver()
            target.start(receiver)
            pairs.append((origin, data, receiver))
        for origin, data, _ in pairs:
            for index in range(0, size, 30_000):
                origin.write(data[index : index + 30_000])
            origin.write_eof()
        await self.until(lambda: all(receiver.has_eof for *_, receiver in pairs))
        for _, data, receiver in pairs:
            self.assertEqual(len(receiver.data), size)
            self.assertTrue(bytes(receiver.data) == data)


class ConnectionTests(FactoryCase):
    """Our client and our server."""

    async def test_log_in_and_move_data(self) -> None:
        """Both ways at once, and goodbye."""
        connection = await self.connect(await self.listen())
        await self.move(connection, 2**20)
        self.assertEqual(self.sources, ["127.0.0.1"])
        connection.close("bye")
        await self.until(lambda: bool(self.handlers[0].lost))
        self.assertEqual(self.handlers[0].lost, ["the peer disconnected: bye"])

    async def test_keys_are_renewed_under_load(self) -> None:
        """Every megabyte, by both ends, with data waiting both ways."""
        limits = TransportLimits(rekey_bytes=2**20)
        port = await self.listen(limits)
        connection = await self.connect(port, self.client_factory(limits=limits))
        await self.move(connection, 12 * 2**20)
        self.assertGreaterEqual(cast(Any, connection.transport).exchanges.completed, 10)
        self.assertTrue(connection.is_open)

    async def test_over_tls(self) -> None:
        """What the address ``tls:host:port`` leads to."""
        options = tls_options()

        class Wrapped:
            def __init__(self, endpoint: IStreamServerEndpoint) -> None:
                self.endpoint = endpoint

            def listen(self, factory: Any) -> Any:
                return self.endpoint.listen(
                    TLSMemoryBIOFactory(options, False, factory)
                )

        port = await self.listen(wrap=Wrapped)
        connection = await self.connect(
            port,
            wrap=lambda endpoint: wrapClientTLS(
                cast(Any, CertificateOptions(verify=False)), endpoint
            ),
        )
        await self.move(connection, 2**20)
        self.assertEqual(self.sources, ["127.0.0.1"])
        connection.close("bye")
        await self.until(lambda: bool(self.handlers[0].lost))

    async def test_over_a_unix_socket(self) -> None:
        """A peer without an address."""
        path = self.mktemp()[-90:]
        port = await UNIXServerEndpoint(reactor, path).listen(self.factory)
        self.addCleanup(port.stopListening)
        transport = await UNIXClientEndpoint(reactor, path).connect(
            self.client_factory()
        )
        connection = await cast(Any, transport).ready
        await self.move(connection, 2**16)
        self.assertEqual(self.sources, [""])
        connection.close()
        await self.until(lambda: bool(self.handlers[0].lost))

    async def test_host_keys_may_be_asked_for_each_time(self) -> None:
        """So that a renewed certificate is used without a restart."""
        keys = [PrivateKey.generate(), PrivateKey.generate()]
        factory = ServerFactory(
            clock=reactor,
            host_keys=lambda: [HostKey(keys[len(seen)])],
            identify=self.identify,
            make_handler=self.make_handler,
        )
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        seen: list[bytes] = []

        def check_host(algorithm: bytes, blob: bytes) -> PublicKey:
            seen.append(blob)
            return PublicKey.from_blob(blob)

        for _ in keys:
            await self.connect(
                port.getHost().port, self.client_factory(check_host=check_host)
            )
        self.assertEqual(seen, [key.public.blob for key in keys])


class AdmissionTests(FactoryCase):
    """Who may stay without having logged in."""

    LIMITS = TransportLimits(unauthenticated=3, unauthenticated_per_source=2)

    async def test_too_many_from_one_source(self) -> None:
        """The third hears why, and the first two are not disturbed."""
        port = await self.listen(self.LIMITS)
        stay = [await self.talk(port) for _ in range(2)]
        await self.until(lambda: self.factory.unauthenticated == 2)
        third = await self.talk(port)
        await self.until(lambda: b"too many connections" in third.heard)
        self.assertTrue(third.heard.startswith(b"SSH-2.0-rtunnel\r\n"))
        self.assertEqual(self.factory.unauthenticated, 2)
        self.assertFalse(any(talker.closed.called for talker in stay))

    async def test_our_client_hears_why(self) -> None:
        """It is told in plain words before any key exchange."""
        port = await self.listen(TransportLimits(unauthenticated_per_source=1))
        await self.talk(port)
        failure = await self.failure(self.connect(port))
        self.assertIs(failure.type, ConnectionFailed)
        self.assertIn("too many connections", str(failure.value))

    async def test_those_who_logged_in_do_not_count(self) -> None:
        """However many they are."""
        port = await self.listen(self.LIMITS)
        for _ in range(5):
            await self.connect(port)
        self.assertEqual(self.factory.unauthenticated, 0)

    async def test_every_way_out_is_counted(self) -> None:
        """After each of them there is as much room as before."""

        def refuse_host(algorithm: bytes, blob: bytes) -> PublicKey:
            raise HostRefused("no")

        limits = TransportLimits(
            unauthenticated=1, unauthenticated_per_source=1, login_grace=0.2
        )
        port = await self.listen(limits)

        async def empty() -> None:
            await self.until(lambda: self.factory.unauthenticated == 0)

        stranger = self.client_factory(PrivateKey.generate())
        failure = await self.failure(self.connect(port, stranger))
        self.assertIs(failure.type, AuthenticationFailed)
        await empty()
        suspicious = self.client_factory(check_host=refuse_host)
        failure = await self.failure(self.connect(port, suspicious))
        self.assertIs(failure.type, HostRefused)
        await empty()
        # A fault of the peer's.
        talker = await self.talk(port, b"GET / HTTP/1.1\r\n")
        await self.until(lambda: b"this is not SSH" in talker.heard)
        cast(Any, talker.transport).loseConnection()
        await empty()
        # A peer that goes away.
        talker = await self.talk(port, b"SSH-2.0-x\r\n")
        await self.until(lambda: self.factory.unauthenticated == 1)
        cast(Any, talker.transport).loseConnection()
        await empty()
        # One that is cut off, without a word.
        talker = await self.talk(port)
        await self.until(lambda: self.factory.unauthenticated == 1)
        cast(Any, talker.transport).abortConnection()
        await empty()
        # One that stays, silent, until its grace is over.
        talker = await self.talk(port)
        await self.until(lambda: b"within 0.2 seconds" in talker.heard)
        cast(Any, talker.transport).loseConnection()
        await empty()
        # And one that logs in.
        await self.connect(port)
        await empty()
        await self.connect(port)

    async def test_a_refusal_is_heard_by_who_is_talking(self) -> None:
        """TCP must not throw it away because there is something left to read."""
        port = await self.listen(TransportLimits(unauthenticated_per_source=1))
        await self.talk(port)
        talker = await self.talk(port, b"SSH-2.0-x\r\n" + bytes(100_000))
        await self.until(lambda: b"too many connections" in talker.heard)

    async def test_in_a_flood_most_are_cut_off(self) -> None:
        """Only as many are told why as may be let in."""
        port = await self.listen(self.LIMITS)
        heard: list[bytes] = []
        flood = [socket.create_connection(("127.0.0.1", port)) for _ in range(12)]
        for connection in flood:
            self.addCleanup(connection.close)
            connection.setblocking(False)

        def listen() -> bool:
            for connection in flood[:]:
                try:
                    heard.append(connection.recv(4096))
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    heard.append(b"")
                flood.remove(connection)
            return not flood

        await self.until(listen)
        told = [data for data in heard if b"too many" in data]
        # Two are let in, three hear why not, the others nothing.
        self.assertEqual((len(told), heard.count(b"")), (3, 7))

    async def test_draining_refuses_newcomers(self) -> None:
        """Who is there stays; who comes hears that we are going away."""
        port = await self.listen()
        connection = await self.connect(port)
        self.assertFalse(self.factory.draining)
        self.factory.draining = True
        failure = await self.failure(self.connect(port))
        self.assertEqual(
            str(failure.value), "the peer disconnected: this proxy is going away"
        )
        await self.move(connection, 2**16)

    async def test_the_proxy_protocol_names_the_source(self) -> None:
        """By which it is counted, and not by the load balancer's address."""
        port = await self.listen(self.LIMITS, wrap=proxyEndpoint)

        def header(source: str) -> bytes:
            return f"PROXY TCP4 {source} 192.0.2.100 1 2\r\n".encode()

        for source in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
            talker = await self.talk(port, header(source) + b"SSH-2.0-x\r\n")
            await self.until(functools.partial(has_heard, talker))
        self.assertEqual(self.factory.unauthenticated, 3)
        limits = TransportLimits(unauthenticated_per_source=2)
        port = await self.listen(limits, wrap=proxyEndpoint)
        for _ in range(2):
            talker = await self.talk(port, header("192.0.2.1") + b"SSH-2.0-x\r\n")
            await self.until(functools.partial(has_heard, talker))
        talker = await self.talk(port, header("192.0.2.1") + b"SSH-2.0-x\r\n")
        await self.until(lambda: b"too many connections" in talker.heard)
        self.assertEqual(self.factory.unauthenticated, 2)

    async def test_the_proxy_protocol_names_the_user_s_source(self) -> None:
        """To who decides on the login."""
        port = await self.listen(wrap=proxyEndpoint)
        factory = self.client_factory()

        class BehindBalancer(Protocol):
            """Sends the header, then is an SSH client."""

            def connectionMade(self) -> None:
                transport = cast(Any, self.transport)
                transport.write(b"PROXY TCP4 198.51.100.7 192.0.2.100 1 2\r\n")
                self.client = factory.buildProtocol(None)
                self.dataReceived = self.client.dataReceived  # type: ignore[method-assign]
                self.connectionLost = self.client.connectionLost  # type: ignore[method-assign]
                self.client.makeConnection(transport)

        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        protocol = await connectProtocol(endpoint, BehindBalancer())
        connection = await protocol.client.ready
        self.assertEqual(self.sources, ["198.51.100.7"])
        connection.close()
        await self.until(lambda: bool(self.handlers[0].lost))

    async def failure(self, attempt: Any) -> Failure:
        """How an attempt to connect fails."""
        try:
            await attempt
        except Exception:
            return Failure()
        raise AssertionError("connected")
