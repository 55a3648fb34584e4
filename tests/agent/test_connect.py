"""From an address to a connection."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent.connect import Connector
from rtunnel.config import Address
from rtunnel.errors import ConnectionFailed
from rtunnel.happy_eyeballs import ATTEMPT_DELAY
from tests.agent.reactors import MemoryReactor, RecordingProtocol, TcpTransport

NAMES = {
    "lb.example.com": ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
    "dual.example.com": ["fd00::1", "10.0.0.1"],
    "proxy.lan": ["10.9.9.9"],
}
THROUGH = {"HTTPS_PROXY": "http://proxy.lan:8080"}


class ConnectorTestCase(SynchronousTestCase):
    """A connector in memory."""

    def setUp(self) -> None:
        """A reactor that knows some names."""
        self.reactor = MemoryReactor(NAMES)

    def connect(
        self,
        address: str,
        rotation: int = 0,
        environ: Mapping[str, str] | None = None,
        trust_root: Certificate | None = None,
    ) -> Deferred[IProtocol]:
        """Begin to connect."""
        connector = Connector(self.reactor, environ or {}, trust_root)
        factory = Factory.forProtocol(RecordingProtocol)
        return Deferred.fromCoroutine(
            connector.connect(Address.parse(address), rotation, factory)
        )


class TcpTests(ConnectorTestCase):
    """Names and their records."""

    def test_dials_take_turns_among_the_records(self) -> None:
        """A name with several records is a balancer too."""
        for rotation in range(4):
            self.connect("lb.example.com:3023", rotation)
        self.assertEqual(
            [host for host, _ in self.reactor.attempts],
            ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"],
        )

    def test_all_records_are_tried(self) -> None:
        """A and AAAA, until one accepts."""
        connecting = self.connect("dual.example.com:3023")
        self.reactor.refuse()
        self.assertEqual(self.reactor.attempts, [("fd00::1", 3023), ("10.0.0.1", 3023)])
        self.reactor.accept()
        self.assertIsInstance(self.successResultOf(connecting), RecordingProtocol)

    def test_record_that_leads_nowhere_costs_a_quarter_of_a_second(self) -> None:
        """And is given up when another accepts."""
        connecting = self.connect("lb.example.com:3023")
        self.reactor.advance(ATTEMPT_DELAY)
        self.reactor.accept(1)
        self.successResultOf(connecting)
        self.assertTrue(self.reactor.given_up(0))
        self.assertEqual(len(self.reactor.attempts), 2)

    def test_dial_that_is_given_up_says_no_more_than_that(self) -> None:
        """Be it to one address or to several; an agent that stops has no defect."""
        for name in ("lb.example.com", "dual.example.com", "10.0.0.9"):
            connecting = self.connect(f"{name}:3023")
            self.assertNoResult(connecting)
            connecting.cancel()
            self.failureResultOf(connecting, CancelledError)

    def test_name_is_resolved_for_every_dial(self) -> None:
        """Its records may have changed."""
        self.connect("lb.example.com:3023")
        self.reactor.resolver.table = {"lb.example.com": ["10.0.0.77"]}
        self.connect("lb.example.com:3023")
        self.assertEqual(self.reactor.attempts[-1], ("10.0.0.77", 3023))

    def test_name_that_does_not_resolve(self) -> None:
        """The sentence names it."""
        failure = self.failureResultOf(self.connect("gone.example.com:1"))
        failure.trap(ConnectionFailed)
        self.assertEqual(str(failure.value), "gone.example.com does not resolve")

    def test_nobody_listens(self) -> None:
        """On none of the addresses."""
        connecting = self.connect("lb.example.com:3023")
        for _ in range(3):
            self.reactor.refuse()
        self.failureResultOf(connecting, ConnectionRefusedError)

    def test_cancelling_gives_up(self) -> None:
        """Whatever is under way."""
        connecting = self.connect("lb.example.com:3023")
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertTrue(self.reactor.given_up(0))
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class HttpProxyTests(ConnectorTestCase):
    """With HTTPS_PROXY set."""

    def test_proxy_is_connected_to_and_asked(self) -> None:
        """Its name is resolved here, that of the balancer there."""
        connecting = self.connect("lb.example.com:3023", environ=THROUGH)
        self.assertEqual(self.reactor.attempts, [("10.9.9.9", 8080)])
        self.assertEqual(self.reactor.resolver.asked, ["proxy.lan"])
        _, transport = self.reactor.accept()
        self.assertIn(b"CONNECT lb.example.com:3023 ", transport.value())
        transport.protocol.dataReceived(b"HTTP/1.1 200 OK\r\n\r\n")
        self.successResultOf(connecting)

    def test_proxy_that_does_not_resolve(self) -> None:
        """It is told apart from the address."""
        environ = {"HTTPS_PROXY": "http://nowhere.lan:8080"}
        connecting = self.connect("lb.example.com:3023", environ=environ)
        failure = self.failureResultOf(connecting, ConnectionFailed)
        self.assertIn("the HTTP proxy nowhere.lan does not", str(failure.value))

    def test_proxy_that_cannot_be_read(self) -> None:
        """The dial fails with the reason."""
        connecting = self.connect(
            "lb.example.com:1", environ={"HTTPS_PROXY": "ftp://x"}
        )
        self.failureResultOf(connecting, ConnectionFailed)


class TlsTests(ConnectorTestCase):
    """Addresses that begin with tls:."""

    def setUp(self) -> None:
        """A certificate for one name."""
        super().setUp()
        self.server = _self_signed("lb.example.com")

    def accept_tls(self) -> tuple[RecordingProtocol, Callable[[], None]]:
        """A TLS server accepts; its own protocol, and what moves the bytes."""
        _, transport = self.reactor.accept()
        self.transport = transport
        own = RecordingProtocol()
        server = TLSMemoryBIOFactory(
            self.server.options(),
            False,
            Factory.forProtocol(lambda: own),
            clock=self.reactor,
        ).buildProtocol(transport.getPeer())
        server_transport = TcpTransport()
        server.makeConnection(server_transport)

        def pump() -> None:
            for _ in range(10):
                self.reactor.advance(0)
                sent, received = transport.value(), server_transport.value()
                transport.clear()
                server_transport.clear()
                if sent:
                    server.dataReceived(sent)
                if received:
                    transport.protocol.dataReceived(received)

        pump()
        return own, pump

    def hang_up(self, *, we_did: bool = True) -> None:
        """The TCP connection ends."""
        self.assertEqual(self.transport.disconnecting, we_did)
        self.transport.protocol.connectionLost(Failure(ConnectionDone()))

    def test_ssh_is_spoken_inside_tls(self) -> None:
        """Once the name has been checked against the certificate."""
        connecting = self.connect(
            "tls:lb.example.com:443", trust_root=_public(self.server)
        )
        self.assertEqual(self.reactor.attempts, [("10.0.0.1", 443)])
        self.assertNoResult(connecting)
        server, pump = self.accept_tls()
        protocol = self.successResultOf(connecting)
        assert isinstance(protocol, Protocol) and protocol.transport is not None
        protocol.transport.write(b"SSH-2.0-a")
        pump()
        self.assertEqual(server.data, b"SSH-2.0-a")
        assert server.transport is not None
        server.transport.write(b"SSH-2.0-b")
        pump()
        self.assertEqual(cast(RecordingProtocol, protocol).data, b"SSH-2.0-b")

    def test_certificate_for_another_name_is_refused(self) -> None:
        """Nothing of SSH was said, and no protocol was made to say it."""
        connecting = self.connect(
            "tls:dual.example.com:443", trust_root=_public(self.server)
        )
        server, _ = self.accept_tls()
        self.hang_up()
        failure = self.failureResultOf(connecting, ConnectionFailed)
        self.assertIn(
            "the TLS certificate of the server is not for dual.example.com",
            failure.getErrorMessage(),
        )
        self.assertEqual(server.data, b"")

    def test_certificate_of_no_trusted_authority_is_refused(self) -> None:
        """The one that counts is another one."""
        other = _self_signed("lb.example.com")
        connecting = self.connect("tls:lb.example.com:443", trust_root=_public(other))
        self.accept_tls()
        self.hang_up()
        failure = self.failureResultOf(connecting, ConnectionFailed)
        self.assertIn("certificate verify failed", failure.getErrorMessage())

    def test_what_is_not_tls_is_refused(self) -> None:
        """An SSH server, for instance."""
        connecting = self.connect("tls:lb.example.com:443")
        _, self.transport = self.reactor.accept()
        self.transport.protocol.dataReceived(b"SSH-2.0-plain\r\n")
        self.hang_up()
        failure = self.failureResultOf(connecting, ConnectionFailed)
        self.assertIn("TLS with lb.example.com failed", failure.getErrorMessage())

    def test_who_hangs_up_is_told_apart(self) -> None:
        """Before there is TLS."""
        connecting = self.connect("tls:lb.example.com:443")
        _, self.transport = self.reactor.accept()
        self.hang_up(we_did=False)
        failure = self.failureResultOf(connecting, ConnectionFailed)
        self.assertIn("before TLS with lb.example.com", failure.getErrorMessage())

    def test_cancelling_during_the_handshake_gives_up(self) -> None:
        """A server that says nothing; the dial has a deadline."""
        connecting = self.connect("tls:lb.example.com:443")
        _, transport = self.reactor.accept()
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertTrue(transport.disconnecting)

    def test_tls_goes_through_the_http_proxy(self) -> None:
        """CONNECT first, TLS inside."""
        connecting = self.connect("tls:lb.example.com:443", environ=THROUGH)
        _, transport = self.reactor.accept()
        self.assertIn(b"CONNECT lb.example.com:443 ", transport.value())
        transport.clear()
        transport.protocol.dataReceived(b"HTTP/1.1 200 OK\r\n\r\n")
        self.assertNoResult(connecting)
        self.assertEqual(transport.value()[:1], b"\x16")


def _self_signed(name: str) -> PrivateCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    loaded: PrivateCertificate = PrivateCertificate.loadPEM(pem)
    return loaded


def _public(certificate: PrivateCertificate) -> Certificate:
    public: Certificate = Certificate.loadPEM(certificate.dumpPEM())
    return public
