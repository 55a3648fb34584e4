"""Certificates that are renewed: those that others show, and this proxy's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtunnel.audit.events import CertificateRenewed, RenewalRefused
from rtunnel.certified_key import replace_certificate
from rtunnel.errors import AuthenticationRefused, CertificateError, SigningRefused
from rtunnel.proxy.credentials import LiveCredentials
from rtunnel.proxy.signing import AgentGrant, Grant, ProxyGrant
from rtunnel.renewal_timer import RenewalTimer
from rtunnel.state_directory import HOST_KEY
from rtunnel.timestamps import rfc3339
from rtunnel.trust.identity import AgentIdentity, Identity, PeerIdentity
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.trust.signing_request import Signed
from rtunnel.wire.certificate import Certificate, CertificateKind
from rtunnel.wire.keys import PublicKey

#: Seconds in which the proxies renew, each at a moment of its own, when another
#: authority signs.
ROTATION_SPREAD: Final = 2.0

WHAT_TO_DO: Final = (
    "start a proxy that has the authorities' private keys, or sign it there with "
    "`rtunnel proxy renew --ttl 52w --certificate host_key-cert.pub`"
)


class RenewalVerifier:
    """Decides about renewals at a proxy that signs; a
    :class:`~rtunnel.proxy.signing.Verifier`.

    The certificate that is shown has to be one that would be accepted at a login now:
    expired, revoked, or of an authority that is no longer trusted, it is not renewed.

    :param identify: who the holder of a certificate is.
    :param proxy_id: our own.
    :param cluster: the proxies'.
    :param now: wall clock, seconds since the epoch.
    """

    def __init__(
        self,
        identify: Callable[[bytes, bytes, str], Identity],
        proxy_id: str,
        cluster: str,
        now: Callable[[], float],
    ) -> None:
        self._identify = identify
        self._proxy_id = proxy_id
        self._cluster = cluster
        self._now = now

    async def verify(self, request: RenewalRequest) -> Grant:
        """See :class:`~rtunnel.proxy.signing.Verifier`."""
        certificate = request.certificate
        try:
            request.check(self._now())
            identity = self._identify(
                certificate.signature_algorithms[0], certificate.blob, request.source
            )
        except (AuthenticationRefused, CertificateError) as error:
            raise SigningRefused(str(error)) from None
        if isinstance(identity, AgentIdentity):
            return AgentGrant(
                request.key,
                identity.cluster,
                identity.instance,
                certificate.critical_options,
            )
        if isinstance(identity, PeerIdentity):
            if request.key != certificate.key:
                # Or whoever has stolen it would be rid of what is revoked by it.
                raise SigningRefused("a proxy renews its certificate for the same key")
            _, *names = identity.names
            return ProxyGrant(
                request.key,
                identity.proxy_id,
                tuple(name for name in names if name != self._cluster),
            )
        raise SigningRefused("only agents and proxies have certificates renewed")

    def accepted(
        self, request: RenewalRequest, grant: Grant, certificate: Certificate
    ) -> CertificateRenewed:
        """See :class:`~rtunnel.proxy.signing.Verifier`."""
        is_agent = isinstance(grant, AgentGrant)
        return CertificateRenewed(
            proxy=self._proxy_id,
            source=request.source or None,
            cluster=grant.cluster if isinstance(grant, AgentGrant) else self._cluster,
            key_id=certificate.key_id,
            agent=certificate.key_id if is_agent else None,
            seconds=certificate.valid_before - self._now(),
        )

    def refused(self, request: RenewalRequest, reason: str) -> RenewalRefused:
        """See :class:`~rtunnel.proxy.signing.Verifier`."""
        return RenewalRefused(
            proxy=self._proxy_id,
            source=request.source or None,
            key_id=request.certificate.key_id,
            reason=reason,
        )


class CanSign(Protocol):
    """The part of :class:`~rtunnel.proxy.signing.Signer` that is needed here."""

    def sign(self, request: RenewalRequest) -> Awaitable[Signed]:
        """Get a certificate, from here or from a peer."""


class OwnRenewal:
    """Keeps this proxy's host certificate good; its key stays.

    :param directory: the state directory.
    :param now: wall clock, seconds since the epoch.
    :param chance: a number from 0 up to 1.
    :param signs: the host authority's key that signs now; None when nobody has said.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        directory: Path,
        cluster: str,
        credentials: LiveCredentials,
        signer: CanSign,
        clock: IReactorTime,
        now: Callable[[], float],
        chance: Callable[[], float],
        signs: Callable[[], PublicKey | None],
    ) -> None:
        self._path = directory / HOST_KEY
        self._cluster = cluster
        self._credentials = credentials
        self._signer = signer
        self._now = now
        self._signs = signs
        self._timer = RenewalTimer(
            clock,
            now=now,
            chance=chance,
            certificate=lambda: credentials.present.certificate,
            renew=self._renew,
            what_to_do=WHAT_TO_DO,
        )
        self._stop_listening: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to watch the certificate."""
        self._stop_listening = self._credentials.subscribe(self.look)
        self._timer.start()
        self.look()

    def stop(self) -> None:
        """Watch no more."""
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
        self._timer.stop()

    def look(self) -> None:
        """Certificate or authority may be another one."""
        signs = self._signs()
        if signs is not None and self._credentials.present.certificate.ca_key != signs:
            self._timer.hasten(ROTATION_SPREAD)
        else:
            self._timer.certificate_changed()

    async def _renew(self) -> None:
        present = self._credentials.present
        request = RenewalRequest.make(present.certificate, present.key, self._now())
        certificate = (await self._signer.sign(request)).certificate
        certificate.check(
            kind=CertificateKind.HOST,
            trusted=self._credentials.anchors.host,
            now=self._now(),
            principal=self._cluster,
        )
        same = certificate.principals[0] == present.proxy_id
        if not same or certificate.key != present.key.public:
            raise CertificateError("the certificate that came is not this proxy's")
        signs = self._signs()
        if signs is not None and certificate.ca_key != signs:
            raise CertificateError(
                "the proxy that signs has not followed the rotation yet"
            )
        comment = f"rtunnel proxy {present.proxy_id}"
        replace_certificate(self._path, certificate, comment)
        self._credentials.reload()
        self._log.info(
            "this proxy's certificate is renewed until {end}",
            end=rfc3339(certificate.valid_before),
        )
