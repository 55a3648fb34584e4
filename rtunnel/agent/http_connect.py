"""Out through an HTTP proxy: the CONNECT method, and who says to use it.

Source: RFC 9110 section 9.3.6. ``HTTPS_PROXY`` and ``NO_PROXY`` are read as curl and Go
read them; ``localhost`` and loopback addresses never go through a proxy.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Final, cast
from urllib.parse import unquote, urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.config import Address
from rtunnel.errors import ConnectionFailed
from rtunnel.naming import printable

#: Bytes of the head of an HTTP proxy's answer.
MAX_HEAD: Final = 16 * 1024
#: Where HTTP proxies listen unless told otherwise, as curl has it.
DEFAULT_PORT: Final = 1080

#: Answers before the one that counts, such as "100 Continue".
MAX_INTERIM: Final = 10

# What a head ends with.
_END: Final = b"\r\n\r\n"
# RFC 9112 section 4; some leave out the space before a reason that they leave out.
_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: [^\0\r\n]*)?")


@attrs.frozen
class HttpProxy:
    """An HTTP proxy.

    :param host: name or IP address.
    :param authorization: of ``Proxy-Authorization``; empty for none.
    """

    host: str
    port: int
    authorization: str = attrs.field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> HttpProxy:
        """Read ``http://user:password@host:port``; the scheme may be missing.

        :raises ConnectionFailed: when it is no HTTP proxy; never shows the password.
        """
        try:
            url = urlsplit(text if "://" in text else f"http://{text}")
            port = url.port or DEFAULT_PORT
        except ValueError:
            raise ConnectionFailed("HTTPS_PROXY is not a URL") from None
        if url.scheme != "http" or not url.hostname:
            raise ConnectionFailed("HTTPS_PROXY is not http://HOST:PORT")
        authorization = ""
        if url.username is not None:
            user = f"{unquote(url.username)}:{unquote(url.password or '')}"
            # The environment has bytes, which need not be UTF-8.
            encoded = base64.b64encode(os.fsencode(user)).decode("ascii")
            authorization = f"Basic {encoded}"
        return cls(url.hostname, port, authorization)


def http_proxy_for(address: Address, environ: Mapping[str, str]) -> HttpProxy | None:
    """The HTTP proxy to go through, if any.

    :param environ: the environment variables.
    :raises ConnectionFailed: when ``HTTPS_PROXY`` cannot be read.
    """
    url = environ.get("HTTPS_PROXY") or environ.get("https_proxy") or ""
    exempt = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    if not url.strip() or _is_exempt(address, exempt):
        return None
    return HttpProxy.parse(url.strip())


def _is_exempt(address: Address, exempt: str) -> bool:
    host = address.host.lower().removesuffix(".")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        ip = None
    if host == "localhost" or (ip is not None and ip.is_loopback):
        return True
    for entry in exempt.lower().replace(",", " ").split():
        if entry == "*":
            return True
        if ip is not None:
            try:
                if ip in ipaddress.ip_network(entry.strip("[]"), strict=False):
                    return True
            except ValueError:
                pass
        name, colon, port = entry.rpartition(":")
        if colon and port.isdecimal() and ":" not in name:
            if int(port) != address.port:
                continue
            entry = name
        entry = entry.removeprefix("*").removeprefix(".").removesuffix(".")
        if entry and (host == entry or host.endswith(f".{entry}")):
            return True
    return False


@implementer(IStreamClientEndpoint)
class HttpConnectEndpoint:
    """Connects to an address through an HTTP proxy.

    :param to_proxy: connects to the proxy itself.
    :param proxy: whose credentials to send.
    :param address: where to; its name is resolved by the proxy.
    """

    def __init__(
        self, to_proxy: IStreamClientEndpoint, proxy: HttpProxy, address: Address
    ) -> None:
        self._to_proxy = to_proxy
        self._proxy = proxy
        self._address = address

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``.

        :returns: errback with :class:`ConnectionFailed` when the proxy says no.
        """
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        try:
            asking = await self._to_proxy.connect(
                Factory.forProtocol(
                    partial(_Connect, self._proxy, self._address, factory)
                )
            )
        except ConnectError as error:
            where = Address(self._proxy.host, self._proxy.port)
            raise ConnectionFailed(f"the HTTP proxy {where}: {error}") from error
        return await cast(_Connect, asking).established


class _Connect(Protocol):
    """Asks the proxy, then makes way for the protocol that it was asked for."""

    def __init__(
        self, proxy: HttpProxy, address: Address, factory: IProtocolFactory
    ) -> None:
        self._proxy = proxy
        self._address = address
        self._factory = factory
        self._head = bytearray()
        self._interim = 0
        self.established: Deferred[IProtocol] = Deferred(self._cancelled)

    def connectionMade(self) -> None:
        """Ask."""
        where = str(attrs.evolve(self._address, tls=False))
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if self._proxy.authorization:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        assert self.transport is not None
        self.transport.write("\r\n".join([*lines, "", ""]).encode("ascii"))

    def dataReceived(self, data: bytes) -> None:
        """The proxy's answer, and perhaps what comes after it."""
        if self.established.called:
            return
        # Its end may have begun in what came before.
        unread = max(0, len(self._head) - len(_END) + 1)
        self._head += data
        while (end := self._head.find(_END, unread, MAX_HEAD)) >= 0:
            status = bytes(self._head[:end]).split(b"\r\n", 1)[0]
            answer = _STATUS.fullmatch(status)
            code = int(answer[1]) if answer else 0
            if not _is_interim(code):
                break
            # The answer itself is still to come (RFC 9110 section 15.2).
            del self._head[: end + len(_END)]
            unread = 0
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self._fail("the HTTP proxy answers without an end")
                return
        else:
            if len(self._head) >= MAX_HEAD:
                self._fail("the HTTP proxy's answer has no end")
            return
        if not 200 <= code < 300:
            self._fail(f"the HTTP proxy answered '{printable(status, 80)}'")
            return
        self._make_way(bytes(self._head[end + len(_END) :]))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The proxy hung up."""
        if not self.established.called:
            self.established.errback(
                ConnectionFailed(f"the HTTP proxy hung up: {reason.getErrorMessage()}")
            )

    def _make_way(self, rest: bytes) -> None:
        transport = self.transport
        assert transport is not None
        protocol = self._factory.buildProtocol(transport.getPeer())
        if protocol is None:
            self._fail("nobody wants the connection any longer")
            return
        transport.protocol = protocol  # type: ignore[attr-defined]
        protocol.makeConnection(transport)
        self.established.callback(protocol)
        if rest:
            protocol.dataReceived(rest)

    def _fail(self, text: str) -> None:
        assert self.transport is not None
        self.transport.loseConnection()
        self.established.errback(ConnectionFailed(text))

    def _cancelled(self, established: Deferred[IProtocol]) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def _is_interim(code: int) -> bool:
    """Whether another answer follows; none does after "101 Switching Protocols"."""
    return 100 <= code < 200 and code != 101
