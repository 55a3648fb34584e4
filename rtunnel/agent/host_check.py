"""Whether what an agent has reached is one of its proxies, and which. Pure."""

from __future__ import annotations

from collections.abc import Collection

from rtunnel.errors import CertificateError, HostRefused, InvalidName
from rtunnel.trust.identity import check_uuid
from rtunnel.wire.certificate import (
    CERTIFICATE_ALGORITHMS,
    Certificate,
    CertificateKind,
)
from rtunnel.wire.keys import PublicKey


def check_host(
    algorithm: bytes, blob: bytes, trusted: Collection[PublicKey], now: float
) -> Certificate:
    """The certificate of a proxy, whichever of ours it is.

    Behind a balancer's address any proxy may answer: every certificate of our own host
    CA belongs to one of our proxies, and only the id in it counts, not the names.

    :param trusted: the host authorities.
    :param now: seconds since the epoch.
    :raises HostRefused: it is no host certificate, or of another authority.
    :raises CertificateError: it is malformed, or of ours and not valid now.
    """
    if algorithm not in CERTIFICATE_ALGORITHMS:
        raise HostRefused("the proxy has no host certificate")
    certificate = Certificate.from_blob(blob)
    try:
        certificate.check(kind=CertificateKind.HOST, trusted=trusted, now=now)
    except CertificateError as error:
        if certificate.ca_key in trusted:
            raise
        raise HostRefused(
            f"{error}; if the proxies' authority was rotated while this agent was "
            "off, copy host_ca.pub from the state directory that `rtunnel init` made"
        ) from None
    return certificate


def proxy_id_of(certificate: Certificate) -> str:
    """The id of the proxy that a host certificate is for.

    :raises HostRefused: when its first principal is none.
    """
    try:
        return check_uuid(certificate.principals[0])
    except InvalidName as error:
        raise HostRefused(
            f"the host certificate's first principal is no proxy id: {error}"
        ) from None
