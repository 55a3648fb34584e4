"""HTTP for a few fixed paths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel

from rtunnel.errors import ConfigError, RtunnelError
from rtunnel.web.server import (
    IDLE_TIMEOUT,
    MAX_BODY,
    MAX_CONNECTIONS,
    Response,
    Routes,
    WithBody,
    listen,
    make_site,
)


class Reply:
    """An HTTP response, taken apart."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split(" ")[1])
        self.headers = dict(line.lower().split(": ", 1) for line in lines)

    def json(self) -> Any:
        return json.loads(self.body)


def fail() -> Response:
    """A handler with a fault in it."""
    raise ZeroDivisionError("a secret of ours")


def refuse() -> Response:
    """A handler that cannot do what it is asked for."""
    raise RtunnelError("not while it is raining")


async def echo(body: Mapping[str, object]) -> Response:
    """A handler that needs to know more."""
    if body.get("rain"):
        raise RtunnelError("not while it is raining")
    return Response(201, {"told": body})


WAITING: list[Deferred[Response]] = []
CANCELLED: list[Deferred[Response]] = []


def wait(body: Mapping[str, object]) -> Deferred[Response]:
    """A handler that takes its time."""
    WAITING.append(Deferred(CANCELLED.append))
    return WAITING[-1]


ROUTES: Routes = {
    "/tell": {"POST": WithBody(echo)},
    "/wait": {"POST": WithBody(wait)},
    "/here": {"GET": lambda: Response(200, {"here": True})},
    "/act": {"POST": lambda: Response(202, {"acted": True})},
    "/fail": {"GET": fail},
    "/refuse": {"GET": refuse},
}


class SiteTests(SynchronousTestCase):
    """What comes back over the wire."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        self.site = make_site(ROUTES, self.clock)
        self.site.doStart()
        self.addCleanup(self.site.doStop)
        address = IPv4Address("TCP", "192.0.2.1", 1)
        protocol = self.site.buildProtocol(address)
        assert protocol is not None
        self.protocol = protocol
        self.protocol.makeConnection(self.transport)

    def ask(self, method: str, path: str, body: bytes = b"") -> Reply:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
        self.protocol.dataReceived(head.encode() + b"\r\n\r\n" + body)
        data = self.transport.value()
        self.transport.clear()
        return Reply(data)

    def test_a_handler_answers_in_json(self) -> None:
        """With a length, a type, and one line."""
        reply = self.ask("GET", "/here")
        self.assertEqual((reply.status, reply.json()), (200, {"here": True}))
        self.assertEqual(reply.headers["content-type"], "application/json")
        self.assertEqual(reply.headers["cache-control"], "no-store")
        self.assertEqual(int(reply.headers["content-length"]), len(reply.body))

    def test_a_handler_may_read_the_body(self) -> None:
        """A JSON object, or none at all."""
        reply = self.ask("POST", "/tell", b'{"a": 1}')
        self.assertEqual((reply.status, reply.json()), (201, {"told": {"a": 1}}))
        self.assertEqual(self.ask("POST", "/tell").json(), {"told": {}})
        reply = self.ask("POST", "/tell", b'{"rain": true}')
        self.assertEqual(reply.status, 409)
        self.assertEqual(reply.json(), {"error": "not while it is raining"})

    def test_a_body_that_is_no_json_object_is_400(self) -> None:
        """It does not reach the handler."""
        for body in (b"x", b"[]", b"\xff", b"[" * 20000):
            self.assertEqual(self.ask("POST", "/tell", body).status, 400, body[:9])

    def test_forms_are_not_read(self) -> None:
        """Twisted's reader of them raises for this type of content."""
        self.protocol.dataReceived(
            b"POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
            b"Content-Type: a\x0c/b\r\n\r\nx"
        )
        self.assertEqual(Reply(self.transport.value()).status, 202)

    def test_a_handler_may_take_its_time(self) -> None:
        """The answer is sent when it is there."""
        self.assertEqual(self.ask_nothing("POST", "/wait"), b"")
        WAITING.pop().callback(Response(200, {"late": True}))
        self.assertEqual(Reply(self.transport.value()).json(), {"late": True})

    def test_a_handler_is_cancelled_when_nobody_waits(self) -> None:
        """Whoever asked has hung up."""
        self.ask_nothing("POST", "/wait")
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertIs(CANCELLED.pop(), WAITING.pop())

    def ask_nothing(self, method: str, path: str) -> bytes:
        """Ask, and return what has come back so far."""
        self.protocol.dataReceived(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        data: bytes = self.transport.value()
        return data

    def test_a_query_is_no_part_of_the_path(self) -> None:
        """Balancers like to add one."""
        self.assertEqual(self.ask("GET", "/here?a=b").status, 200)

    def test_head_is_get_without_the_body(self) -> None:
        """The length is that of the body which GET would give."""
        got = self.ask("GET", "/here")
        reply = self.ask("HEAD", "/here")
        self.assertEqual((reply.status, reply.body), (200, b""))
        self.assertEqual(int(reply.headers["content-length"]), len(got.body))

    def test_an_unknown_path_is_404_in_json(self) -> None:
        """Neither does the answer repeat what was asked for."""
        for path in ("/", "/here/", "/HERE", "/%68ere", "/<b>", "/../here"):
            reply = self.ask("GET", path)
            self.assertEqual(reply.status, 404, path)
            self.assertEqual(reply.json(), {"error": "there is nothing at this path"})

    def test_a_wrong_method_is_405_with_those_allowed(self) -> None:
        """Acting takes POST, so no link and no image can do it."""
        reply = self.ask("GET", "/act")
        self.assertEqual((reply.status, reply.headers["allow"]), (405, "post"))
        self.assertEqual(reply.json(), {"error": "only POST here"})
        reply = self.ask("BREW", "/here")
        self.assertEqual((reply.status, reply.headers["allow"]), (405, "get, head"))
        self.assertEqual(self.ask("POST", "/act").status, 202)

    def test_no_answer_names_software_or_version(self) -> None:
        """Good and bad ones alike."""
        for method, path in (
            ("GET", "/here"),
            ("GET", "/none"),
            ("POST", "/here"),
            ("OPTIONS", "*"),
        ):
            self.assertNotIn("server", self.ask(method, path).headers, path)

    def test_a_fault_of_ours_is_500_and_only_logged(self) -> None:
        """The text of the exception stays here."""
        reply = self.ask("GET", "/fail")
        self.assertEqual(reply.status, 500)
        self.assertNotIn(b"secret", reply.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_refusal_says_why(self) -> None:
        """Errors raised on purpose are for the one who asked."""
        reply = self.ask("GET", "/refuse")
        self.assertEqual(reply.status, 409)
        self.assertEqual(reply.json(), {"error": "not while it is raining"})

    def test_a_body_over_the_limit_ends_the_connection(self) -> None:
        """Whether its length was said or not."""
        self.ask("POST", "/act", b"x" * MAX_BODY)
        self.assertFalse(self.transport.disconnected)
        self.protocol.dataReceived(
            b"POST /act HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(MAX_BODY // 1024 + 1):
            if not self.transport.disconnected:
                self.protocol.dataReceived(b"400\r\n" + b"x" * 1024 + b"\r\n")
        self.assertTrue(self.transport.disconnected)
        self.assertEqual(self.transport.value(), b"")

    def test_a_silent_connection_ends(self) -> None:
        """Nobody holds a descriptor for nothing."""
        self.clock.advance(IDLE_TIMEOUT - 1)
        self.assertFalse(self.transport.disconnecting)
        self.clock.advance(2)
        self.assertTrue(self.transport.disconnecting)

    def test_a_connection_that_dawdles_ends_as_well(self) -> None:
        """A byte now and then does not prolong it; an answer does."""
        for _ in range(2):
            self.clock.advance(IDLE_TIMEOUT - 1)
            self.assertEqual(self.ask("GET", "/here").status, 200)
        self.protocol.dataReceived(b"GET /here HTTP/1.1\r\n")
        for _ in range(int(IDLE_TIMEOUT)):
            self.clock.advance(1)
            self.protocol.dataReceived(b"x: y\r\n")
        self.assertTrue(self.transport.disconnecting)

    def test_an_answer_may_take_longer(self) -> None:
        """The client has done its part."""
        self.ask_nothing("POST", "/wait")
        self.clock.advance(IDLE_TIMEOUT + 1)
        self.assertFalse(self.transport.disconnecting)
        WAITING.pop().callback(Response(200, {"late": True}))
        self.assertEqual(Reply(self.transport.value()).json(), {"late": True})

    def test_the_oldest_connection_makes_room_for_one_too_many(self) -> None:
        """Else whoever holds as many would keep the balancer out."""

        def connect() -> StringTransport:
            protocol = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
            assert protocol is not None
            transport = StringTransport()
            protocol.makeConnection(transport)
            self.addCleanup(protocol.connectionLost, Failure(ConnectionDone()))
            return transport

        others = [connect() for _ in range(MAX_CONNECTIONS - 1)]
        self.assertFalse(self.transport.disconnected)
        connect()
        self.assertTrue(self.transport.disconnected)
        self.assertFalse(others[0].disconnected)
        connect()
        self.assertTrue(others[0].disconnected)
        self.assertFalse(others[1].disconnected)

    def test_requests_are_not_logged(self) -> None:
        """A balancer asks every second, and may ask in strange words."""
        with capturedLogs() as logs:
            self.ask("GET", "/here")
            self.ask("HEAD", "/none")
        self.assertEqual(logs, [])

    def test_connections_that_are_ended_are_not_logged(self) -> None:
        """Anybody may make as many as he likes: silent ones, and those that say too
        much."""
        with capturedLogs() as logs:
            self.clock.advance(IDLE_TIMEOUT + 1)
            self.assertTrue(self.transport.disconnecting)
            self.assertFalse(self.transport.disconnected)
            # A peer that does not read what is on its way to it.
            self.clock.advance(HTTPChannel.abortTimeout)
            self.assertTrue(self.transport.disconnected)
            self.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(logs, [])


class ListenTests(SynchronousTestCase):
    """Endpoint strings."""

    def test_the_endpoint_is_listened_on(self) -> None:
        """Port and interface as they were said."""
        reactor: Any = MemoryReactor()
        port = listen(reactor, "tcp:3080:interface=127.0.0.1", ROUTES)
        self.successResultOf(Deferred.fromCoroutine(port))
        self.assertEqual(reactor.tcpServers[0][0], 3080)
        self.assertEqual(reactor.tcpServers[0][3], "127.0.0.1")

    def test_a_string_that_is_no_endpoint_is_a_config_error(self) -> None:
        """The error names the key and the string."""
        for description in ("nonsense:1", "tcp:port=http-ish", "tcp"):
            port = listen(MemoryReactor(), description, ROUTES)
            failure = self.failureResultOf(Deferred.fromCoroutine(port), ConfigError)
            self.assertIn(f"web.listen: {description!r}", str(failure.value))
