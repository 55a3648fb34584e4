"""What agents are told of certificates and authorities, and what they ask.

An agent trusts a new host authority when it has said so; it renews its certificate
through the tunnel; and it makes its tunnels anew when certificates are of another
authority. See docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.discovery.trust_messages import (
    NotRenewed,
    RenewalDue,
    Renewed,
    Replace,
    Revoked,
    Trust,
    TrustMessage,
)
from rtunnel.errors import (
    ConnectionClosed,
    MessageError,
    RequestFailed,
    SigningRefused,
    SigningUnavailable,
)
from rtunnel.naming import printable
from rtunnel.proxy.renewal import CanSign
from rtunnel.trust.bundle import TrustBundle
from rtunnel.trust.identity import AgentIdentity
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.trust.revoked_hosts import RevokedHosts
from rtunnel.wire.keys import PublicKey

#: Seconds in which agents renew, or make tunnels anew, when an authority is rotated:
#: this, and for each tunnel here so much more.
SPREAD, SPREAD_PER_TUNNEL = 1.0, 0.02

#: Characters of a reason that an agent is told.
MAX_REASON: Final = 255


class TrustingTunnel(Protocol):
    """The part of a tunnel that is needed here."""

    @property
    def identity(self) -> AgentIdentity:
        """What the agent's certificate proves."""

    @property
    def host_certified_by(self) -> PublicKey | None:
        """The authority of the host certificate that the agent was shown."""

    @property
    def accepts_dials(self) -> bool:
        """Whether it is in use, and not being let go."""

    def say(self, message: TrustMessage) -> Deferred[None]:
        """Send a control message; fails when the agent refuses it or is gone."""


class AgentTrust:
    """Tells agents what to trust, and has their certificates renewed.

    :param signer: signs, or lets a peer sign.
    :param host_bundle: in force for the host authority; None before any rotation.
    :param agent_bundle: likewise for the agent authority.
    :param revoked_hosts: the list in force; None when nothing was ever revoked.
    :param own_authority: the key that has signed this proxy's present certificate.
    :param tunnels: those in service.
    :param has_followed: hears of an agent's certificate, and which generation of the
        host authority it has taken over, if it just has.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        signer: CanSign,
        host_bundle: Callable[[], TrustBundle | None],
        agent_bundle: Callable[[], TrustBundle | None],
        revoked_hosts: Callable[[], RevokedHosts | None],
        own_authority: Callable[[], PublicKey],
        tunnels: Callable[[], Iterable[TrustingTunnel]],
        has_followed: Callable[[TrustingTunnel, int | None], None],
    ) -> None:
        self._signer = signer
        self._host_bundle = host_bundle
        self._agent_bundle = agent_bundle
        self._revoked_hosts = revoked_hosts
        self.own_authority = own_authority
        self._tunnels = tunnels
        self._has_followed = has_followed

    def tunnel_in_service(self, tunnel: TrustingTunnel) -> None:
        """Tell a new tunnel's agent all there is to tell."""
        self._has_followed(tunnel, None)
        self._tell(tunnel, SPREAD)
        self._tell_revoked(tunnel)

    def tell_all(self) -> None:
        """Bundles, or this proxy's certificate, are others."""
        tunnels = list(self._tunnels())
        spread = SPREAD + SPREAD_PER_TUNNEL * len(tunnels)
        for tunnel in tunnels:
            self._tell(tunnel, spread)

    def tell_revoked(self) -> None:
        """Other hosts are revoked."""
        for tunnel in list(self._tunnels()):
            self._tell_revoked(tunnel)

    def _tell_revoked(self, tunnel: TrustingTunnel) -> None:
        revoked = self._revoked_hosts()
        if revoked is not None:
            self._say(tunnel, Revoked(revoked))

    def _tell(self, tunnel: TrustingTunnel, spread: float) -> None:
        bundle = self._host_bundle()
        if bundle is not None:
            self._say(tunnel, Trust(bundle)).addCallback(
                lambda ignored: self._has_followed(tunnel, bundle.generation)
            ).addErrback(self._broke)
        agents = self._agent_bundle()
        if agents is not None and tunnel.identity.certificate.ca_key != agents.signs:
            self._say(tunnel, RenewalDue("another agent authority signs now", spread))
        shown = tunnel.host_certified_by
        if shown is not None and shown != self.own_authority():
            reason = "this proxy has a certificate of another host authority"
            self._say(tunnel, Replace(reason, spread))

    def _say(self, tunnel: TrustingTunnel, message: TrustMessage) -> Deferred[None]:
        saying = tunnel.say(message)
        saying.addErrback(self._not_taken, tunnel, message)
        return saying

    def _not_taken(
        self, failure: Failure, tunnel: TrustingTunnel, message: TrustMessage
    ) -> Failure | None:
        failure.trap(RequestFailed, ConnectionClosed)
        if failure.check(RequestFailed):
            self._log.warn(
                "agent {agent} of cluster {cluster} does not take {message}; its own "
                "log says why, if it is new enough to know it",
                agent=tunnel.identity.instance,
                cluster=tunnel.identity.cluster,
                message=type(message).__name__,
            )
        return failure if isinstance(message, Trust) else None

    def _broke(self, failure: Failure) -> None:
        # Refusals were logged where they were heard.
        if failure.check(RequestFailed, ConnectionClosed) is None:
            self._log.failure("telling an agent whom to trust failed", failure)

    def renew(self, tunnel: TrustingTunnel, request: RenewalRequest) -> bool:
        """An agent asks for its next certificate.

        :return: whether anything will come of it; a message to the agent follows.
        :raises MessageError: when it shows somebody else's certificate.
        """
        identity = tunnel.identity
        if request.certificate.key_id != identity.instance or request.role != "agent":
            raise MessageError("a renewal of another certificate than the agent's own")
        asked = attrs.evolve(request, source=identity.source)
        renewing = Deferred.fromCoroutine(self._renew(tunnel, asked))
        renewing.addErrback(self._broke)
        return True

    async def _renew(self, tunnel: TrustingTunnel, request: RenewalRequest) -> None:
        message: TrustMessage
        try:
            certificate = (await self._signer.sign(request)).certificate
            same = certificate.ca_key == request.certificate.ca_key
            message = Renewed(certificate, None if same else self._agent_bundle())
        except SigningRefused:
            message = NotRenewed("it is refused; the proxy's audit log says why")
        except SigningUnavailable as error:
            message = NotRenewed(printable(str(error), MAX_REASON))
        await tunnel.say(message)
        if isinstance(message, Renewed):
            self._log.info(
                "agent {agent} of cluster {cluster} has renewed its certificate",
                agent=tunnel.identity.instance,
                cluster=tunnel.identity.cluster,
            )
