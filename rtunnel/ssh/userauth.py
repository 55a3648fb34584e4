"""Logging in at our server: by key or certificate, once, and for good.

Source: RFC 4252, RFC 8332 for RSA, draft-miller-ssh-cert for certificates. Only the
method ``publickey`` exists. Why a login is refused is for our own log; the peer hears
the same "no" whatever the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import attrs
from twisted.conch.ssh.service import SSHService
from twisted.logger import Logger

from rtunnel.errors import (
    DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE,
    AuthenticationRefused,
    ProtocolError,
    RtunnelError,
)
from rtunnel.naming import printable
from rtunnel.trust.identity import Identity
from rtunnel.trust.login_proof import (
    CONNECTION_SERVICE,
    MAX_USERNAME_LENGTH,
    PUBLICKEY,
    LoginProof,
    signed_data,
)
from rtunnel.wire.algorithms import MAX_SIGNATURE_LENGTH
from rtunnel.wire.certificate import MAX_CERTIFICATE_LENGTH, parse_public_key
from rtunnel.wire.data_types import Reader, boolean, name_list, string
from rtunnel.wire.numbers import (
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_PK_OK,
    MSG_USERAUTH_REQUEST,
)

if TYPE_CHECKING:
    from rtunnel.ssh.transport import ServerTransport

USERAUTH_SERVICE = b"ssh-userauth"

_MAX_NAME_LENGTH = 64


class LoginEvents(Protocol):
    """Hears of every login that is decided, for the audit log."""

    def login_accepted(self, identity: Identity, address: str) -> None:
        """Somebody is about to be logged in.

        :param address: the peer's IP address.
        :raises ProtocolError: when they must not be after all; the text is for them.
        """

    def login_refused(self, address: str, username: str, reason: str) -> None:
        """A key or certificate was refused.

        A stock client shows its plain keys before its certificate. A key that was
        only shown counts as refused when the connection ends without a login.

        :param username: the login name that the peer gave, made printable.
        :param reason: one sentence, for our own eyes.
        """


@attrs.frozen
class LoginRules:
    """How a server decides on logins.

    :param identify: from algorithm, key or certificate blob and the peer's address to
        who that is; raises :class:`AuthenticationRefused`. Has no effects: it is asked
        before the peer has proven that it holds the key.
    :param make_service: the service that an identity gets.
    """

    identify: Callable[[bytes, bytes, str], Identity]
    make_service: Callable[[Identity], SSHService]
    events: LoginEvents | None = None


@attrs.frozen
class PublicKeyRequest:
    """One request by the method ``publickey``, as it came.

    :param signature: None when the peer only asks whether the key would do.
    """

    username: bytes
    service: bytes
    algorithm: bytes
    blob: bytes
    signature: bytes | None

    @classmethod
    def parse(cls, username: bytes, service: bytes, reader: Reader) -> PublicKeyRequest:
        """Read what follows the method's name.

        .. code-block:: text

            boolean   whether there is a signature
            string    algorithm
            string    key or certificate
            string    signature, if there is one
        """
        signed = reader.boolean()
        algorithm = reader.string(_MAX_NAME_LENGTH)
        blob = reader.string(MAX_CERTIFICATE_LENGTH)
        signature = reader.string(MAX_SIGNATURE_LENGTH) if signed else None
        reader.end()
        return cls(username, service, algorithm, blob, signature)


class UserAuthServer(SSHService):
    """The service ``ssh-userauth`` at a server.

    Every request is decided before the next one is read, so there is never more than
    one in flight. Each counts as an attempt, ``none`` and questions about a key too;
    a question that was answered with yes and the signature that follows count once.

    :param rules: how to decide.
    """

    name = USERAUTH_SERVICE
    transport: ServerTransport

    _log = Logger()

    def __init__(self, rules: LoginRules) -> None:
        self._rules = rules
        self._attempts = 0
        self._promised: tuple[bytes, bytes] | None = None
        # Refusals of keys that were shown only: none of them, if another one is taken.
        self._shown_in_vain: list[tuple[str, str]] = []

    def serviceStopped(self) -> None:
        """Somebody has logged in, or the connection is gone."""
        refusals, self._shown_in_vain = self._shown_in_vain, []
        for username, reason in refusals:
            self._tell_refused(username, reason)

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """Take a message of the authentication protocol, numbers 50 to 79."""
        if messageNum == MSG_USERAUTH_REQUEST:
            self._request_received(packet)
        else:
            self.transport.sendUnimplemented()

    def _request_received(self, packet: bytes) -> None:
        reader = Reader(packet)
        username = reader.string(MAX_USERNAME_LENGTH)
        service = reader.string(_MAX_NAME_LENGTH)
        method = reader.string(_MAX_NAME_LENGTH)
        if method != PUBLICKEY or service != CONNECTION_SERVICE:
            self._count_attempt()
            self._send_failure()
            return
        self.transport.login_attempted = True
        request = PublicKeyRequest.parse(username, service, reader)
        promised, self._promised = self._promised, None
        if request.signature is None or promised != (request.algorithm, request.blob):
            self._count_attempt()
        try:
            identity = self._identify(request)
        except AuthenticationRefused as error:
            self._refused(request, str(error))
            return
        if request.signature is None:
            self._promised = (request.algorithm, request.blob)
            self.transport.sendPacket(
                MSG_USERAUTH_PK_OK, string(request.algorithm) + string(request.blob)
            )
            return
        self._accepted(identity, request)

    def _identify(self, request: PublicKeyRequest) -> Identity:
        """Who that is, and proven if there is a signature."""
        transport = self.transport
        if request.algorithm not in transport.algorithms.user_keys:
            raise AuthenticationRefused(
                f"the algorithm {printable(request.algorithm)!r} is not accepted"
            )
        try:
            key = parse_public_key(request.algorithm, request.blob)
        except RtunnelError as error:
            raise AuthenticationRefused(str(error)) from error
        identity = self._rules.identify(
            request.algorithm, request.blob, transport.peer_address
        )
        if request.signature is not None:
            data = signed_data(
                transport.session_id,
                request.username,
                request.service,
                request.algorithm,
                request.blob,
            )
            if not key.verify(request.signature, data, request.algorithm):
                raise AuthenticationRefused("the signature is wrong")
        return identity

    def _accepted(self, identity: Identity, request: PublicKeyRequest) -> None:
        assert request.signature is not None
        proof = LoginProof(
            request.username,
            self.transport.session_id,
            request.algorithm,
            request.blob,
            request.signature,
        )
        service = self._rules.make_service(identity)
        self._shown_in_vain.clear()
        if self._rules.events is not None:
            self._rules.events.login_accepted(identity, self.transport.peer_address)
        self.transport.login_succeeded(identity, service, proof)

    def _refused(self, request: PublicKeyRequest, reason: str) -> None:
        username = printable(request.username)
        if request.signature is None:
            self._shown_in_vain.append((username, reason))
        else:
            self._tell_refused(username, reason)
        self._send_failure()

    def _tell_refused(self, username: str, reason: str) -> None:
        address = self.transport.peer_address
        if self.transport.may_log():
            self._log.info(
                "login of {username} from {address} refused: {reason}",
                username=username,
                address=address,
                reason=printable(reason),
            )
        if self._rules.events is not None:
            self._rules.events.login_refused(address, username, reason)

    def _count_attempt(self) -> None:
        self._attempts += 1
        if self._attempts > self.transport.limits.auth_attempts:
            raise ProtocolError(
                "too many authentication attempts",
                DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE,
            )

    def _send_failure(self) -> None:
        self.transport.sendPacket(
            MSG_USERAUTH_FAILURE, name_list([PUBLICKEY]) + boolean(False)
        )
