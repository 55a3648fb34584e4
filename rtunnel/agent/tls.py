"""SSH inside TLS: who vouches for a name, and not a byte of SSH before that is sure.

The name is checked against the certificate by ``service-identity``, through Twisted's
TLS. The SSH inside proves the proxy a second time, to the host authority; TLS is for
networks that let nothing else out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

from OpenSSL.crypto import Error as CertificateError
from OpenSSL.SSL import Error as TlsError
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import (
    Certificate,
    TLSVersion,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import ConfigError, ConnectionFailed
from rtunnel.naming import printable

#: Bytes in a file of authorities; those of operating systems have some 300 KiB.
MAX_FILE: Final = 4 * 1024 * 1024

_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)


def load_authorities(paths: Sequence[Path]) -> Any | None:
    """What Twisted calls a trust root; None, which is the system's, without files.

    :param paths: files of PEM certificates.
    :raises ConfigError: naming each file that cannot be used.
    """
    certificates: list[Any] = []
    problems = []
    for path in paths:
        try:
            with path.open("rb") as file:
                found = _PEM.findall(file.read(MAX_FILE))
            if not found:
                problems.append(f"tls_authorities: {path}: holds no PEM certificate")
            certificates += map(Certificate.loadPEM, found)
        except OSError as error:
            problems.append(f"tls_authorities: {path}: {error.strerror}")
        except CertificateError as error:
            problems.append(
                f"tls_authorities: {path}: a certificate in it cannot be read: "
                f"{_said(error)}"
            )
    if problems:
        raise ConfigError(problems)
    return trustRootFromCertificates(certificates) if certificates else None


class TlsEndpoint:
    """Connects to a host with TLS 1.2 or later.

    :param endpoint: connects to the host without it.
    :param host: the name, or IP address, that the certificate has to be for.
    :param trust_root: of :func:`load_authorities`.
    :param reactor: is the clock.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        host: str,
        trust_root: Any | None,
        reactor: Any,
    ) -> None:
        self._host = host
        options = optionsForClientTLS(
            host,
            trust_root,
            extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2},
        )
        self._endpoint = wrapClientTLS(options, endpoint, reactor)

    async def connect(self, factory: IProtocolFactory) -> IProtocol:
        """Connect, and wait until the host has proven its name.

        :raises ConnectionFailed: when it has not.
        """
        handshake = _Handshake(factory, self._host)
        await self._endpoint.connect(Factory.forProtocol(lambda: handshake))
        return await handshake.established


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """Stands in for the protocol inside until it is known who is there."""

    def __init__(self, factory: IProtocolFactory, host: str) -> None:
        self._factory = factory
        self._host = host
        self.established: Deferred[IProtocol] = Deferred(self._cancelled)

    def handshakeCompleted(self) -> None:
        """Make way; see ``IHandshakeListener``."""
        transport = cast(Any, self.transport)
        protocol = self._factory.buildProtocol(transport.getPeer())
        if protocol is None:
            transport.abortConnection()
            return
        transport.wrappedProtocol = protocol
        protocol.makeConnection(transport)
        self.established.callback(protocol)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is not who it should be, or speaks no TLS that we speak."""
        if not self.established.called:
            said = _explanation(reason, self._host)
            self.established.errback(ConnectionFailed(said))

    def _cancelled(self, established: Deferred[IProtocol]) -> None:
        cast(Any, self.transport).abortConnection()


def _explanation(reason: Failure, host: str) -> str:
    if reason.check(VerificationError):
        return f"the TLS certificate of the server is not for {host}"
    if reason.check(TlsError):
        return f"TLS with {host} failed: {_said(reason.value)}"
    said = printable(reason.getErrorMessage())
    return f"the connection ended before TLS with {host} was up: {said}"


def _said(error: BaseException | None) -> str:
    """The reasons that OpenSSL has queued, each one the last of a tuple."""
    queue = error.args[0] if error is not None and error.args else ()
    return printable(", ".join(str(each[-1]) for each in queue)) or "no reason given"
