"""Harnesses for HTTP: what a proxy answers to CONNECT, and what clients ask of us."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from zope.interface import implementer

from fuzz.harness import Harness
from fuzz.script import Script
from rtunnel.agent.http_connect import (
    MAX_HEAD,
    MAX_INTERIM,
    HttpConnectEndpoint,
    HttpProxy,
    http_proxy_for,
)
from rtunnel.config import Address
from rtunnel.errors import ConnectionFailed, InvalidName, RtunnelError
from rtunnel.web.health import health_routes
from rtunnel.web.server import MAX_BODY, Response, Routes, WithBody, make_site

_PEER = IPv4Address("TCP", "192.0.2.1", 8080)
_HOSTS = ("proxy.example", "192.0.2.7", "2001:db8::1", "localhost")


class _Received(Protocol):
    """What is connected to in the end; keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = 0

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.ended += 1


_INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d( [^\0\r\n]*)?\r\n")
_SUCCESS = re.compile(rb"HTTP/1\.\d 2\d\d( [^\0\r\n]*)?\r\n")


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """An HTTP proxy in memory."""

    def __init__(self) -> None:
        self.transport: Any = StringTransport(peerAddress=_PEER, lenient=True)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        protocol = protocolFactory.buildProtocol(_PEER)
        assert protocol is not None
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        return succeed(protocol)


def _answer(data: bytes) -> None:
    """A proxy's answer to CONNECT in pieces, and what comes through it afterwards."""
    script = Script(data)
    size, lines = 1 + script.byte(), script.byte() * 16
    head, end, rest = script.rest().partition(b"\r\n")
    answer = head + end + b"X: y\r\n" * lines + rest
    size = max(size, len(answer) // 256)
    endpoint = _Endpoint()
    received = _Received()
    fired: list[object] = []
    connecting = HttpConnectEndpoint(
        endpoint, HttpProxy("proxy.lan", 8080), Address("lb.example")
    ).connect(Factory.forProtocol(lambda: received))
    connecting.addBoth(fired.append)
    transport = endpoint.transport
    read = b""
    for start in range(0, len(answer), size):
        if transport.disconnecting:
            break
        piece = answer[start : start + size]
        read += piece
        transport.protocol.dataReceived(piece)
    transport.protocol.connectionLost(Failure(ConnectionDone()))
    assert len(fired) == 1
    head, end, rest = read.partition(b"\r\n\r\n")
    interim = 0
    while end and len(head + end) <= MAX_HEAD and _INTERIM.match(head + end):
        interim += 1
        head, end, rest = rest.partition(b"\r\n\r\n")
    is_short = interim <= MAX_INTERIM and len(head + end) <= MAX_HEAD
    if end and is_short and _SUCCESS.match(head + end):
        assert fired == [received]
        assert received.data == rest and received.ended == 1
    else:
        failure = fired[0]
        assert isinstance(failure, Failure)
        failure.trap(ConnectionFailed)
        assert str(failure.value).isprintable()
        assert len(read) <= (MAX_INTERIM + 1) * MAX_HEAD + size
        assert not received.data


def _setting(data: bytes) -> None:
    """HTTPS_PROXY and NO_PROXY by lines, as the environment has them."""
    url, _, exempt = data.decode("utf-8", "surrogateescape").partition("\n")
    for host in _HOSTS:
        try:
            proxy = http_proxy_for(
                Address(host), {"HTTPS_PROXY": url, "NO_PROXY": exempt}
            )
        except ConnectionFailed as error:
            assert "geheim" not in str(error)
            raise
        if proxy is not None:
            assert host != "localhost"
            proxy.authorization.encode("ascii")


def _address(data: bytes) -> None:
    address = Address.parse(data.decode("utf-8", "surrogateescape"))
    assert Address.parse(str(address)) == address
    str(address).encode("ascii")


def _refuse() -> Response:
    raise RtunnelError("not while it is raining")


async def _told(body: Mapping[str, object]) -> Response:
    return Response(200, {"names": len(body)})


_ROUTES: Routes = {
    **health_routes(lambda: ["starting"]),
    "/act": {"POST": lambda: Response(202, {"acted": True})},
    "/tell": {"POST": WithBody(_told)},
    "/refuse": {"GET": _refuse},
}
_STATUS = re.compile(rb"HTTP/1\.[01] (200|202|400|404|405|409|413|503|100) ")


def _request(data: bytes) -> None:
    """Requests in pieces of one size, perhaps with some that is skipped in between."""
    script = Script(data)
    size, body = 1 + script.byte(), script.byte() * 512
    asked = script.rest().replace(b"\xfe", bytes(body))
    size = max(size, len(asked) // 256)
    clock = Clock()
    transport: Any = StringTransport(peerAddress=_PEER, lenient=True)
    protocol = make_site(_ROUTES, clock).buildProtocol(_PEER)
    assert protocol is not None
    transport.protocol = protocol
    protocol.makeConnection(transport)
    for start in range(0, len(asked), size):
        if transport.disconnecting or transport.disconnected:
            break
        cast(HTTPChannel, protocol).dataReceived(asked[start : start + size])
    answer = transport.value()
    assert not answer or _STATUS.match(answer), "no answer that we give"
    assert b"wisted" not in answer and b"Traceback" not in answer
    assert len(answer) < 512 * (1 + asked.count(b"\n"))
    protocol.connectionLost(Failure(ConnectionDone()))
    clock.advance(60)
    assert not clock.getDelayedCalls(), "a timer outlives its connection"


def _requests() -> list[bytes]:
    requests = (
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nHEAD /readyz HTTP/1.1\r\n\r\n",
        b"POST /act HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /act HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n",
        b"GET /refuse?a=b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"DELETE /act HTTP/1.1\r\n\r\nGET //nothing/../x HTTP/1.1\r\n\r\n",
        b"POST /act HTTP/1.1\r\nContent-Length: %d\r\n\r\n\xfe\xfe" % (2 * MAX_BODY),
        b"POST /act HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: 9\r\n\r\n--x\r\n\r\n--",
        b"POST /act HTTP/1.1\r\nContent-Length: 1\r\nContent-Type: a\x0c/b\r\n\r\nx",
        b'POST /tell HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"a":[1]}',
        b"GET / HTTP/1.1\r\nExpect: 100-continue\r\nCookie: a=b; c\r\n\r\n",
    )
    return [
        bytes([size, body]) + request
        for request in requests
        for size, body in ((255, 128), (6, 0))
    ]


HARNESSES = (
    Harness(
        "http_answer",
        _answer,
        lambda: [
            bytes([size, lines]) + answer
            for size, lines in ((255, 0), (0, 0), (20, 255), (0, 255))
            for answer in (
                b"HTTP/1.1 200 Connection established\r\n\r\nSSH-2.0-x\r\n",
                b"HTTP/1.0 407 \x1b[31mno\r\nProxy-Authenticate: Basic\r\n\r\n",
                b"HTTP/1.1 204\r\nA: b\r\n\r\n\r\n\r\n",
                b"SSH-2.0-x\r\n",
            )
        ],
        (),
        (b"HTTP/1.", b"\r\n\r\n", b"\r\n", b" 200 ", b" 2"),
    ),
    Harness(
        "http_proxy_setting",
        _setting,
        lambda: [
            b"http://user:geheim@proxy.lan:8080/\n.lan,10.0.0.0/8",
            b"proxy.lan:3128\n*.example:3023 [2001:db8::]/32",
            b"http://us%40er@[fd00::1]:1\n*",
            b"socks5://u:geheim@p:1\nlocalhost",
            b"http://us\xffer:geheim@p:1\n",
        ],
        (ConnectionFailed,),
        (b"http://", b"%", b"@", b":", b"[", b"]", b"\n", b"*.", b"geheim", b"\xff"),
    ),
    Harness(
        "address",
        _address,
        lambda: [
            b"proxy.example:3023",
            b"tls:[2001:db8::1]:443",
            b"192.0.2.1",
            b"xn--bcher-kva.example.",
        ],
        (InvalidName,),
        (b"tls:", b"[", b"]", b":", b"::ffff:", b"%", b"xn--", b"0x7f", b"\xc3\xbc"),
    ),
    Harness(
        "web_request",
        _request,
        _requests,
        (),
        (
            b"\r\n", b"\r\n\r\n", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"GET ", b"POST ",
            b"HEAD ", b"/healthz", b"/act", b"/tell", b"{}", b"Content-Length: ",
            b"chunked",
            b"Transfer-Encoding: ", b"Expect: 100-continue", b"Connection: close",
            b"Content-Type: ", b"multipart/form-data; boundary=", b"0\r\n\r\n", b"\xfe",
            b"application/x-www-form-urlencoded", b"http://", b"?", b"%",
        ),
    ),
)  # fmt: skip
