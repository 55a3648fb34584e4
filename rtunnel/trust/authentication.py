"""Who may log in at a proxy, and as what."""

from __future__ import annotations

from collections.abc import Callable

from rtunnel.errors import (
    AuthenticationRefused,
    CertificateError,
    InvalidName,
    ProtocolError,
)
from rtunnel.naming import check_cluster, check_user, printable
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.authorized_keys import AuthorizedKeys
from rtunnel.trust.identity import (
    AgentIdentity,
    Identity,
    PeerIdentity,
    UserIdentity,
    check_uuid,
)
from rtunnel.trust.revocation import NO_REVOCATIONS, Revocations
from rtunnel.wire.certificate import (
    FOREVER,
    Certificate,
    CertificateKind,
    parse_public_key,
)
from rtunnel.wire.keys import PublicKey
from rtunnel.wire.source_address import parse_address

#: Without this extension a certificate grants no forwarding (draft-miller-ssh-cert).
PERMIT_FORWARDING = "permit-port-forwarding"


class Authentication:
    """Turns a key or certificate into an identity, or refuses it.

    Three authorities, three roles: what one of them signed is never taken for a role
    of another. The name that a peer logs in with plays no part.

    :param anchors: the authorities that are trusted now; asked for each login.
    :param cluster: of this proxy; another proxy's certificate has to name it too.
    :param authorized_keys: the file's present content.
    :param now: POSIX time.
    :param revocations: what is revoked now.
    """

    def __init__(
        self,
        *,
        anchors: Callable[[], TrustAnchors],
        cluster: str,
        authorized_keys: Callable[[], AuthorizedKeys],
        now: Callable[[], float],
        revocations: Callable[[], Revocations] = lambda: NO_REVOCATIONS,
    ) -> None:
        self._anchors = anchors
        self._cluster = cluster
        self._authorized_keys = authorized_keys
        self._now = now
        self._revocations = revocations

    def identify(self, algorithm: bytes, blob: bytes, source: str) -> Identity:
        """Who the holder of this key or certificate is.

        The caller still has to see that the peer holds the private key:
        :func:`~rtunnel.wire.certificate.parse_public_key` gives what verifies it.

        :param algorithm: public key or certificate algorithm that the peer names.
        :param blob: the key or certificate as the peer sends it.
        :param source: IP address that the connection comes from.
        :raises AuthenticationRefused: for every reason; the text is for our own log,
            the peer hears only "no".
        """
        try:
            source = str(parse_address(source))
        except ValueError:
            # From a UNIX socket, say: then nothing that is bound to addresses holds.
            source = printable(source)
        try:
            identity = self._identify(parse_public_key(algorithm, blob), source)
        except (CertificateError, InvalidName, ProtocolError) as error:
            raise AuthenticationRefused(str(error)) from error
        reason = self._revocations().reason(identity)
        if reason is not None:
            raise AuthenticationRefused(reason)
        return identity

    def _identify(self, offered: PublicKey | Certificate, source: str) -> Identity:
        if isinstance(offered, PublicKey):
            return self._identify_key(offered, source)
        if offered.kind is CertificateKind.HOST:
            return self._identify_peer(offered, source)
        if offered.ca_key in self._anchors().agent:
            return self._identify_agent(offered, source)
        return self._identify_user(offered, source)

    def _identify_key(self, key: PublicKey, source: str) -> UserIdentity:
        entry = self._authorized_keys().lookup(key, source, self._now())
        return UserIdentity(
            name=entry.name,
            principals=(entry.name,),
            key_id=key.fingerprint,
            fingerprint=key.fingerprint,
            source=source,
            certificate=None,
            valid_before=entry.expires,
            key=key,
        )

    def _identify_user(self, certificate: Certificate, source: str) -> UserIdentity:
        certificate.check(
            kind=CertificateKind.USER,
            trusted=self._anchors().user,
            now=self._now(),
            source=source,
        )
        name = check_user(certificate.key_id)
        if name not in certificate.principals:
            raise CertificateError(
                f"the certificate's key id {name!r} is not one of its principals"
            )
        if all(
            extension != PERMIT_FORWARDING for extension, _ in certificate.extensions
        ):
            raise CertificateError(
                f"the certificate of {name!r} lacks {PERMIT_FORWARDING}, without which "
                "it grants no forwarding"
            )
        return UserIdentity(
            name=name,
            # No rule can speak of a principal that is no well-formed name.
            principals=tuple(filter(_is_user, certificate.principals)),
            key_id=certificate.key_id,
            fingerprint=certificate.key.fingerprint,
            source=source,
            certificate=certificate,
            valid_before=_end(certificate),
        )

    def _identify_agent(self, certificate: Certificate, source: str) -> AgentIdentity:
        certificate.check(
            kind=CertificateKind.USER,
            trusted=self._anchors().agent,
            now=self._now(),
            source=source,
        )
        if len(certificate.principals) != 1:
            raise CertificateError(
                f"an agent's certificate has one principal, its cluster; this one has "
                f"{len(certificate.principals)}"
            )
        return AgentIdentity(
            cluster=check_cluster(certificate.principals[0]),
            instance=check_uuid(certificate.key_id),
            fingerprint=certificate.key.fingerprint,
            source=source,
            certificate=certificate,
            valid_before=_end(certificate),
        )

    def _identify_peer(self, certificate: Certificate, source: str) -> PeerIdentity:
        certificate.check(
            kind=CertificateKind.HOST,
            trusted=self._anchors().host,
            now=self._now(),
            source=source,
            principal=self._cluster,
        )
        return PeerIdentity(
            proxy_id=check_uuid(certificate.principals[0]),
            names=certificate.principals,
            fingerprint=certificate.key.fingerprint,
            source=source,
            certificate=certificate,
            valid_before=_end(certificate),
        )


def _is_user(name: str) -> bool:
    try:
        check_user(name)
    except InvalidName:
        return False
    return True


def _end(certificate: Certificate) -> float | None:
    end = certificate.valid_before
    return None if end == FOREVER else float(end)
