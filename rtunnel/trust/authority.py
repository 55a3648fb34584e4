"""The authorities' side of trust: what host, agent and user certificates say."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence

from rtunnel.errors import CertificateError, InvalidName
from rtunnel.naming import check_cluster, check_user, printable
from rtunnel.trust.identity import check_uuid
from rtunnel.wire.certificate import Certificate, CertificateKind, sign_certificate
from rtunnel.wire.data_types import text
from rtunnel.wire.keys import PrivateKey, PublicKey
from rtunnel.wire.source_address import parse_address, parse_network

#: Seconds by which certificates are dated back, for readers whose clocks are behind.
BACKDATE = 60

#: What ssh-keygen grants by default. A proxy asks for port forwarding only; the others
#: are for targets that trust the same user CA.
USER_EXTENSIONS = (
    "permit-X11-forwarding",
    "permit-agent-forwarding",
    "permit-port-forwarding",
    "permit-pty",
    "permit-user-rc",
)

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")


def random_serial() -> int:
    """A serial number of 63 random bits, so that none has to be remembered."""
    return secrets.randbits(63)


class CertificateAuthority:
    """Signs certificates with one CA key. Which of the three it is, the caller knows.

    :param key: the CA's private key.
    :param now: POSIX time.
    :param serial: a new serial number for each certificate.
    """

    def __init__(
        self,
        key: PrivateKey,
        *,
        now: Callable[[], float],
        serial: Callable[[], int] = random_serial,
    ) -> None:
        self._key = key
        self._now = now
        self._serial = serial

    @property
    def public(self) -> PublicKey:
        """What others have to trust."""
        return self._key.public

    def sign_host(
        self,
        key: PublicKey,
        *,
        proxy_id: str,
        cluster: str,
        public_names: Iterable[str],
        validity: float,
    ) -> Certificate:
        """Certify a proxy's host key.

        :param public_names: host names and addresses by which clients and agents call
            the proxy, without ports.
        :param validity: seconds from now.
        :raises InvalidName: when id, cluster or a name is not well-formed.
        """
        names = [_check_public_name(name) for name in public_names]
        return self._sign(
            key,
            CertificateKind.HOST,
            key_id=check_uuid(proxy_id),
            principals=_unique([proxy_id, check_cluster(cluster), *names]),
            validity=validity,
        )

    def sign_agent(
        self,
        key: PublicKey,
        *,
        cluster: str,
        instance: str,
        validity: float,
        critical_options: Iterable[tuple[str, bytes]] = (),
    ) -> Certificate:
        """Certify an agent's key.

        :param instance: the agent's UUID.
        :param validity: seconds from now.
        :param critical_options: of the certificate that is renewed.
        :raises InvalidName: when cluster or instance is not well-formed.
        """
        return self._sign(
            key,
            CertificateKind.USER,
            key_id=check_uuid(instance),
            principals=(check_cluster(cluster),),
            validity=validity,
            critical_options=critical_options,
        )

    def sign_user(
        self,
        key: PublicKey,
        *,
        name: str,
        principals: Iterable[str] = (),
        ttl: float,
        source_addresses: Sequence[str] = (),
    ) -> Certificate:
        """Certify a person's key.

        :param principals: besides the name, which always is one.
        :param ttl: seconds from now.
        :param source_addresses: addresses and networks that it may be used from; none
            for everywhere.
        :raises InvalidName: when a name is not well-formed.
        :raises CertificateError: when a source address is not.
        """
        try:
            for address in source_addresses:
                parse_network(address)
        except ValueError as error:
            raise CertificateError(str(error)) from None
        sources = text(",".join(source_addresses))
        return self._sign(
            key,
            CertificateKind.USER,
            key_id=check_user(name),
            principals=_unique([name, *map(check_user, principals)]),
            validity=ttl,
            critical_options=[("source-address", sources)] if source_addresses else [],
            extensions=[(extension, b"") for extension in USER_EXTENSIONS],
        )

    def _sign(
        self,
        key: PublicKey,
        kind: CertificateKind,
        *,
        key_id: str,
        principals: Sequence[str],
        validity: float,
        critical_options: Iterable[tuple[str, bytes]] = (),
        extensions: Iterable[tuple[str, bytes]] = (),
    ) -> Certificate:
        if validity < 1:
            raise CertificateError("a certificate has to be valid for a second")
        now = int(self._now())
        return sign_certificate(
            self._key,
            key,
            kind=kind,
            key_id=key_id,
            principals=principals,
            valid_after=max(0, now - BACKDATE),
            valid_before=now + int(validity),
            serial=self._serial(),
            critical_options=critical_options,
            extensions=extensions,
        )


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _check_public_name(name: str) -> str:
    if _HOST_NAME.fullmatch(name) is None:
        try:
            parse_address(name)
        except ValueError:
            raise InvalidName(
                f"{printable(name)!r} is not a host name or address (without port)"
            ) from None
    return name
