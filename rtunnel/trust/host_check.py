"""Whether what answers is one of our proxies, and which: asked by agents, by newcomers
and by other proxies, before they say who they are. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from rtunnel.errors import AuthorityUnknown, HostRefused, InvalidName
from rtunnel.trust.identity import check_uuid
from rtunnel.trust.revocation import NO_REVOCATIONS, Revocations
from rtunnel.wire.certificate import (
    CERTIFICATE_ALGORITHMS,
    Certificate,
    CertificateKind,
)
from rtunnel.wire.keys import PublicKey


@attrs.frozen
class KnownHost:
    """One of our proxies.

    :param certificate: what it has shown.
    :param proxy_id: the certificate's first principal.
    """

    certificate: Certificate
    proxy_id: str


def check_host(
    algorithm: bytes,
    blob: bytes,
    *,
    trusts: Callable[[PublicKey], bool],
    now: float,
    principal: str | None = None,
    revocations: Revocations = NO_REVOCATIONS,
) -> KnownHost:
    """Whose host key this is.

    Behind a balancer's address any proxy may answer: every certificate of a host
    authority of ours belongs to one of our proxies. Only the id in it counts, no
    address.

    :param algorithm: of the host key that is shown.
    :param blob: that key or certificate.
    :param trusts: whether a key is a host authority of ours.
    :param now: POSIX time.
    :param principal: a name that the certificate has to give as well.
    :param revocations: what is revoked, as far as the reader knows.
    :raises AuthorityUnknown: it is of another authority.
    :raises HostRefused: it is no certificate, names no proxy, or is revoked.
    :raises CertificateError: it is malformed, or of ours and not valid here and now.
    """
    if algorithm not in CERTIFICATE_ALGORITHMS:
        raise HostRefused("the proxy has no host certificate")
    certificate = Certificate.from_blob(blob)
    authority = certificate.ca_key
    if not trusts(authority):
        raise AuthorityUnknown(
            "the host certificate is of the authority "
            f"{authority.fingerprint}, which is not trusted here"
        )
    certificate.check(
        kind=CertificateKind.HOST, trusted=[authority], now=now, principal=principal
    )
    try:
        proxy_id = check_uuid(certificate.principals[0])
    except InvalidName as error:
        raise HostRefused(
            f"the host certificate's first principal is no proxy id: {error}"
        ) from None
    reason = revocations.certificate_reason(certificate)
    if reason is not None:
        raise HostRefused(reason)
    return KnownHost(certificate, proxy_id)
