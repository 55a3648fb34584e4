"""What one proxy is made of, and which part knows which other."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from rtunnel.audit.events import RevocationListFailed
from rtunnel.audit.log import AuditLog
from rtunnel.config import ProxyConfig, check_usable
from rtunnel.errors import AuthenticationRefused
from rtunnel.key_making import key_maker
from rtunnel.proxy.accepted import Accepted
from rtunnel.proxy.authorized_keys_file import AuthorizedKeysFile
from rtunnel.proxy.credentials import LiveCredentials
from rtunnel.proxy.dispatch import Dispatcher
from rtunnel.proxy.host_revoking import HostRevoking
from rtunnel.proxy.join_desk import JoinDesk
from rtunnel.proxy.join_verifier import JoinVerifier
from rtunnel.proxy.joiner import Joiner
from rtunnel.proxy.known_clusters import KnownClusters
from rtunnel.proxy.live_logins import LiveLogins
from rtunnel.proxy.local_site import LocalSite
from rtunnel.proxy.login_audit import LoginAudit
from rtunnel.proxy.peer import Peer
from rtunnel.proxy.peer_link import LinkSettings, link_limits
from rtunnel.proxy.peers import Peers
from rtunnel.proxy.publication import Publication
from rtunnel.proxy.recording import Recording
from rtunnel.proxy.refusal_rate import RefusalRate
from rtunnel.proxy.renewal import RenewalVerifier
from rtunnel.proxy.revocation_watch import RevocationWatch
from rtunnel.proxy.revoking import Revoking
from rtunnel.proxy.signing import SIGN_CHANNEL, Signer, signing_roles
from rtunnel.proxy.sites import Sites
from rtunnel.proxy.tokens import Tokens
from rtunnel.proxy.trust import LiveTrust
from rtunnel.proxy.tunnel import Tunnel
from rtunnel.proxy.tunnels import Tunnels
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
from rtunnel.state_directory import discard_unfinished, load_proxy_credentials
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.authentication import Authentication
from rtunnel.trust.authorized_keys import AuthorizedKeys
from rtunnel.trust.identity import Identity, PeerIdentity
from rtunnel.trust.policy import Policy
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.trust.signing_request import JoinRequest
from rtunnel.wire.source_address import Network

#: Who joins has one session and nothing else.
_JOINER_LIMITS = ChannelLimits(channels=1)

#: From algorithm, key or certificate, and address to an identity.
_Identify: TypeAlias = Callable[[bytes, bytes, str], Identity]


class ProxyParts:
    """The parts of one proxy, put together and not started.

    :param config: checked values of its config file.
    :param reactor: listens, resolves, connects, and is the clock.
    :param now: wall clock, seconds since the epoch.
    :param new_id: makes connection ids.
    :raises RtunnelError: when keys or certificates cannot be used.
    :ivar policy: may be replaced; what is decided from then on goes by the new one.
    :ivar factory: for the listeners that agents and clients use.
    :ivar peer_factory: for listeners of peers alone.
    """

    def __init__(
        self,
        config: ProxyConfig,
        reactor: Any,
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._now = now

        discard_unfinished(config.state)
        self.policy = Policy(config.allow)
        self.registry = open_registry(config.registry.url, config.state, reactor, now)
        self.credentials = LiveCredentials(
            lambda: load_proxy_credentials(config.state, config.cluster, now())
        )
        self.audit = self._make_recording()
        # To peers we log in with our host certificate.
        usable = self.credentials.present.certificate.signature_algorithms
        check_usable(config.path, config.ssh, host=usable, user=usable)
        self.membership = Membership(
            self.registry,
            reactor,
            ProxyRecord(
                id=self.credentials.proxy_id,
                name=config.name,
                addresses=tuple(map(str, config.ssh.advertise)),
                generation=int(now()),
                started=now(),
                signs=signing_roles(config.state),
            ),
        )
        self.sites: Sites[Tunnel] = Sites()
        self.known = KnownClusters(self.registry, now)
        self.revocations = RevocationWatch(
            self.registry,
            reactor,
            config.revocation.krl,
            lambda path, problem: self.audit.record(
                RevocationListFailed(
                    proxy=self.credentials.proxy_id, target=str(path), reason=problem
                )
            ),
        )
        self._authorized_keys = AuthorizedKeysFile(config.ssh.authorized_keys)
        self._host_revoking = HostRevoking(self.registry, config.state, now)
        self.revoking = Revoking(
            self.registry,
            self.audit.record,
            self.credentials.proxy_id,
            self._host_revoking,
        )
        # Values that every connection shares.
        channels = config.limits.channels_per_connection
        self._channel_limits = ChannelLimits(channels=channels)
        self._peer_limits = link_limits(channels)
        self.peers = Peers(
            self.membership,
            LinkSettings(
                cluster=config.cluster,
                credentials=self.credentials,
                reactor=reactor,
                now=now,
                heartbeat=config.tunnel.heartbeat,
                missed=config.tunnel.missed,
                limits=self._peer_limits,
                algorithms=config.ssh.algorithms,
                revocations=lambda: self.revocations.present,
            ),
        )
        self.tokens = Tokens(
            self.registry,
            now,
            record=self.audit.record,
            proxy_id=self.credentials.proxy_id,
        )
        joins = JoinVerifier(
            self.tokens,
            proxy_id=self.credentials.proxy_id,
            cluster=config.cluster,
        )
        renewals = RenewalVerifier(
            self._rules(users=True, peers=True).identify,
            proxy_id=self.credentials.proxy_id,
            cluster=config.cluster,
            now=now,
        )
        self._signer = Signer(
            directory=config.state,
            cluster=config.cluster,
            public_names=[address.host for address in config.ssh.public],
            anchors=lambda: self.credentials.anchors,
            verifiers={JoinRequest.kind: joins, RenewalRequest.kind: renewals},
            peers=self.peers,
            record=self.audit.record,
            clock=reactor,
            now=now,
            validity={
                "agent": config.certificates.agent_ttl,
                "proxy": config.certificates.proxy_ttl,
            },
        )
        self._desk = JoinDesk(
            config=config,
            proxy_id=self.credentials.proxy_id,
            tokens=self.tokens,
            signer=self._signer,
            record=self.audit.record,
        )
        # With a listener for peers alone, they have no business on the other one.
        apart = bool(config.peer.listen)
        everybody = self._authentication(users=True, peers=not apart)
        self.accepted = self._make_accepted(new_id, everybody)
        self.revocations.subscribe(self.logins.revocations_changed)
        self.revocations.subscribe(self.peers.close_revoked)
        self.credentials.subscribe(self.logins.authorities_changed)
        self.credentials.subscribe(self.peers.authorities_changed)
        self._turns = HandshakeTurns(reactor, DEFAULT_LIMITS.handshake_share)
        self.factory = self._make_factory(
            everybody, config.ssh.proxy_protocol_from, self._desk.check_token
        )
        self.peer_factory = self._make_factory(
            self._authentication(users=False, peers=True), balancers=()
        )

    def _make_recording(self) -> Recording:
        audit, proxy_id = self._config.audit, self.credentials.proxy_id
        return Recording(
            AuditLog(audit.path, self._now, proxy_id),
            RefusalRate(
                audit.refused_logins_per_second,
                audit.refused_logins_burst,
                self._reactor.seconds(),
                proxy_id,
            ),
            self._reactor,
            self._now,
            required=audit.required,
        )

    def _rules(self, *, users: bool, peers: bool) -> Authentication:
        def anchors() -> TrustAnchors:
            present = self.credentials.anchors
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
            revocations=lambda: self.revocations.present,
        )

    def _authentication(self, *, users: bool, peers: bool) -> _Identify:
        authentication = self._rules(users=users, peers=peers)

        def identify(algorithm: bytes, blob: bytes, source: str) -> Identity:
            identity = authentication.identify(algorithm, blob, source)
            if (
                isinstance(identity, PeerIdentity)
                and identity.proxy_id == self.credentials.proxy_id
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
            host_keys=self.credentials.host_keys,
            identify=identify,
            make_handler=self.accepted.make_handler,
            check_token=check_token,
            limits=TransportLimits(
                login_grace=limits.login_grace,
                unauthenticated=limits.unauthenticated,
                unauthenticated_per_source=limits.unauthenticated_per_source,
                penalties=penalties if limits.penalties else None,
            ),
            events=self._login_audit,
            algorithms=self._config.ssh.algorithms,
            make_connection=self._make_connection,
            proxy_protocol_from=balancers,
            turns=self._turns,
            closed=self._login_audit.closed,
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
        sites = self.sites
        dispatcher = Dispatcher(
            own_cluster=self._config.cluster,
            own_name=self._config.name,
            policy=self._current_policy,
            sites=sites,
            local=LocalSite(self._reactor, self._config.local.allow),
            peers=self.peers,
            known=self.known,
            clock=self._reactor,
            now=self._now,
        )
        self.logins = LiveLogins(
            clock=self._reactor,
            now=self._now,
            revocations=lambda: self.revocations.present,
            policy=self._current_policy,
            may_reach=dispatcher.may_reach,
            record=self.audit.record,
            proxy_id=self.credentials.proxy_id,
            outlive=self._config.limits.sessions_outlive_certificates,
            close_on_change=self._config.close_on_change,
            retired=lambda identity: self.credentials.anchors.reason_against(identity),
            unlisted=lambda identity: self._authorized_keys.reason_against(
                identity, self._now()
            ),
        )
        self.trust = LiveTrust(
            config=self._config,
            registry=self.registry,
            clock=self._reactor,
            credentials=self.credentials,
            signer=self._signer,
            tunnels=sites.tunnels,
            certificate_changed=self.peers.make_anew,
            revocations=self.revocations,
            host_revoking=self._host_revoking,
            connected=self._connected,
            record=self.audit.record,
            now=self._now,
            chance=random.random,
            make_key=key_maker(self._reactor),
        )
        self._login_audit = LoginAudit(
            self.audit, self.trust.people, self.credentials.proxy_id
        )
        self.publication = Publication(self.membership, sites, self._reactor)
        return Accepted(
            membership=self.membership,
            tunnels=Tunnels(
                sites=sites,
                known=self.known,
                logins=self.logins,
                publication=self.publication,
                trust=self.trust.agents,
                record=self.audit.record,
                proxy_id=self.credentials.proxy_id,
                now=self._now,
            ),
            publication=self.publication,
            known=self.known,
            dispatcher=dispatcher,
            logins=self.logins,
            policy=self._current_policy,
            identify=identify,
            audit=self.audit,
            clock=self._reactor,
            heartbeat=self._config.tunnel.heartbeat,
            missed=self._config.tunnel.missed,
            new_id=new_id,
            now=self._now,
            answers={SIGN_CHANNEL: self._signer.answer},
            desk=self._desk,
        )

    def _connected(self) -> set[str]:
        """Ids of the proxies that run, and of the agents that have a tunnel."""
        proxies = {self.credentials.proxy_id}
        proxies.update(proxy.id for proxy in self.membership.proxies())
        agents = {tunnel.agent for tunnel in self.membership.tunnels()}
        return proxies | agents

    def _current_policy(self) -> Policy:
        return self.policy
