"""Everything of an agent that follows keys, certificates and authorities.

Its own certificate is renewed, what proxies say of the host authority is adopted, and
tunnels that stand on something older are made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.logger import Logger

from rtunnel.agent.credentials import LiveCredentials, check_certificate_usable
from rtunnel.agent.host_watch import HostWatch
from rtunnel.agent.reactors import IAgentReactor
from rtunnel.agent.renewal import Renewal
from rtunnel.agent.tunnel import Tunnel
from rtunnel.config import AgentConfig
from rtunnel.discovery.trust_messages import (
    NotRenewed,
    RenewalDue,
    Renewed,
    Revoked,
    Trust,
    TrustMessage,
)
from rtunnel.errors import BundleRefused, ConfigError, KeyFileError
from rtunnel.key_making import key_maker
from rtunnel.naming import printable
from rtunnel.trust.bundle import TrustBundle
from rtunnel.trust.revoked_hosts import RevokedHosts
from rtunnel.trust_files import adopt_bundle, adopt_revoked_hosts


class LiveTrust:
    """Holds the parts together: a change in one is told to the others.

    :param config: as it is now; a reload changes it.
    :param now: wall clock, seconds since the epoch.
    :param chance: a number from 0 up to 1.
    :param in_service: the tunnels that are.
    :param every: all that are not over, also those that are being let go.
    :param make_anew: has another tunnel to a proxy made, to take the place of this one.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        config: Callable[[], AgentConfig],
        credentials: LiveCredentials,
        reactor: IAgentReactor,
        now: Callable[[], float],
        chance: Callable[[], float],
        in_service: Callable[[], Collection[Tunnel]],
        every: Callable[[], Collection[Tunnel]],
        make_anew: Callable[[str], None],
    ) -> None:
        # It stays: another one needs a restart.
        self._directory = config().state
        self._credentials = credentials
        self._reactor = reactor
        self._in_service = in_service
        self._make_anew = make_anew
        self._certificate = credentials.present.certificate
        self._renewal = Renewal(
            directory=self._directory,
            credentials=credentials,
            clock=reactor,
            now=now,
            chance=chance,
            tunnels=in_service,
            fresh_key=lambda: config().renewal.fresh_key,
            make_key=key_maker(reactor),
            check=lambda certificate: check_certificate_usable(config(), certificate),
        )
        self._hosts = HostWatch(
            clock=reactor,
            now=now,
            trusted=lambda: credentials.present.host_cas,
            revocations=lambda: credentials.present.revocations(now()),
            tunnels=in_service,
            every=every,
            make_anew=make_anew,
        )

    def start(self) -> None:
        """Begin to watch certificates, our own and those of proxies."""
        self._renewal.start()
        self._hosts.start()

    def stop(self) -> None:
        """Watch no more."""
        self._renewal.stop()
        self._hosts.stop()

    def follow_certificate(self) -> None:
        """Our certificate may be another one: make the tunnels anew that were made
        with the one before."""
        present = self._credentials.present.certificate
        if present == self._certificate:
            return
        self._certificate = present
        self._renewal.certificate_changed()
        for tunnel in self._in_service():
            self._replace_if_older(tunnel)

    def tunnel_in_service(self, tunnel: Tunnel) -> None:
        """There is one more to ask for a certificate, or one that needs another."""
        # It may have been dialled before the certificate was renewed.
        self._replace_if_older(tunnel)
        self._renewal.try_now()

    def _replace_if_older(self, tunnel: Tunnel) -> None:
        present = self._credentials.present.certificate
        if tunnel.certificate != present and tunnel.proxy_id is not None:
            self._make_anew(tunnel.proxy_id)

    def received(self, tunnel: Tunnel, message: TrustMessage) -> bool:
        """A proxy says something of certificates or authorities.

        :return: whether it is done; what cannot be is in the log, with the reason.
        """
        match message:
            case Trust():
                return self._trust(message.bundle)
            case Revoked():
                return self._distrust(message.hosts)
            case Renewed() | NotRenewed():
                return self._renewal.answered(tunnel, message)
            case RenewalDue():
                self._log.info(
                    "the certificate is to be renewed: {reason}",
                    reason=printable(message.reason),
                )
                self._renewal.hasten(message.seconds)
                return True
        return False

    def _trust(self, bundle: TrustBundle) -> bool:
        if bundle.role != "host":
            return False
        try:
            if adopt_bundle(self._directory, bundle):
                self._log.info(
                    "the proxies' authority is in phase {phase}; trusting {keys}",
                    phase=bundle.phase.value,
                    keys=", ".join(key.fingerprint for key in bundle.trusted),
                )
            self._credentials.reload()
        except (BundleRefused, ConfigError, KeyFileError) as error:
            self._log.error(
                "this agent cannot follow the rotation of the proxies' authority: "
                "{reason}",
                reason=str(error),
            )
            return False
        return True

    def _distrust(self, revoked: RevokedHosts) -> bool:
        try:
            news = adopt_revoked_hosts(
                self._directory, revoked, self._credentials.present.host_cas
            )
            self._credentials.reload()
        except (BundleRefused, ConfigError, KeyFileError) as error:
            self._log.error(
                "this agent cannot learn which proxies are revoked: {reason}",
                reason=str(error),
            )
            return False
        if news:
            self._log.info(
                "the proxies' authority has revoked {what} (version {version})",
                what=", ".join(entry.target for entry in revoked.entries) or "nothing",
                version=revoked.version,
            )
        # The reply goes first: a tunnel that is closed here may be the one to answer.
        self._reactor.callLater(0, self._hosts.look)
        return True
