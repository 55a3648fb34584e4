"""HTTP on twisted.web, as much as a few fixed paths need.

A table says which function answers which method of which path. All answers are JSON,
errors included, and none says what software or which version it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from rtunnel.errors import ConfigError, RtunnelError
from rtunnel.naming import printable

#: Seconds that a connection may be there before a request is complete, and again after
#: each answer.
IDLE_TIMEOUT = 15.0

#: Connections at a time. One more costs the oldest its place, so that nobody can keep
#: a balancer out by holding connections.
MAX_CONNECTIONS = 100

#: Bytes in the body of a request.
MAX_BODY = 64 * 1024

_log = Logger()


@attrs.frozen
class Response:
    """An answer.

    :param status: HTTP status code (RFC 9110 section 15).
    :param body: what is sent as JSON.
    """

    status: int
    body: object


Handler = Callable[[], Response]


@attrs.frozen
class WithBody:
    """A handler that reads the request's body, and may take its time.

    :param answer: from the JSON object in the body, empty when there is no body. What
        it raises is answered as for any other handler. Cancelled when whoever asks
        hangs up.
    """

    answer: Callable[[Mapping[str, object]], Awaitable[Response]]


#: Path, then method, then who answers. GET answers HEAD as well.
Routes = Mapping[str, Mapping[str, Handler | WithBody]]


def make_site(routes: Routes, reactor: Any) -> Site:
    """A protocol factory that serves ``routes``."""
    site = _QuietSite(
        _Router(routes),
        requestFactory=_Request,
        timeout=IDLE_TIMEOUT,
        reactor=reactor,
        # Nobody here reads forms, and Twisted's reader of them raises for some.
        parsePOSTFormSubmission=False,
    )
    site.displayTracebacks = False
    return site


async def listen(reactor: Any, description: str, routes: Routes) -> IListeningPort:
    """Serve ``routes`` on an endpoint.

    :param description: Twisted server endpoint string.
    :raises ConfigError: when the string describes no endpoint.
    :raises CannotListenError: when the endpoint is in use or not allowed.
    """
    try:
        endpoint = serverFromString(reactor, description)
    except (ValueError, TypeError) as error:
        problem = f"web.listen: {description!r} is no endpoint: {error}"
        raise ConfigError([problem]) from error
    return cast(IListeningPort, await endpoint.listen(make_site(routes, reactor)))


class _Router(Resource):
    isLeaf = True

    def __init__(self, routes: Routes) -> None:
        super().__init__()
        self._routes = routes

    def render(self, request: Request) -> int:
        answering = Deferred.fromCoroutine(self._response(request))
        gone: Deferred[None] = request.notifyFinish()
        gone.addErrback(lambda failure: answering.cancel())
        answering.addCallbacks(
            lambda response: _send(request, response),
            lambda failure: failure.trap(CancelledError) and None,
        )
        answering.addErrback(
            lambda failure: _log.failure("an answer could not be sent", failure)
        )
        return NOT_DONE_YET

    async def _response(self, request: Request) -> Response:
        methods = self._routes.get(request.path.decode("latin-1"))
        if methods is None:
            return Response(404, {"error": "there is nothing at this path"})
        method = request.method.decode("latin-1")
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = sorted({*methods, "HEAD"} if "GET" in methods else methods)
            request.setHeader(b"Allow", ", ".join(allowed).encode())
            return Response(405, {"error": f"only {' and '.join(allowed)} here"})
        try:
            if isinstance(handler, WithBody):
                return await handler.answer(_read_body(request))
            return handler()
        except CancelledError:
            raise
        except _NotJson:
            return Response(400, {"error": "the body is not a JSON object"})
        except RtunnelError as error:
            return Response(409, {"error": str(error)})
        except Exception:
            _log.failure("answering {path} failed", path=printable(request.path))
            return Response(500, {"error": "this failed; the log says why"})


class _NotJson(Exception):
    """A body that cannot be read."""


def _read_body(request: Request) -> Mapping[str, object]:
    assert request.content is not None
    body = request.content.read()
    if not body:
        return {}
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        raise _NotJson from None
    if not isinstance(read, dict):
        raise _NotJson
    return read


def _send(request: Request, response: Response) -> None:
    body = json.dumps(response.body).encode() + b"\n"
    request.setResponseCode(response.status)
    for name, value in (
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
    ):
        request.setHeader(name, value)
    request.write(b"" if request.method == b"HEAD" else body)
    request.finish()


class _Channel(HTTPChannel):
    """A connection whose time does not begin anew with every byte."""

    site: _QuietSite
    transport: Any
    _cutting: IDelayedCall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels[self] = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.channels.pop(self, None)
        if self._cutting is not None and self._cutting.active():
            self._cutting.cancel()
        super().connectionLost(reason)

    def resetTimeout(self) -> None:
        """Called for what comes. Else a byte now and then would be enough to stay."""

    # Twisted's own logs a line for each; and whoever may connect may do so all day.

    def timeoutConnection(self) -> None:
        self._cutting = self.callLater(self.abortTimeout, self.forceAbortClient)
        self.loseConnection()

    def forceAbortClient(self) -> None:
        self.transport.abortConnection()


class _QuietSite(Site):
    noisy = False
    # Without Twisted's wrapper, which is there for HTTP/2.
    protocol = _Channel  # type: ignore[assignment]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        #: The connections there are, the oldest first.
        self.channels: dict[_Channel, None] = {}

    def buildProtocol(self, addr: Any) -> Any:
        while len(self.channels) >= MAX_CONNECTIONS:
            oldest = next(iter(self.channels))
            del self.channels[oldest]
            oldest.transport.abortConnection()
        return super().buildProtocol(addr)

    def log(self, request: object) -> None:
        """A balancer that asks every second is no news."""


class _Request(Request):
    _received = 0

    def setHeader(self, name: bytes, value: bytes) -> None:
        if name.lower() != b"server":
            super().setHeader(name, value)

    def handleContentChunk(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MAX_BODY:
            # Nobody here has a use for a body; whoever sends this much is no client.
            self.channel.forceAbortClient()
        else:
            super().handleContentChunk(data)

    def processingFailed(self, reason: Failure) -> Failure:
        """Called for what goes wrong outside of a handler, so for nothing usual."""
        _log.failure("answering a request failed", reason)
        self.channel.forceAbortClient()
        return reason
