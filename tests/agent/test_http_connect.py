"""Out through an HTTP proxy."""

from __future__ import annotations

from base64 import b64encode

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent.http_connect import (
    MAX_HEAD,
    MAX_INTERIM,
    HttpConnectEndpoint,
    HttpProxy,
    http_proxy_for,
)
from rtunnel.config import Address
from rtunnel.errors import ConnectionFailed
from tests.agent.reactors import MemoryReactor, RecordingProtocol, TcpTransport

LB = Address("lb.example.com", 3023)
PROXY = {"HTTPS_PROXY": "http://proxy.lan:8080"}


class ProxyChoiceTests(SynchronousTestCase):
    """Which HTTP proxy, if any."""

    def chosen(self, /, **environ: str) -> str:
        """The proxy for the balancer as host:port, or nothing."""
        return self.chosen_for(LB, environ)

    def chosen_for(self, address: Address, environ: dict[str, str]) -> str:
        """The proxy for an address as host:port, or nothing."""
        proxy = http_proxy_for(address, environ)
        return "" if proxy is None else f"{proxy.host}:{proxy.port}"

    def test_none_without_the_variable(self) -> None:
        """An empty one is none either."""
        self.assertEqual(self.chosen(), "")
        self.assertEqual(self.chosen(HTTPS_PROXY=" "), "")
        self.assertEqual(self.chosen(HTTP_PROXY="http://other:1"), "")

    def test_upper_case_comes_first(self) -> None:
        """Both spellings are read."""
        self.assertEqual(self.chosen(https_proxy="low:1"), "low:1")
        self.assertEqual(self.chosen(https_proxy="low:1", HTTPS_PROXY="up:2"), "up:2")

    def test_forms_of_the_url(self) -> None:
        """The scheme and the port may be missing; IPv6 is in brackets."""
        self.assertEqual(self.chosen(HTTPS_PROXY="http://p.lan"), "p.lan:1080")
        self.assertEqual(self.chosen(HTTPS_PROXY="p.lan:3128"), "p.lan:3128")
        self.assertEqual(self.chosen(HTTPS_PROXY="http://[fd00::1]:8/"), "fd00::1:8")

    def test_urls_that_are_refused_do_not_show_the_password(self) -> None:
        """The error is logged."""
        for url in (
            "socks5://u:geheim@p:1",
            "https://u:geheim@p",
            "http://u:geheim@p:x",
        ):
            error = self.assertRaises(ConnectionFailed, self.chosen, HTTPS_PROXY=url)
            self.assertNotIn("geheim", str(error))

    def test_password_is_in_no_repr(self) -> None:
        """Values get printed."""
        proxy = HttpProxy.parse("http://user:geheim@p:1")
        self.assertEqual(
            proxy.authorization, f"Basic {b64encode(b'user:geheim').decode()}"
        )
        self.assertNotIn(proxy.authorization, repr(proxy))

    def test_user_and_password_are_unquoted(self) -> None:
        """A URL cannot hold an @ as it is."""
        proxy = HttpProxy.parse("http://us%40er:p%3Aw@p:1")
        self.assertIn(b64encode(b"us@er:p:w").decode(), proxy.authorization)

    def test_a_password_may_be_any_bytes(self) -> None:
        """The environment has no encoding."""
        proxy = HttpProxy.parse("http://us\udcffer:p@p:1")
        self.assertIn(b64encode(b"us\xffer:p").decode(), proxy.authorization)

    def test_exemptions(self) -> None:
        """Names with what is below them, addresses, networks, ports, or all."""
        for exempt, host, is_exempt in (
            ("*", "lb.example.com", True),
            ("example.com", "lb.example.com", True),
            (".example.com", "lb.example.com", True),
            ("*.example.com", "lb.example.com", True),
            ("EXAMPLE.com", "lb.example.com", True),
            ("lb.example.com", "lb.example.com", True),
            ("a, lb.example.com ,b", "lb.example.com", True),
            ("lb.example.com:3023", "lb.example.com", True),
            ("lb.example.com:22", "lb.example.com", False),
            ("ample.com", "lb.example.com", False),
            ("lb", "lb.example.com", False),
            ("", "lb.example.com", False),
            ("10.0.0.0/8", "10.1.2.3", True),
            ("10.1.2.3", "10.1.2.3", True),
            ("10.0.0.0/8", "11.1.2.3", False),
            ("fd00::/8", "fd00::1", True),
            ("[fd00::1]", "fd00::1", True),
        ):
            environ = {"NO_PROXY": exempt, **PROXY}
            chosen = self.chosen_for(Address(host, 3023), environ)
            self.assertEqual(chosen == "", is_exempt, f"{host} with {exempt!r}")
        self.assertEqual(self.chosen(no_proxy="*", **PROXY), "")

    def test_own_host_never_goes_through_a_proxy(self) -> None:
        """The proxy's own host is another."""
        for host in ("localhost", "127.0.0.1", "127.3.2.1", "::1"):
            self.assertEqual(self.chosen_for(Address(host, 1), PROXY), "")


class ConnectTests(SynchronousTestCase):
    """The CONNECT method."""

    def connect(
        self, address: Address = LB, proxy: HttpProxy | None = None
    ) -> Deferred[IProtocol]:
        """Begin to connect through a proxy."""
        self.reactor = MemoryReactor()
        endpoint = HttpConnectEndpoint(
            TCP4ClientEndpoint(self.reactor, "10.0.0.1", 8080),
            proxy or HttpProxy("10.0.0.1", 8080),
            address,
        )
        return endpoint.connect(Factory.forProtocol(RecordingProtocol))

    def answered(self, *answers: bytes) -> tuple[Deferred[IProtocol], TcpTransport]:
        """Connect, and have the proxy answer in these pieces."""
        connecting = self.connect()
        _, transport = self.reactor.accept()
        for answer in answers:
            transport.protocol.dataReceived(answer)
        return connecting, transport

    def failed(self, connecting: Deferred[IProtocol]) -> str:
        """The sentence that connecting failed with."""
        return str(self.failureResultOf(connecting, ConnectionFailed).value)

    def test_request(self) -> None:
        """The name is the proxy's to resolve."""
        connecting = self.connect()
        _, transport = self.reactor.accept()
        self.assertEqual(
            transport.value(),
            b"CONNECT lb.example.com:3023 HTTP/1.1\r\n"
            b"Host: lb.example.com:3023\r\n\r\n",
        )
        self.assertNoResult(connecting)

    def test_request_with_password_and_ipv6(self) -> None:
        """RFC 9110 section 9.3.6 and 11.7.2."""
        proxy = HttpProxy.parse("http://u:p@10.0.0.1:8080")
        self.connect(Address("fd00::1", 443, tls=True), proxy)
        _, transport = self.reactor.accept()
        self.assertEqual(
            transport.value(),
            b"CONNECT [fd00::1]:443 HTTP/1.1\r\nHost: [fd00::1]:443\r\n"
            b"Proxy-Authorization: Basic " + b64encode(b"u:p") + b"\r\n\r\n",
        )

    def test_established(self) -> None:
        """From then on the bytes are the protocol's, in whatever pieces they come."""
        answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nSSH-2.0-a\r\n"
        for cut in range(len(answer) + 1):
            connecting, transport = self.answered(answer[:cut], answer[cut:])
            protocol = self.successResultOf(connecting)
            assert isinstance(protocol, RecordingProtocol)
            self.assertEqual(protocol.data, b"SSH-2.0-a\r\n")
            self.assertIs(transport.protocol, protocol)
            transport.protocol.connectionLost(Failure(ConnectionDone()))
            self.assertTrue(protocol.closed)

    def test_refusal_says_what_the_proxy_said(self) -> None:
        """Escaped: it is a stranger's text."""
        connecting, transport = self.answered(b"HTTP/1.1 403 For\x1bbidden\r\n\r\n")
        self.assertIn("403 For\\x1bbidden", self.failed(connecting))
        self.assertTrue(transport.disconnecting)

    def test_what_is_not_http(self) -> None:
        """Perhaps it is an SSH server."""
        connecting, _ = self.answered(b"SSH-2.0-x\r\n\r\n")
        self.assertIn("SSH-2.0-x", self.failed(connecting))

    def test_interim_answers_are_passed_over(self) -> None:
        """RFC 9110 section 15.2; in whatever pieces they come, and not for ever."""
        interim = (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"
        )
        answer = interim + b"HTTP/1.1 200 OK\r\n\r\nSSH-"
        for pieces in ((answer,), [bytes([byte]) for byte in answer]):
            connecting, transport = self.answered(*pieces)
            protocol = self.successResultOf(connecting)
            assert isinstance(protocol, RecordingProtocol)
            self.assertEqual(protocol.data, b"SSH-")
        connecting, transport = self.answered(interim * MAX_INTERIM)
        self.assertIn("without an end", self.failed(connecting))
        self.assertTrue(transport.disconnecting)
        connecting, _ = self.answered(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        self.assertIn("101 Switching", self.failed(connecting))

    def test_nothing_like_success_is_taken_for_it(self) -> None:
        """Three digits, and the first is a 2."""
        for status in (b"2", b"2000", b"200\0 OK", b"020", b"200OK", b" 200"):
            connecting, _ = self.answered(b"HTTP/1.1 " + status + b"\r\n\r\n")
            self.assertIn("answered", self.failed(connecting), status)

    def test_a_long_answer_in_one_piece_is_too_long_as_well(self) -> None:
        """However much is read at once."""
        head = b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n"
        connecting, _ = self.answered(head)
        self.assertIn("no end", self.failed(connecting))

    def test_endless_answer(self) -> None:
        """The head has 16 KiB."""
        connecting, transport = self.answered(
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD
        )
        self.assertIn("no end", self.failed(connecting))
        self.assertTrue(transport.disconnecting)
        transport.protocol.dataReceived(b"\r\n\r\n")

    def test_proxy_hangs_up(self) -> None:
        """Before it has answered."""
        connecting, transport = self.answered(b"HTTP/1.1 ")
        transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertIn("hung up", self.failed(connecting))

    def test_proxy_is_not_there(self) -> None:
        """The error is TCP's, and says that it is not the address that fails."""
        connecting = self.connect()
        self.reactor.refuse()
        said = self.failed(connecting)
        self.assertIn("the HTTP proxy 10.0.0.1:8080: Connection was refused", said)

    def test_cancelling_while_the_proxy_is_asked(self) -> None:
        """The connection is closed, and a late answer changes nothing."""
        connecting, transport = self.answered()
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertTrue(transport.disconnecting)
        transport.protocol.dataReceived(b"HTTP/1.1 200 OK\r\n\r\n")
        transport.protocol.connectionLost(Failure(ConnectionDone()))

    def test_nobody_wants_the_connection(self) -> None:
        """A factory may say so."""
        self.reactor = MemoryReactor()
        factory = Factory.forProtocol(Protocol)
        factory.buildProtocol = lambda addr: None  # type: ignore[method-assign]
        endpoint = HttpConnectEndpoint(
            TCP4ClientEndpoint(self.reactor, "10.0.0.1", 8080),
            HttpProxy("10.0.0.1", 8080),
            LB,
        )
        connecting = endpoint.connect(factory)
        _, transport = self.reactor.accept()
        transport.protocol.dataReceived(b"HTTP/1.1 200 OK\r\n\r\n")
        self.failed(connecting)
