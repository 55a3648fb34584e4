"""Logging in at our server: by key or certificate, once, and for good.

Source: RFC 4252, RFC 8332 for RSA, draft-miller-ssh-cert for certificates. There is the
method ``publickey``, and for those who have no key yet, under the one login name
``join``, the method ``password`` with a token; neither name takes the other's method.
Why a login is refused is for our own log; the peer hears the same "no" whatever the
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import attrs
from twisted.conch.ssh.service import SSHService
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.errors import (
    DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE,
    AuthenticationRefused,
    ProtocolError,
    RtunnelError,
)
from rtunnel.naming import printable
from rtunnel.ssh.interfaces import ConnectionService
from rtunnel.trust.identity import Identity
from rtunnel.trust.join_token import TOKEN_REFUSED
from rtunnel.trust.login_proof import (
    CONNECTION_SERVICE,
    MAX_USERNAME_LENGTH,
    PUBLICKEY,
    LoginProof,
    signed_data,
)
from rtunnel.wire.algorithms import MAX_SIGNATURE_LENGTH
from rtunnel.wire.certificate import MAX_CERTIFICATE_LENGTH, parse_public_key
from rtunnel.wire.data_types import Reader, boolean, name_list, string, text
from rtunnel.wire.numbers import (
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_PK_OK,
    MSG_USERAUTH_REQUEST,
)

if TYPE_CHECKING:
    from rtunnel.ssh.transport import ServerTransport

USERAUTH_SERVICE = b"ssh-userauth"

#: The one login name that takes a token.
JOIN_USERNAME = b"join"
PASSWORD = b"password"

#: Characters of a token that are looked at; ours are far shorter.
MAX_TOKEN = 255

_MAX_NAME_LENGTH = 64


#: From a token and the peer's address to who that is; raises AuthenticationRefused, or
#: ProtocolError to end the connection with a sentence for the peer.
TokenCheck: TypeAlias = Callable[[str, str], Coroutine[Any, Any, Identity]]


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

    def token_refused(self, address: str, token: str, reason: str) -> None:
        """A token was refused.

        :param token: what was shown; never to be logged.
        :param reason: one sentence, for our own eyes.
        """


@attrs.frozen
class LoginRules:
    """How a server decides on logins.

    :param identify: from algorithm, key or certificate blob and the peer's address to
        who that is; raises :class:`AuthenticationRefused`. Has no effects: it is asked
        before the peer has proven that it holds the key.
    :param make_service: the service that an identity gets.
    :param check_token: says who has a token, and may take its time. None where nobody
        can join; then ``join`` is a login name like any other.
    """

    identify: Callable[[bytes, bytes, str], Identity]
    make_service: Callable[[Identity], ConnectionService]
    events: LoginEvents | None = None
    check_token: TokenCheck | None = None

    def methods(self, username: bytes) -> tuple[bytes, ...]:
        """The methods by which a login name can be used."""
        if username == JOIN_USERNAME and self.check_token is not None:
            return (PASSWORD,)
        return (PUBLICKEY,)


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
        self._has_said = False
        self._promised: tuple[bytes, bytes] | None = None
        self._deciding: Deferred[Identity] | None = None
        # Refusals of keys that were shown only: none of them, if another one is taken.
        self._shown_in_vain: list[tuple[str, str]] = []

    def serviceStopped(self) -> None:
        """Somebody has logged in, or the connection is gone."""
        deciding, self._deciding = self._deciding, None
        if deciding is not None:
            deciding.cancel()
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
        if method not in self._rules.methods(username) or service != CONNECTION_SERVICE:
            self._count_attempt()
            self._send_failure(username)
            return
        self.transport.login_attempted = True
        if method == PASSWORD:
            self._token_received(reader)
            return
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
        self._take_in(identity, proof)

    def _refused(self, request: PublicKeyRequest, reason: str) -> None:
        username = printable(request.username)
        if request.signature is None:
            self._shown_in_vain.append((username, reason))
        else:
            self._tell_refused(username, reason)
        self._send_failure(request.username)

    # By token.

    def _token_received(self, reader: Reader) -> None:
        """Read the rest of RFC 4252 section 8, and have it decided.

        Until then no further message is taken: who was asked about is who gets in.
        """
        is_change = reader.boolean()
        password = reader.string()
        if is_change:
            reader.string()
        reader.end()
        self._count_attempt()
        self.transport.hold_messages()
        token = "" if is_change else password.decode("utf-8", "replace")
        self._deciding = Deferred.fromCoroutine(self._check_token(token))
        self._deciding.addCallbacks(
            lambda identity: self._token_decided(lambda: self._take_in(identity, None)),
            lambda failure: self._token_not_good(token, failure),
        ).addErrback(
            lambda failure: self._log.failure("deciding about a token failed", failure)
        )

    async def _check_token(self, token: str) -> Identity:
        assert self._rules.check_token is not None
        if len(token) > MAX_TOKEN:
            raise AuthenticationRefused("that is too long for a token")
        return await self._rules.check_token(token, self.transport.peer_address)

    def _token_not_good(self, token: str, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if isinstance(failure.value, ProtocolError):
            self._token_decided(partial(_throw, failure.value))
            return
        if not failure.check(AuthenticationRefused):
            self._log.failure("a token could not be checked", failure)
        reason = str(failure.value)
        self._token_decided(lambda: self._refuse_token(token, reason))

    def _refuse_token(self, token: str, reason: str) -> None:
        self._log_refused(printable(JOIN_USERNAME), reason)
        if self._rules.events is not None:
            self._rules.events.token_refused(self.transport.peer_address, token, reason)
        if not self._has_said:
            # Once: the user of a stock ssh sees nothing else but that it was refused.
            self._has_said = True
            sentence = text(f"rtunnel: {TOKEN_REFUSED}\r\n")
            self.transport.sendPacket(MSG_USERAUTH_BANNER, sentence + text(""))
        self._send_failure(JOIN_USERNAME)

    def _token_decided(self, act: Callable[[], None]) -> None:
        self._deciding = None
        self.transport.go_on(act)

    # What both have in common.

    def _take_in(self, identity: Identity, proof: LoginProof | None) -> None:
        service = self._rules.make_service(identity)
        self._shown_in_vain.clear()
        if self._rules.events is not None:
            self._rules.events.login_accepted(identity, self.transport.peer_address)
        self.transport.login_succeeded(identity, service, proof)

    def _tell_refused(self, username: str, reason: str) -> None:
        self._log_refused(username, reason)
        if self._rules.events is not None:
            self._rules.events.login_refused(
                self.transport.peer_address, username, reason
            )

    def _log_refused(self, username: str, reason: str) -> None:
        if self.transport.may_log():
            self._log.info(
                "login of {username} from {address} refused: {reason}",
                username=username,
                address=self.transport.peer_address,
                reason=printable(reason),
            )

    def _count_attempt(self) -> None:
        self._attempts += 1
        if self._attempts > self.transport.limits.auth_attempts:
            raise ProtocolError(
                "too many authentication attempts",
                DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE,
            )

    def _send_failure(self, username: bytes) -> None:
        methods = name_list(self._rules.methods(username))
        self.transport.sendPacket(MSG_USERAUTH_FAILURE, methods + boolean(False))


def _throw(error: ProtocolError) -> None:
    raise error
