"""Certificates for agents and proxies, signed here or by a peer that can.

A proxy can sign for a role when the authority's private key lies in its state
directory; its registry record says so (``signs``). Any other passes the request on over
the link to such a peer. The proxy that signs decides by itself: it believes nothing of
what the forwarding one says but what the request proves.

**A further kind of request** (a renewal, say) needs three things: a class with the
methods of :class:`~rtunnel.trust.signing_request.SigningRequest`, listed in ``KINDS``
there; a :class:`Verifier` for it, given to :class:`Signer` under its kind; and somebody
who makes such requests and calls :meth:`Signer.sign`. Passing on, the authorities'
keys, audit and errors are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtunnel.audit.events import (
    CertificateRenewed,
    Event,
    JoinAccepted,
    JoinRefused,
    RenewalRefused,
)
from rtunnel.authority_files import load_authority, signs_here
from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
    CertificateError,
    ConnectionClosed,
    ConnectionFailed,
    InvalidName,
    KeyFileError,
    MessageError,
    OpenRefused,
    SigningRefused,
    SigningUnavailable,
)
from rtunnel.naming import printable
from rtunnel.state_directory import AGENT_CA, HOST_CA
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.authority import CertificateAuthority, random_serial
from rtunnel.trust.identity import PeerIdentity
from rtunnel.trust.signing_request import (
    Signed,
    SigningRequest,
    decode_request,
    encode_request,
)
from rtunnel.trust.signing_role import ROLES, Role
from rtunnel.wire.certificate import Certificate, CertificateKind
from rtunnel.wire.keys import PublicKey

#: The channel by which one proxy asks another one to sign.
SIGN_CHANNEL: Final = b"sign@rtunnel"

#: Seconds for which certificates are valid, unless told otherwise.
VALIDITY: Final[Mapping[Role, float]] = {"agent": 24 * 3600.0, "proxy": 7 * 86400.0}

#: Seconds that a peer has to sign, the link to it included.
ASK_TIMEOUT: Final = 20.0

#: Which authority signs for a role: the name of its file.
AUTHORITIES: Final[Mapping[Role, str]] = {"agent": AGENT_CA, "proxy": HOST_CA}


@attrs.frozen
class AgentGrant:
    """An agent's certificate is justified.

    :param cluster: its one principal.
    :param instance: the agent's UUID.
    :param critical_options: what it is bound to, of the certificate that is renewed.
    """

    role: Role = attrs.field(default="agent", init=False)
    key: PublicKey
    cluster: str
    instance: str
    critical_options: tuple[tuple[str, bytes], ...] = ()


@attrs.frozen
class ProxyGrant:
    """A proxy's host certificate is justified.

    :param proxy_id: its UUID.
    :param names: its principals beside the id, the cluster and the names by which all
        proxies of the cluster are called.
    """

    role: Role = attrs.field(default="proxy", init=False)
    key: PublicKey
    proxy_id: str
    names: tuple[str, ...] = ()


Grant = AgentGrant | ProxyGrant

SigningEvent = JoinAccepted | JoinRefused | CertificateRenewed | RenewalRefused


class Verifier(Protocol):
    """Decides about one kind of requests, at the proxy that signs."""

    async def verify(self, request: Any) -> Grant:
        """Check what the request proves, and use it up if it can be used once only.

        Called when the authority is at hand; what it grants is signed at once.

        :raises SigningRefused: when it is not justified; why is for our own log.
        :raises SigningUnavailable: when that cannot be found out now.
        """

    def accepted(
        self, request: Any, grant: Grant, certificate: Certificate
    ) -> SigningEvent:
        """The audit event of a certificate that was signed."""

    def refused(self, request: Any, reason: str) -> SigningEvent:
        """The audit event of a request that was refused."""


class SigningPeers(Protocol):
    """The other proxies, as far as they can sign."""

    def signing(self, role: Role) -> Sequence[str]:
        """The ids of those that can sign for a role, best first."""

    async def ask(self, proxy: str, kind: bytes, data: bytes) -> bytes:
        """Open a channel to a peer and read it to its end.

        :raises OpenRefused: with its reason and sentence.
        :raises ConnectionFailed: when it cannot be asked.
        :raises ConnectionClosed: when the link to it broke meanwhile.
        """


class Signer:
    """Signs, or lets a peer sign.

    :param directory: the state directory, with private keys of authorities or without;
        they are read anew for each certificate.
    :param cluster: the proxies' own.
    :param public_names: by which all proxies of the cluster are called, without ports.
    :param anchors: the authorities that are trusted now.
    :param verifiers: by the kind of request.
    :param record: writes an audit event; False when nothing may happen without it.
    :param clock: ends the waiting for peers.
    :param now: wall clock, seconds since the epoch.
    :param validity: seconds, by role.
    :param serial: a new serial number for each certificate.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        directory: Path,
        cluster: str,
        public_names: Sequence[str],
        anchors: Callable[[], TrustAnchors],
        verifiers: Mapping[str, Verifier],
        peers: SigningPeers,
        record: Callable[[Event], bool],
        clock: IReactorTime,
        now: Callable[[], float],
        validity: Mapping[Role, float] = VALIDITY,
        serial: Callable[[], int] = random_serial,
    ) -> None:
        self._directory = directory
        self._cluster = cluster
        self._public_names = tuple(public_names)
        self._anchors = anchors
        self._verifiers = verifiers
        self._peers = peers
        self._record = record
        self._clock = clock
        self._now = now
        self._validity = validity
        self._serial = serial

    async def sign(self, request: SigningRequest) -> Signed:
        """Get a certificate, from here or from a peer.

        :raises SigningRefused: the request is not justified. Where a peer has said so
            there is no more to know; its own audit has the reason. Of what cannot be
            used up, others are asked as well.
        :raises SigningUnavailable: nobody can sign now; the text is for whoever wants
            the certificate.
        """
        if can_sign(self._directory, request.role):
            return await self.sign_here(request)
        return await self._sign_there(request)

    async def sign_here(
        self, request: SigningRequest, passed_on_by: str = ""
    ) -> Signed:
        """Check a request and sign, with the authority of this state directory.

        :param passed_on_by: id of the proxy that has passed it on.
        :raises SigningRefused: the request is not justified.
        :raises SigningUnavailable: the authority is not here, or what the decision
            depends on is not at hand.
        """
        verifier = self._verifiers.get(request.kind)
        if verifier is None:
            raise SigningUnavailable("this proxy does not serve such requests")
        authority = self._authority(request.role)
        try:
            grant = await verifier.verify(request)
            certificate = self._certify(authority, grant)
        except SigningRefused as error:
            self._log.info(
                "a {kind} from {source} is refused: {reason}",
                kind=request.kind,
                source=printable(request.source),
                reason=printable(str(error)),
            )
            refused = verifier.refused(request, str(error))
            self._record(_naming(passed_on_by, refused))
            raise
        accepted = verifier.accepted(request, grant, certificate)
        if not self._record(_naming(passed_on_by, accepted)):
            raise SigningUnavailable("the proxy may sign nothing that it cannot record")
        return Signed(certificate, self._anchors())

    def _authority(self, role: Role) -> CertificateAuthority:
        try:
            key = load_authority(self._directory, AUTHORITIES[role])
        except KeyFileError as error:
            self._log.warn("cannot sign: {reason}", reason=str(error))
            raise SigningUnavailable(
                f"this proxy cannot sign for {role}s; its log says why"
            ) from None
        return CertificateAuthority(key, now=self._now, serial=self._serial)

    def _certify(self, authority: CertificateAuthority, grant: Grant) -> Certificate:
        validity = self._validity[grant.role]
        try:
            if isinstance(grant, AgentGrant):
                return authority.sign_agent(
                    grant.key,
                    cluster=grant.cluster,
                    instance=grant.instance,
                    validity=validity,
                    critical_options=grant.critical_options,
                )
            return authority.sign_host(
                grant.key,
                proxy_id=grant.proxy_id,
                cluster=self._cluster,
                public_names=[*self._public_names, *grant.names],
                validity=validity,
            )
        except (CertificateError, InvalidName) as error:
            raise SigningRefused(str(error)) from error

    # Through a peer.

    async def _sign_there(self, request: SigningRequest) -> Signed:
        problem = (
            "none of the running proxies can sign: start the one whose state directory "
            "`rtunnel init` made"
        )
        refusal: SigningRefused | None = None
        for proxy in self._peers.signing(request.role):
            asking = Deferred.fromCoroutine(
                self._peers.ask(proxy, SIGN_CHANNEL, encode_request(request))
            )
            asking.addTimeout(ASK_TIMEOUT, self._clock)
            try:
                return self._believed(request, Signed.decode(await asking))
            except OpenRefused as error:
                problem = error.text
                if error.reason_code == OPEN_ADMINISTRATIVELY_PROHIBITED:
                    refusal = SigningRefused(
                        f"proxy {proxy} has refused it; its audit says why"
                    )
                    if request.once:
                        break
            except (ConnectionFailed, MessageError) as error:
                problem = str(error)
            except (ConnectionClosed, TimeoutError):
                problem = "the connection to the proxy that signs broke; try again"
                # It may have signed; asking another one would use up a token twice.
                if request.once:
                    break
            self._log.warn(
                "proxy {proxy} does not sign: {reason}",
                proxy=proxy,
                reason=printable(problem),
            )
        raise refusal or SigningUnavailable(printable(problem))

    def _believed(self, request: SigningRequest, signed: Signed) -> Signed:
        """What a peer has answered, as far as it need not be believed.

        Whom the holder of the certificate shall trust, we know ourselves: any proxy can
        say of itself that it signs.

        :raises MessageError: when the certificate is not what was asked for, or of no
            authority that we trust.
        """
        certificate, anchors = signed.certificate, self._anchors()
        is_agent = request.role == "agent"
        try:
            certificate.check(
                kind=CertificateKind.USER if is_agent else CertificateKind.HOST,
                trusted=anchors.agent if is_agent else anchors.host,
                now=self._now(),
                source=request.source or None,
                principal=None if is_agent else self._cluster,
            )
        except CertificateError as error:
            raise MessageError(f"the certificate that it gives: {error}") from None
        if certificate.key != request.key:
            raise MessageError("the certificate that it gives is for another key")
        if is_agent and len(certificate.principals) != 1:
            raise MessageError("the certificate that it gives is not an agent's")
        return Signed(certificate, anchors)

    async def answer(self, data: bytes, peer: PeerIdentity) -> bytes:
        """Answer a request that a peer has passed on.

        :param data: the type-specific part of its channel open.
        :raises OpenRefused: code 1 when it is not justified, code 4 when another proxy
            may be asked.
        """
        try:
            request = decode_request(data)
        except MessageError as error:
            raise OpenRefused(OPEN_RESOURCE_SHORTAGE, str(error)) from None
        self._log.info(
            "proxy {proxy} passes on a {kind} from {source}",
            proxy=peer.proxy_id,
            kind=request.kind,
            source=printable(request.source),
        )
        try:
            signed = await self.sign_here(request, peer.proxy_id)
        except SigningRefused:
            raise OpenRefused(
                OPEN_ADMINISTRATIVELY_PROHIBITED, "the request is refused"
            ) from None
        except SigningUnavailable as error:
            raise OpenRefused(OPEN_RESOURCE_SHORTAGE, str(error)) from None
        return signed.encode()


def _naming(passed_on_by: str, event: SigningEvent) -> SigningEvent:
    """An audit event that says which proxy vouches for its source."""
    if not passed_on_by:
        return event
    said = f": {event.reason}" if event.reason else ""
    return attrs.evolve(event, reason=f"passed on by proxy {passed_on_by}{said}")


def can_sign(directory: Path, role: Role) -> bool:
    """Whether the private key by which an authority signs lies in a state directory."""
    return signs_here(directory, AUTHORITIES[role])


def signing_roles(directory: Path) -> tuple[Role, ...]:
    """The roles for which a state directory can sign, for the registry record."""
    return tuple(role for role in ROLES if can_sign(directory, role))
