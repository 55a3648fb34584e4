"""Logging in at a server: one key, certificate or token, one request, no questions.

Source: RFC 4252 sections 7 and 8. What we have is what there is: a server that says no
is not asked a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from twisted.conch.ssh.service import SSHService
from twisted.logger import Logger

from rtunnel.errors import AuthenticationFailed, ProtocolError
from rtunnel.naming import printable
from rtunnel.ssh.userauth import JOIN_USERNAME, PASSWORD, USERAUTH_SERVICE
from rtunnel.trust.login_proof import CONNECTION_SERVICE, PUBLICKEY, signed_data
from rtunnel.wire.algorithms import signature_algorithm
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import Reader, boolean, string, text
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.numbers import (
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)

if TYPE_CHECKING:
    from rtunnel.ssh.transport import ClientTransport

#: Banners of one server that get logged.
MAX_BANNERS = 3


@attrs.frozen
class Credentials:
    """What a client logs in with.

    :param username: the login name.
    :param certificate: a user or host certificate that speaks of ``key``.
    """

    username: str
    key: PrivateKey
    certificate: Certificate | None = None

    @property
    def blob(self) -> bytes:
        """What to show: the certificate, or else the plain key."""
        if self.certificate is not None:
            return self.certificate.blob
        return self.key.public.blob

    def algorithms(self, user_keys: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Those of ``user_keys`` that can be used, in their order."""
        shown = self.certificate or self.key.public
        return tuple(name for name in user_keys if name in shown.signature_algorithms)

    def algorithm(
        self, user_keys: tuple[bytes, ...], server_sig_algs: tuple[bytes, ...] | None
    ) -> bytes:
        """The public key algorithm to use.

        :param user_keys: what we may use, best first; one of it has to fit.
        :param server_sig_algs: signature algorithms that the server takes (RFC 8308
            section 3.1), None when it did not say.
        """
        candidates = self.algorithms(user_keys)
        for name in candidates:
            if server_sig_algs is None or signature_algorithm(name) in server_sig_algs:
                return name
        # Some servers list less than they take; only their "no" is final.
        return candidates[0]

    def request(self, transport: ClientTransport) -> bytes:
        """The request to log in, signature and all.

        .. code-block:: text

            string    user name
            string    service
            string    "publickey"
            boolean   true
            string    algorithm
            string    key or certificate
            string    signature
        """
        username = self.username.encode("utf-8")
        algorithm = self.algorithm(
            transport.algorithms.user_keys, transport.server_sig_algs
        )
        data = signed_data(
            transport.session_id, username, CONNECTION_SERVICE, algorithm, self.blob
        )
        signature = self.key.sign(data, signature_algorithm(algorithm))
        return b"".join(
            [
                string(username),
                string(CONNECTION_SERVICE),
                string(PUBLICKEY),
                boolean(True),
                string(algorithm),
                string(self.blob),
                string(signature),
            ]
        )


@attrs.frozen
class TokenCredentials:
    """A join token, for who has no certificate yet."""

    token: str = attrs.field(repr=False)

    def request(self, transport: ClientTransport) -> bytes:
        """The request to log in, with the token as the password.

        .. code-block:: text

            string    user name
            string    service
            string    "password"
            boolean   false
            string    password
        """
        return b"".join(
            [
                string(JOIN_USERNAME),
                string(CONNECTION_SERVICE),
                string(PASSWORD),
                boolean(False),
                text(self.token),
            ]
        )


class UserAuthClient(SSHService):
    """The service ``ssh-userauth`` at a client.

    :param credentials: what to log in with.
    """

    name = USERAUTH_SERVICE
    transport: ClientTransport

    _log = Logger()

    def __init__(self, credentials: Credentials | TokenCredentials) -> None:
        self._credentials = credentials
        self._banners = 0

    def serviceStarted(self) -> None:
        """Ask to log in."""
        request = self._credentials.request(self.transport)
        self.transport.sendPacket(MSG_USERAUTH_REQUEST, request)

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Take a message of the authentication protocol, numbers 50 to 79."""
        match messageNum:
            case n if n == MSG_USERAUTH_SUCCESS:
                Reader(packet).end()
                self.transport.login_succeeded()
            case n if n == MSG_USERAUTH_FAILURE:
                methods = b",".join(Reader(packet).name_list())
                self.transport.login_failed(
                    AuthenticationFailed(
                        "the server did not accept our key or certificate (it takes: "
                        f"{printable(methods)})"
                    )
                )
            case n if n == MSG_USERAUTH_BANNER:
                self._banner_received(packet)
            case _:
                raise ProtocolError(f"message {messageNum} while logging in")

    def _banner_received(self, packet: bytes) -> None:
        message = Reader(packet).string()
        self._banners += 1
        if self._banners <= MAX_BANNERS:
            self._log.info(
                "the server at {address} says: {banner}",
                address=self.transport.peer_address,
                banner=printable(message),
            )
