"""The SSH connections that a listener accepts, and those that we dial."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

from twisted.conch.ssh.factory import SSHFactory
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory

from rtunnel.ssh.admission import Admission
from rtunnel.ssh.admitted_transport import Listener
from rtunnel.ssh.connection import Connection, ConnectionHandler
from rtunnel.ssh.exchanges import HostCheck
from rtunnel.ssh.handshake_turns import HandshakeTurns
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.ssh.log_rate import LogRate
from rtunnel.ssh.peer_socket import ip_of
from rtunnel.ssh.transport import ClientTransport, ServerTransport
from rtunnel.ssh.userauth import LoginEvents, LoginRules, TokenCheck
from rtunnel.ssh.userauth_client import Credentials, TokenCredentials
from rtunnel.trust.identity import Identity
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, Algorithms
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.random_pool import RandomPool
from rtunnel.wire.source_address import Network

MakeConnection: TypeAlias = Callable[[ConnectionHandler], Connection]


class ServerFactory(SSHFactory):
    """Accepts SSH connections.

    :param clock: for every timer of every connection.
    :param host_keys: what to prove ourselves with; a callable is asked for each new
        connection, so that keys and certificates can be renewed.
    :param identify: from algorithm, key or certificate blob and the peer's address to
        who that is; raises :class:`~rtunnel.errors.AuthenticationRefused`.
    :param make_handler: what an identity's connection talks to.
    :param check_token: see :class:`~rtunnel.ssh.userauth.LoginRules`.
    :param events: hears of every login that is decided.
    :param algorithms: what to offer and to take.
    :param make_connection: the service around a handler.
    :param random: this many random bytes.
    :param proxy_protocol_from: the balancers that begin every connection with a PROXY
        header, which names its source; nobody else may send one.
    :param turns: when it is a stranger's turn, if there are other listeners too.
    :param closed: why nobody can log in at the moment, a sentence for them.
    """

    noisy = False

    def __init__(
        self,
        *,
        clock: IReactorTime,
        host_keys: Sequence[HostKey] | Callable[[], Sequence[HostKey]],
        identify: Callable[[bytes, bytes, str], Identity],
        make_handler: Callable[[Identity], ConnectionHandler],
        check_token: TokenCheck | None = None,
        limits: TransportLimits = DEFAULT_LIMITS,
        events: LoginEvents | None = None,
        algorithms: Algorithms = DEFAULT_ALGORITHMS,
        make_connection: MakeConnection = Connection,
        random: Callable[[int], bytes] = os.urandom,
        proxy_protocol_from: Sequence[Network] = (),
        turns: HandshakeTurns | None = None,
        closed: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.admission = Admission(
            limits, clock, lambda: int.from_bytes(random(4)) / 2**32, closed
        )
        if turns is None:
            turns = HandshakeTurns(clock, limits.handshake_share)
        self._listener = Listener(
            self.admission,
            turns,
            LogRate(clock),
            tuple(proxy_protocol_from),
        )
        self._clock = clock
        self._host_keys = host_keys if callable(host_keys) else lambda: host_keys
        self._limits = limits
        self._algorithms = algorithms
        self._random = RandomPool(random)
        self._rules = LoginRules(
            identify,
            lambda identity: make_connection(make_handler(identity)),
            events,
            check_token,
        )

    @property
    def draining(self) -> bool:
        """Whether new connections are refused, with a DISCONNECT that says so."""
        return self.admission.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self.admission.draining = value

    @property
    def unauthenticated(self) -> int:
        """Connections that have not logged in yet."""
        return self.admission.unauthenticated

    def startFactory(self) -> None:
        """Conch looks for its own kind of host keys here; ours are there already."""

    def buildProtocol(  # type: ignore[override]  # Conch knows no None, Twisted does.
        self, addr: IAddress | None
    ) -> ServerTransport | None:
        """Our end of a connection just accepted; None to close it at once."""
        address = ip_of(addr)
        if not self._listener.is_balancer(address) and self.admission.is_hopeless(
            address
        ):
            return None
        transport = ServerTransport(
            host_keys=self._host_keys(),
            rules=self._rules,
            listener=self._listener,
            clock=self._clock,
            limits=self._limits,
            algorithms=self._algorithms,
            random=self._random,
        )
        transport.factory = self
        return transport


class _DiallingFactory(Factory):
    """Opens SSH connections; what it builds has ``ready``.

    :param credentials: what to log in with.
    """

    noisy = False

    def __init__(
        self,
        credentials: Credentials | TokenCredentials,
        *,
        clock: IReactorTime,
        check_host: HostCheck,
        handler: ConnectionHandler,
        limits: TransportLimits,
        algorithms: Algorithms,
        make_connection: MakeConnection,
        random: Callable[[int], bytes],
    ) -> None:
        self._credentials = credentials
        self._clock = clock
        self._check_host = check_host
        self._make_service = lambda: make_connection(handler)
        self._limits = limits
        self._algorithms = algorithms
        self._random = RandomPool(random)

    def buildProtocol(self, addr: IAddress | None) -> ClientTransport:
        """Our end of a connection just made."""
        transport = ClientTransport(
            credentials=self._credentials,
            check_host=self._check_host,
            make_service=self._make_service,
            clock=self._clock,
            limits=self._limits,
            algorithms=self._algorithms,
            random=self._random,
        )
        transport.factory = self
        return transport


class ClientFactory(_DiallingFactory):
    """Opens SSH connections and logs in by key; what it builds has ``ready``.

    :param clock: for every timer.
    :param username: the login name; no identity.
    :param key: what to log in with.
    :param certificate: the certificate for ``key``, if there is one.
    :param check_host: from host key algorithm and blob to what was believed; raises to
        hang up before we authenticate.
    :param handler: what the connection talks to.
    :param algorithms: what to offer.
    :param make_connection: the service around the handler.
    :param random: this many random bytes.
    :raises ValueError: when key or certificate can do none of ``algorithms.user_keys``.
    """

    def __init__(
        self,
        *,
        clock: IReactorTime,
        username: str,
        key: PrivateKey,
        certificate: Certificate | None,
        check_host: HostCheck,
        handler: ConnectionHandler,
        limits: TransportLimits = DEFAULT_LIMITS,
        algorithms: Algorithms = DEFAULT_ALGORITHMS,
        make_connection: MakeConnection = Connection,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        credentials = Credentials(username, key, certificate)
        if not credentials.algorithms(algorithms.user_keys):
            raise ValueError("nothing to log in with under any of the user keys listed")
        super().__init__(
            credentials,
            clock=clock,
            check_host=check_host,
            handler=handler,
            limits=limits,
            algorithms=algorithms,
            make_connection=make_connection,
            random=random,
        )


class JoinFactory(_DiallingFactory):
    """Opens SSH connections and logs in by token; what it builds has ``ready``.

    :param clock: for every timer.
    :param token: shown to a server that ``check_host`` has believed.
    :param check_host: see :class:`ClientFactory`.
    :param handler: what the connection talks to.
    """

    def __init__(
        self,
        *,
        clock: IReactorTime,
        token: str,
        check_host: HostCheck,
        handler: ConnectionHandler,
    ) -> None:
        super().__init__(
            TokenCredentials(token),
            clock=clock,
            check_host=check_host,
            handler=handler,
            limits=DEFAULT_LIMITS,
            algorithms=DEFAULT_ALGORITHMS,
            make_connection=Connection,
            random=os.urandom,
        )
