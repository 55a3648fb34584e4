"""Everything of a proxy that renews certificates and follows rotations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from twisted.internet.interfaces import IReactorTime

from rtunnel.audit.events import Event
from rtunnel.config import ProxyConfig
from rtunnel.key_making import MakeKey
from rtunnel.proxy.agent_trust import AgentTrust, TrustingTunnel
from rtunnel.proxy.credentials import LiveCredentials
from rtunnel.proxy.followers import Followers
from rtunnel.proxy.host_revoking import HostRevoking
from rtunnel.proxy.people_seen import PeopleSeen
from rtunnel.proxy.renewal import CanSign, OwnRenewal
from rtunnel.proxy.revocation_watch import RevocationWatch
from rtunnel.proxy.revoked_hosts_watch import RevokedHostsWatch
from rtunnel.proxy.rotation import Rotation
from rtunnel.proxy.trust_watch import TrustWatch
from rtunnel.registry.interface import Registry
from rtunnel.timestamps import rfc3339
from rtunnel.trust.bundle import Role
from rtunnel.wire.certificate import FOREVER
from rtunnel.wire.keys import PublicKey


class LiveTrust:
    """Holds the parts together: a change in one is told to the others.

    :param signer: signs, or lets a peer sign.
    :param tunnels: those in service here.
    :param certificate_changed: called when this proxy has another certificate.
    :param revocations: gets what the host authority has revoked.
    :param host_revoking: signs that.
    :param connected: ids of the proxies that run, and of agents that have a tunnel.
    :param record: writes an audit event.
    :param now: wall clock, seconds since the epoch.
    :param chance: a number from 0 up to 1.
    :param make_key: makes the keys that rotations lead to.
    :ivar agents: what agents are told, and ask.
    :ivar people: who has logged in here.
    :ivar rotation: what the operator asks for.
    """

    def __init__(
        self,
        *,
        config: ProxyConfig,
        registry: Registry,
        clock: IReactorTime,
        credentials: LiveCredentials,
        signer: CanSign,
        tunnels: Callable[[], Iterable[TrustingTunnel]],
        certificate_changed: Callable[[], None],
        revocations: RevocationWatch,
        host_revoking: HostRevoking,
        connected: Callable[[], Collection[str]],
        record: Callable[[Event], object],
        now: Callable[[], float],
        chance: Callable[[], float],
        make_key: MakeKey,
    ) -> None:
        self._credentials = credentials
        self._certificate_changed = certificate_changed
        self._certificate = credentials.present.certificate
        self._watch = TrustWatch(registry, clock, config.state, credentials)
        self._revocations = revocations
        self._revoked = RevokedHostsWatch(
            registry,
            clock,
            config.state,
            credentials,
            self._hosts_revoked,
            host_revoking,
            now,
        )
        revocations.take_hosts(self._revoked.entries)
        self._followers = Followers(
            registry,
            clock,
            now=now,
            name=config.name,
            credentials=credentials,
            bundle=self._watch.bundle,
        )
        self.agents = AgentTrust(
            signer=signer,
            host_bundle=lambda: self._watch.bundle("host"),
            agent_bundle=lambda: self._watch.bundle("agent"),
            revoked_hosts=lambda: self._revoked.present,
            own_authority=lambda: credentials.present.certificate.ca_key,
            tunnels=tunnels,
            has_followed=self._followers.say_agent,
        )
        self._own = OwnRenewal(
            directory=config.state,
            cluster=config.cluster,
            credentials=credentials,
            signer=signer,
            clock=clock,
            now=now,
            chance=chance,
            signs=lambda: self.signs("host"),
        )
        self.people = PeopleSeen(now)
        self.rotation = Rotation(
            directory=config.state,
            proxy_id=credentials.proxy_id,
            credentials=credentials,
            bundles=self._watch,
            followers=self._followers,
            connected=connected,
            people=self.people,
            record=record,
            now=now,
            make_key=make_key,
        )
        self._watch.subscribe(self._bundle_adopted)
        self._stop_listening: Callable[[], None] | None = None

    def signs(self, role: Role) -> PublicKey | None:
        """The key by which an authority signs now; None when nobody has said."""
        bundle = self._watch.bundle(role)
        return None if bundle is None else bundle.signs

    def certificate_status(self) -> dict[str, object]:
        """This proxy's own certificate, for the status document."""
        certificate = self._credentials.present.certificate
        endless = certificate.valid_before == FOREVER
        return {
            "valid_before": None if endless else rfc3339(certificate.valid_before),
            "serial": certificate.serial,
            "certified_by": certificate.ca_key.fingerprint,
        }

    async def start(self) -> None:
        """Catch up with what happened meanwhile, and follow.

        :raises RegistryError: when the registry cannot be read.
        """
        self._stop_listening = self._credentials.subscribe(self._changed)
        await self._watch.start()
        await self._revoked.start()
        self._revoked.authorities_changed()
        self._followers.start()
        self._own.start()

    def stop(self) -> None:
        """Follow no more."""
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
        self._own.stop()
        self._followers.stop()
        self._revoked.stop()
        self._watch.stop()

    def _hosts_revoked(self) -> None:
        self._revocations.take_hosts(self._revoked.entries)
        self.agents.tell_revoked()

    def _bundle_adopted(self, role: Role) -> None:
        self._followers.say_own()
        self._own.look()
        self.agents.tell_all()
        if role == "host":
            self._revoked.authorities_changed()

    def _changed(self) -> None:
        certificate = self._credentials.present.certificate
        if certificate == self._certificate:
            return
        before, self._certificate = self._certificate, certificate
        self._certificate_changed()
        if certificate.ca_key != before.ca_key:
            self.agents.tell_all()
