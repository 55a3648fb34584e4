"""The two ends of an SSH connection: who speaks first, who proves what, who logs in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import SSHClientTransport, SSHServerTransport
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_HOST_KEY_NOT_VERIFIABLE,
    DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE,
    DISCONNECT_SERVICE_NOT_AVAILABLE,
    AuthenticationFailed,
    ConnectionFailed,
    HostRefused,
    ProtocolError,
)
from rtunnel.naming import printable
from rtunnel.ssh.admitted_transport import AdmittedTransport, Listener
from rtunnel.ssh.connection import Connection
from rtunnel.ssh.exchanges import ClientKeyExchanges, HostCheck, ServerKeyExchanges
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.host_key_update import HOST_KEYS, PROVE_HOST_KEYS, HostKeyUpdate
from rtunnel.ssh.interfaces import ConnectionService
from rtunnel.ssh.limits import TransportLimits
from rtunnel.ssh.packet_transport import PacketTransport
from rtunnel.ssh.userauth import USERAUTH_SERVICE, LoginRules, UserAuthServer
from rtunnel.ssh.userauth_client import Credentials, TokenCredentials, UserAuthClient
from rtunnel.trust.identity import Identity, JoinIdentity
from rtunnel.trust.login_proof import LoginProof
from rtunnel.wire.algorithms import Algorithms, server_sig_algs
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import Reader, string
from rtunnel.wire.negotiation import (
    EXT_INFO_CLIENT,
    SERVER_SIG_ALGS,
    encode_ext_info,
)
from rtunnel.wire.numbers import (
    MSG_EXT_INFO,
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_USERAUTH_SUCCESS,
)

_MAX_SERVICE_NAME = 64


class ServerTransport(AdmittedTransport, SSHServerTransport):
    """The server's end.

    ``identity`` is who logged in, None until then; it never changes. ``login_proof`` is
    what it was proven with, None for a token.

    :param host_keys: what to prove ourselves with, kept for the connection's life.
    :param rules: how to decide on logins.
    :param listener: what we share with the other connections.
    """

    __slots__ = (
        "_host_keys",
        "_rules",
        "exchanges",
        "identity",
        "login_proof",
    )

    def __init__(
        self,
        *,
        host_keys: Sequence[HostKey],
        rules: LoginRules,
        listener: Listener,
        clock: IReactorTime,
        limits: TransportLimits,
        algorithms: Algorithms,
        random: Callable[[int], bytes],
    ) -> None:
        super().__init__(
            listener=listener,
            clock=clock,
            limits=limits,
            algorithms=algorithms,
            random=random,
        )
        self.exchanges: ServerKeyExchanges = ServerKeyExchanges(
            self.make_exchange_context(), host_keys
        )
        self.identity: Identity | None = None
        self.login_proof: LoginProof | None = None
        self._rules = rules
        self._host_keys = host_keys

    def first_keys_in_use(self) -> None:
        """Say which user keys we take, if the client wants to know (RFC 8308)."""
        if EXT_INFO_CLIENT in self.exchanges.peer_offers:
            algorithms = b",".join(server_sig_algs(self.algorithms.user_keys))
            self.sendPacket(
                MSG_EXT_INFO, encode_ext_info([(SERVER_SIG_ALGS, algorithms)])
            )

    def takes_ext_info(self) -> bool:
        """A client's belongs right after its first NEWKEYS."""
        return self.exchanges.completed == 1 and self._opener.packets == 1

    def service_message(self, number: int, payload: bytes) -> None:
        """Start authentication, once; there is nothing else to ask for."""
        if number != MSG_SERVICE_REQUEST:
            super().service_message(number, payload)
            return
        reader = Reader(payload)
        name = reader.string(_MAX_SERVICE_NAME)
        reader.end()
        if name != USERAUTH_SERVICE or self.service is not None:
            raise ProtocolError(
                f"the service {printable(name)!r} is not available now",
                DISCONNECT_SERVICE_NOT_AVAILABLE,
            )
        self.sendPacket(MSG_SERVICE_ACCEPT, string(name))
        self.setService(UserAuthServer(self._rules))

    def login_succeeded(
        self, identity: Identity, service: ConnectionService, proof: LoginProof | None
    ) -> None:
        """Tell the client, and run ``service`` for the rest of the connection."""
        self.identity = identity
        self.login_proof = proof
        self.sendPacket(MSG_USERAUTH_SUCCESS, b"")
        self.logged_in(as_somebody=not isinstance(identity, JoinIdentity))
        self.start_service(service)
        self._tell_host_keys(service)

    def _tell_host_keys(self, service: SSHService) -> None:
        update = HostKeyUpdate(
            self._host_keys, self.exchanges.host_key_algorithm, self.session_id
        )
        if update.is_needed and isinstance(service, Connection):
            service.answer_request(PROVE_HOST_KEYS, update.prove)
            service.send_global_request(
                HOST_KEYS, update.announcement(), want_reply=False
            )


class ClientTransport(PacketTransport, SSHClientTransport):
    """The client's end.

    ``ready`` fires once: with the service once we are logged in, or fails with
    :class:`ConnectionFailed`, :class:`HostRefused` or :class:`AuthenticationFailed`.
    Cancelling it hangs up.

    ``server_sig_algs`` is what the server said of user keys, None if nothing.

    :param credentials: what to log in with.
    :param check_host: asked about the server before we say who we are.
    :param make_service: the service to run once logged in.
    """

    __slots__ = (
        "_credentials",
        "_failure",
        "_make_service",
        "_settled",
        "exchanges",
        "identity",
        "login_proof",
        "ready",
        "server_sig_algs",
    )

    def __init__(
        self,
        *,
        credentials: Credentials | TokenCredentials,
        check_host: HostCheck,
        make_service: Callable[[], Connection],
        clock: IReactorTime,
        limits: TransportLimits,
        algorithms: Algorithms,
        random: Callable[[int], bytes],
    ) -> None:
        super().__init__(
            clock=clock, limits=limits, algorithms=algorithms, random=random
        )
        self.exchanges: ClientKeyExchanges = ClientKeyExchanges(
            self.make_exchange_context(), check_host
        )
        # Who we are is for the server to say.
        self.identity: Identity | None = None
        self.login_proof: LoginProof | None = None
        self.server_sig_algs: tuple[bytes, ...] | None = None
        self.ready: Deferred[Connection] = Deferred(self._ready_cancelled)
        self._credentials = credentials
        self._make_service = make_service
        self._failure: ConnectionFailed | None = None
        self._settled = False

    @property
    def host_certificate(self) -> Certificate | None:
        """The server's certificate, once checked; None when it showed a plain key."""
        host = self.exchanges.host
        return host if isinstance(host, Certificate) else None

    def first_exchange_over(self) -> None:
        """Ask to log in."""
        self.sendPacket(MSG_SERVICE_REQUEST, string(USERAUTH_SERVICE))

    def takes_ext_info(self) -> bool:
        """A server's comes after its first NEWKEYS or before it lets us in."""
        return not self.authenticated

    def extensions_received(self, extensions: dict[bytes, bytes]) -> None:
        """Remember which signatures the server takes."""
        names = extensions.get(SERVER_SIG_ALGS)
        if names is not None:
            self.server_sig_algs = tuple(names.split(b","))

    def service_message(self, number: int, payload: bytes) -> None:
        """Authentication may begin."""
        if number != MSG_SERVICE_ACCEPT or self.service is not None:
            super().service_message(number, payload)
            return
        if Reader(payload).string(_MAX_SERVICE_NAME) != USERAUTH_SERVICE:
            raise ProtocolError("another service accepted than we asked for")
        self.setService(UserAuthClient(self._credentials))

    def login_succeeded(self) -> None:
        """The server let us in."""
        service = self._make_service()
        self.start_service(service)
        if not self._settled and not self._closing:
            self._settled = True
            self.ready.callback(service)

    def login_failed(self, error: AuthenticationFailed) -> None:
        """The server did not let us in."""
        self._failure = error
        self.disconnect(DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE, "no more keys")

    def host_refused(self, error: HostRefused) -> None:
        """Hang up before saying who we are."""
        self._failure = error
        self.disconnect(DISCONNECT_HOST_KEY_NOT_VERIFIABLE, "host key not accepted")

    def connection_ended(self) -> None:
        """Whoever waits for the connection hears that it is gone."""
        if not self._settled:
            self._settled = True
            self.ready.errback(self._failure or ConnectionFailed(self.close_reason))

    def _ready_cancelled(self, ready: Deferred[Connection]) -> None:
        self._settled = True
        self.disconnect(DISCONNECT_BY_APPLICATION, "no longer wanted")
