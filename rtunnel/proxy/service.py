"""The proxy as a Twisted service: what starts, in which order, and how it leaves."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from uuid import uuid4

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtunnel.audit.events import PolicyReloaded, ProxyStarted, ProxyStopping
from rtunnel.audit.log import AuditLog
from rtunnel.config import ProxyConfig, check_usable, load_proxy
from rtunnel.errors import AuthenticationRefused, ConfigError, KeyFileError
from rtunnel.proxy.accepted import Accepted
from rtunnel.proxy.authorized_keys_file import AuthorizedKeysFile
from rtunnel.proxy.credentials import LiveCredentials
from rtunnel.proxy.dispatch import Dispatcher
from rtunnel.proxy.join_desk import JoinDesk
from rtunnel.proxy.join_verifier import JoinVerifier
from rtunnel.proxy.joiner import Joiner
from rtunnel.proxy.known_clusters import KnownClusters
from rtunnel.proxy.live_logins import LiveLogins
from rtunnel.proxy.local_site import LocalSite
from rtunnel.proxy.peer import Peer
from rtunnel.proxy.peer_addresses import peer_addresses
from rtunnel.proxy.peer_link import LinkSettings, link_limits
from rtunnel.proxy.peers import Peers
from rtunnel.proxy.recording import Recording
from rtunnel.proxy.renewal import RenewalVerifier
from rtunnel.proxy.revocation_watch import RevocationWatch
from rtunnel.proxy.revoking import Revoking
from rtunnel.proxy.rotation import Rotation
from rtunnel.proxy.signing import SIGN_CHANNEL, Signer, signing_roles
from rtunnel.proxy.sites import Sites
from rtunnel.proxy.tokens import Tokens
from rtunnel.proxy.trust import LiveTrust
from rtunnel.proxy.tunnel import Tunnel
from rtunnel.registry.backends import open_registry
from rtunnel.registry.membership import Membership
from rtunnel.registry.records import ProxyRecord
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.ssh.connection import Connection, ConnectionHandler
from rtunnel.ssh.factory import ServerFactory
from rtunnel.ssh.handshake_turns import HandshakeTurns
from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.ssh.penalties import PenaltyLimits
from rtunnel.ssh.userauth import TokenCheck
from rtunnel.state_directory import load_proxy_credentials
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.authentication import Authentication
from rtunnel.trust.authorized_keys import AuthorizedKeys
from rtunnel.trust.identity import Identity, PeerIdentity
from rtunnel.trust.policy import Policy
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.trust.signing_request import JoinRequest
from rtunnel.wire.source_address import Network

#: Seconds that closed connections have to flush what was written before.
FLUSH_TIMEOUT = 3.0

#: TCP connections that wait in the kernel to be accepted; Twisted has 50.
BACKLOG = 1024

#: Who joins has one session and nothing else.
_JOINER_LIMITS = ChannelLimits(channels=1)


class ProxyService(Service):
    """One proxy.

    :param config: checked values of its config file.
    :param reactor: listens, resolves, connects, and is the clock.
    :param now: wall clock, seconds since the epoch.
    :param new_id: makes connection ids.
    :raises RtunnelError: when keys or certificates cannot be used.
    :ivar started: fires when every listener is open; fails when one cannot be, or the
        registry refuses.
    """

    _log = Logger()

    def __init__(
        self,
        config: ProxyConfig,
        reactor: Any,
        now: Callable[[], float],
        new_id: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._now = now
        self.started: Deferred[None] = Deferred()
        self._ready = False
        self._leaving = False
        self._ports: list[IListeningPort] = []
        self._peer_ports: list[IListeningPort] = []
        self._starting: Deferred[None] | None = None

        self._policy = Policy(config.allow)
        self._registry = open_registry(config.registry.url, config.state, reactor, now)
        self._credentials = LiveCredentials(
            lambda: load_proxy_credentials(config.state, config.cluster, now())
        )
        self._audit = Recording(
            AuditLog(config.audit.path, now, self._credentials.proxy_id),
            reactor,
            config.audit.required,
        )
        # To peers we log in with our host certificate.
        usable = self._credentials.present.certificate.signature_algorithms
        check_usable(config.path, config.ssh, host=usable, user=usable)
        self._membership = Membership(
            self._registry,
            reactor,
            ProxyRecord(
                id=self._credentials.proxy_id,
                name=config.name,
                addresses=tuple(map(str, config.ssh.advertise)),
                generation=int(now()),
                started=now(),
                signs=signing_roles(config.state),
            ),
        )
        self._known = KnownClusters(self._registry, now)
        self._revocations = RevocationWatch(
            self._registry, reactor, config.revocation.krl
        )
        self._authorized_keys = AuthorizedKeysFile(config.ssh.authorized_keys)
        self._revoking = Revoking(
            self._registry, self._audit.record, self._credentials.proxy_id
        )
        # Values that every connection shares.
        channels = config.limits.channels_per_connection
        self._channel_limits = ChannelLimits(channels=channels)
        self._peer_limits = link_limits(channels)
        self._peers = Peers(
            self._membership,
            LinkSettings(
                cluster=config.cluster,
                credentials=self._credentials,
                reactor=reactor,
                now=now,
                heartbeat=config.tunnel.heartbeat,
                missed=config.tunnel.missed,
                limits=self._peer_limits,
                algorithms=config.ssh.algorithms,
                revocations=lambda: self._revocations.present,
            ),
        )
        self._tokens = Tokens(
            self._registry,
            now,
            record=self._audit.record,
            proxy_id=self._credentials.proxy_id,
        )
        joins = JoinVerifier(
            self._tokens,
            proxy_id=self._credentials.proxy_id,
            cluster=config.cluster,
        )
        renewals = RenewalVerifier(
            self._rules(users=True, peers=True).identify,
            proxy_id=self._credentials.proxy_id,
            cluster=config.cluster,
            now=now,
        )
        self._signer = Signer(
            directory=config.state,
            cluster=config.cluster,
            public_names=[address.host for address in config.ssh.public],
            anchors=lambda: self._credentials.anchors,
            verifiers={JoinRequest.kind: joins, RenewalRequest.kind: renewals},
            peers=self._peers,
            record=self._audit.record,
            now=now,
            validity={
                "agent": config.certificates.agent_ttl,
                "proxy": config.certificates.proxy_ttl,
            },
        )
        self._desk = JoinDesk(
            config=config,
            proxy_id=self._credentials.proxy_id,
            tokens=self._tokens,
            signer=self._signer,
            record=self._audit.record,
        )
        # With a listener for peers alone, they have no business on the other one.
        apart = bool(config.peer.listen)
        everybody = self._authentication(users=True, peers=not apart)
        self._accepted = self._make_accepted(new_id, everybody)
        self._revocations.subscribe(self._logins.revocations_changed)
        self._revocations.subscribe(self._peers.close_revoked)
        self._credentials.subscribe(self._logins.authorities_changed)
        self._credentials.subscribe(self._peers.authorities_changed)
        self._turns = HandshakeTurns(reactor, DEFAULT_LIMITS.handshake_share)
        self._factory = self._make_factory(
            everybody, config.ssh.proxy_protocol_from, self._desk.check_token
        )
        self._peer_factory = self._make_factory(
            self._authentication(users=False, peers=True), balancers=()
        )

    def _rules(self, *, users: bool, peers: bool) -> Authentication:
        def anchors() -> TrustAnchors:
            present = self._credentials.anchors
            return TrustAnchors(
                host=present.host if peers else (),
                agent=present.agent if users else (),
                user=present.user if users else (),
            )

        return Authentication(
            anchors=anchors,
            cluster=self._config.cluster,
            authorized_keys=(
                self._authorized_keys.read if users else lambda: AuthorizedKeys()
            ),
            now=self._now,
            revocations=lambda: self._revocations.present,
        )

    def _authentication(self, *, users: bool, peers: bool) -> _Identify:
        authentication = self._rules(users=users, peers=peers)

        def identify(algorithm: bytes, blob: bytes, source: str) -> Identity:
            identity = authentication.identify(algorithm, blob, source)
            if (
                isinstance(identity, PeerIdentity)
                and identity.proxy_id == self._credentials.proxy_id
            ):
                raise AuthenticationRefused("that is this very proxy's certificate")
            return identity

        return identify

    def _make_factory(
        self,
        identify: _Identify,
        balancers: Sequence[Network],
        check_token: TokenCheck | None = None,
    ) -> ServerFactory:
        limits = self._config.limits
        penalties = PenaltyLimits(exempt=limits.penalties_exempt)
        return ServerFactory(
            clock=self._reactor,
            host_keys=self._credentials.host_keys,
            identify=identify,
            make_handler=self._accepted.make_handler,
            check_token=check_token,
            limits=TransportLimits(
                login_grace=limits.login_grace,
                unauthenticated=limits.unauthenticated,
                unauthenticated_per_source=limits.unauthenticated_per_source,
                penalties=penalties if limits.penalties else None,
            ),
            events=self._accepted,
            algorithms=self._config.ssh.algorithms,
            make_connection=self._make_connection,
            proxy_protocol_from=balancers,
            turns=self._turns,
            closed=self._accepted.closed,
        )

    def _make_connection(self, handler: ConnectionHandler) -> Connection:
        if isinstance(handler, Peer):
            return Connection(handler, self._peer_limits)
        if isinstance(handler, Joiner):
            return Connection(handler, _JOINER_LIMITS)
        return Connection(handler, self._channel_limits)

    def _make_accepted(
        self, new_id: Callable[[], str], identify: _Identify
    ) -> Accepted:
        sites: Sites[Tunnel] = Sites()
        dispatcher = Dispatcher(
            own_cluster=self._config.cluster,
            own_name=self._config.name,
            policy=self._current_policy,
            sites=sites,
            local=LocalSite(self._reactor, self._config.local.allow),
            peers=self._peers,
            known=self._known,
            clock=self._reactor,
            now=self._now,
        )
        self._logins = LiveLogins(
            clock=self._reactor,
            now=self._now,
            revocations=lambda: self._revocations.present,
            policy=self._current_policy,
            may_reach=dispatcher.may_reach,
            record=self._audit.record,
            proxy_id=self._credentials.proxy_id,
            outlive=self._config.limits.sessions_outlive_certificates,
            close_on_change=self._config.close_on_change,
            retired=lambda identity: self._credentials.anchors.reason_against(identity),
            unlisted=lambda identity: self._authorized_keys.reason_against(
                identity, self._now()
            ),
        )
        self._trust = LiveTrust(
            config=self._config,
            registry=self._registry,
            clock=self._reactor,
            credentials=self._credentials,
            signer=self._signer,
            tunnels=sites.tunnels,
            certificate_changed=self._peers.make_anew,
            record=self._audit.record,
            now=self._now,
            chance=random.random,
        )
        return Accepted(
            membership=self._membership,
            sites=sites,
            known=self._known,
            dispatcher=dispatcher,
            logins=self._logins,
            policy=self._current_policy,
            identify=identify,
            audit=self._audit,
            clock=self._reactor,
            heartbeat=self._config.tunnel.heartbeat,
            missed=self._config.tunnel.missed,
            new_id=new_id,
            now=self._now,
            answers={SIGN_CHANNEL: self._signer.answer},
            desk=self._desk,
            trust=self._trust.agents,
        )

    @property
    def tokens(self) -> Tokens:
        """The join tokens."""
        return self._tokens

    @property
    def rotation(self) -> Rotation:
        """The state of the authorities, and steps of their rotation."""
        return self._trust.rotation

    @property
    def revoking(self) -> Revoking:
        """What changes the operators' revocations."""
        return self._revoking

    def _current_policy(self) -> Policy:
        return self._policy

    def startService(self) -> None:
        """Begin to start; :attr:`started` tells how it went."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.chainDeferred(self.started)

    async def _start(self) -> None:
        await self._registry.start()
        await self._membership.start()
        await self._known.start()
        await self._revocations.start()
        self._audit.start()
        self._accepted.start()
        for description in self._config.ssh.listen:
            self._ports.append(await self._listen(description, self._factory))
        for description in self._config.peer.listen:
            port = await self._listen(description, self._peer_factory)
            self._peer_ports.append(port)
        await self._publish_peer_addresses()
        await self._trust.start()
        self._ready = True
        self._audit.record(ProxyStarted(proxy=self._membership.record.id))
        self._log.info(
            "proxy {name} ({id}) of cluster {cluster} is ready on {listen}",
            name=self._config.name,
            id=self._membership.record.id,
            cluster=self._config.cluster,
            listen=", ".join(map(_address, self._ports)),
        )

    async def _publish_peer_addresses(self) -> None:
        config = self._config
        descriptions, ports = config.peer.listen, self._peer_ports
        if not descriptions:
            descriptions, ports = config.ssh.listen, self._ports
        addresses = peer_addresses(
            config,
            [
                (description, port.getHost())
                for description, port in zip(descriptions, ports, strict=True)
            ],
        )
        if not addresses and config.registry.url != "memory:":
            self._log.warn(
                "other proxies cannot pass connections on to this one: set "
                "peer.advertise in {path}",
                path=str(config.path),
            )
        await self._membership.set_peer_addresses(addresses)

    async def _listen(self, description: str, factory: Any) -> IListeningPort:
        try:
            endpoint = serverFromString(self._reactor, _with_backlog(description))
        except ValueError as error:
            raise ConfigError(
                [f"{self._config.path}: {description!r} is no endpoint: {error}"]
            ) from None
        port: IListeningPort = await endpoint.listen(factory)
        return port

    def not_ready(self) -> str | None:
        """Why a balancer should send nobody here; None when it should."""
        if self._leaving:
            return "draining"
        return self._audit.problem if self._ready else "starting"

    def status(self) -> dict[str, Any]:
        """The status document (design, section 8), with where this proxy listens."""
        document = self._accepted.status()
        document["proxy"]["listen"] = [_address(port) for port in self._ports]
        document["proxy"]["certificate"] = self._trust.certificate_status()
        document["registry"] = {"problem": self._membership.problem}
        document["revocation"] = self._revocations.status()
        document["audit"] = self._audit.status()
        return document

    def reload(self) -> None:
        """Read what may change, and reopen the audit file (SIGHUP).

        That is the ``[[allow]]`` rules, this proxy's certificate, the authorities, and
        the key revocation lists. With ``close_on_change`` what these allow no longer is
        closed, and who is logged in by a line of ``authorized_keys`` that is gone.
        A config file with errors changes nothing; each error is logged. So it is with
        keys and certificates.
        """
        self._audit.reopen()
        self._reload_credentials()
        self._revocations.check_files()
        try:
            config = load_proxy(self._config.path)
        except ConfigError as error:
            for problem in error.problems:
                self._log.error("not reloaded: {problem}", problem=problem)
            self._audit.record(
                PolicyReloaded(
                    proxy=self._membership.record.id,
                    outcome="failed",
                    reason=error.problems[0],
                )
            )
            return
        self._policy = Policy(config.allow)
        self._audit.record(PolicyReloaded(proxy=self._membership.record.id))
        self._logins.close_on_change = config.close_on_change
        self._logins.reloaded()
        self._log.info(
            "reloaded {count} [[allow]] rules from {path}; other keys need a restart",
            count=len(config.allow),
            path=str(self._config.path),
        )

    def _reload_credentials(self) -> None:
        try:
            changed = self._credentials.reload()
        except (ConfigError, KeyFileError) as error:
            self._log.error("not reloaded: {problem}", problem=str(error))
            return
        if changed:
            self._log.info(
                "certificate and authorities were read again; open connections stay"
            )

    def stopService(self) -> Deferred[None]:
        """Drain and stop: see the design's "Drain".

        :return: fires when everything is closed.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self.not_ready() == "starting":
            # Still starting, or never started: nothing is open to be drained.
            if self._starting is not None:
                self._starting.cancel()
            await self._close_ports()
            await self._membership.leave()
            await self._registry.close()
            self._audit.stop()
            return
        drain = self._config.drain
        self._ready = False
        self._leaving = True
        self._audit.record(ProxyStopping(proxy=self._membership.record.id))
        # Until balancers have asked again, they send people here.
        grace = min(drain.grace, drain.timeout)
        if grace:
            await deferLater(self._reactor, grace)
        self._accepted.refuse_new()
        await self._membership.set_state("draining")
        await self._close_ports()
        await self._drained(drain.timeout - grace)
        self._peers.close_all()
        closing = self._accepted.close_all()
        closing.addTimeout(FLUSH_TIMEOUT, self._reactor, onTimeoutCancel=_ignore)
        await closing
        self._accepted.stop()
        self._trust.stop()
        self._known.stop()
        self._revocations.stop()
        await self._membership.leave()
        await self._registry.close()
        self._audit.stop()
        self._log.info("proxy {name} has stopped", name=self._config.name)

    async def _drained(self, timeout: float) -> None:
        idle = self._accepted.drain(timeout)
        if not idle.called:
            self._log.info(
                "waiting for {count} open connections, at most {timeout} seconds",
                count=self._accepted.open_connections,
                timeout=timeout,
            )
        idle.addTimeout(timeout, self._reactor)
        try:
            await idle
        except TimeoutError:
            self._log.warn(
                "cutting {count} connections that are still open after {timeout} "
                "seconds",
                count=self._accepted.open_connections,
                timeout=timeout,
            )

    async def _close_ports(self) -> None:
        closing = [*self._ports, *self._peer_ports]
        self._ports, self._peer_ports = [], []
        for port in closing:
            await maybeDeferred(port.stopListening)


#: From algorithm, key or certificate, and address to an identity.
_Identify: TypeAlias = Callable[[bytes, bytes, str], Identity]


def _with_backlog(description: str) -> str:
    """An endpoint string with room for a flood to queue in, unless it says how much.

    Where the kernel's queue is full, everybody's connection takes seconds longer.
    """
    kind, *arguments = description.removeprefix("haproxy:").split(":")
    takes_it = kind in ("tcp", "tcp6", "ssl")
    if not takes_it or any(each.startswith("backlog=") for each in arguments):
        return description
    return f"{description}:backlog={BACKLOG}"


def _address(port: IListeningPort) -> str:
    address = port.getHost()
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    return str(address)


def _ignore(result: object, timeout: float) -> None:
    """What did not go by itself is cut when the process ends."""
