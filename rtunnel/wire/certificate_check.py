"""What a certificate has to pass before it is believed, one rule at a time.

:meth:`rtunnel.wire.certificate.Certificate.check` puts them in order. Each raises
:class:`~rtunnel.errors.CertificateError` with a reason for our own log.

Source: draft-miller-ssh-cert, and what OpenSSH makes of it. Where the draft leaves a
choice, the answer here is no.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TypeAlias

from rtunnel.errors import CertificateError, ProtocolError
from rtunnel.naming import printable
from rtunnel.wire.data_types import Reader
from rtunnel.wire.keys import PublicKey
from rtunnel.wire.source_address import in_networks, parse_address, parse_networks

#: Names and raw data of critical options or extensions, in the order of their names.
Options: TypeAlias = tuple[tuple[str, bytes], ...]


def check_signature(ca_key: PublicKey, signature: bytes, signed: bytes) -> None:
    """The CA signed it, and not with SHA-1.

    :param signature: the signature blob at the end of the certificate.
    :param signed: the certificate up to there.
    """
    try:
        algorithm = Reader(signature).string(64)
    except ProtocolError:
        algorithm = b""
    if algorithm not in ca_key.signature_algorithms:
        raise CertificateError(
            f"the certificate is signed with {printable(algorithm, 64)!r}, which is "
            "not accepted (RSA has to be SHA-2)"
        )
    if not ca_key.verify(signature, signed, algorithm):
        raise CertificateError("the certificate's signature is wrong")


def check_validity(
    valid_after: int, valid_before: int, now: float, skew: float
) -> None:
    """It is valid now.

    :param now: POSIX time.
    :param skew: seconds that it may begin in the future.
    """
    if valid_before <= valid_after:
        raise CertificateError("the certificate ends before it begins")
    if now + skew < valid_after:
        raise CertificateError(
            f"the certificate is not valid before {_time(valid_after)}"
        )
    if now >= valid_before:
        raise CertificateError(f"the certificate expired at {_time(valid_before)}")


def check_principals(principals: Collection[str], wanted: str | None) -> None:
    """It names somebody, and ``wanted`` if that is given."""
    if not principals:
        raise CertificateError(
            "the certificate names no principal, which would mean all of them"
        )
    if wanted is not None and wanted not in principals:
        raise CertificateError(
            f"the certificate does not name the principal {printable(wanted)!r}"
        )


def check_user_options(options: Options, source: str | None) -> None:
    """Of critical options a user's certificate has ``source-address`` at most.

    ``force-command`` is refused because rtunnel runs no commands, ``verify-required``
    because nothing here asks for a PIN; both because ignoring them widens the grant.

    :param source: IP address that the user comes from, if it is known.
    """
    for name, value in options:
        if name != "source-address":
            raise _option_refused(name)
        _check_source_address(value, source)


def check_host_options(options: Options) -> None:
    """No critical option is defined for a host's certificate, so it has none."""
    for name, _ in options:
        raise _option_refused(name)


def _option_refused(name: str) -> CertificateError:
    return CertificateError(
        f"the certificate has the critical option {printable(name)!r}, which rtunnel "
        "cannot honour"
    )


def _check_source_address(value: bytes, source: str | None) -> None:
    try:
        reader = Reader(value)
        allowed = reader.text()
        reader.end()
        networks = parse_networks(allowed)
    except (ProtocolError, ValueError):
        raise CertificateError(
            "the certificate's source-address is empty or malformed"
        ) from None
    if source is None:
        raise CertificateError(
            "the certificate is bound to source addresses, and the source is not known"
        )
    try:
        address = parse_address(source)
    except ValueError:
        raise CertificateError(
            f"the source {printable(source)!r} is not an IP address"
        ) from None
    if not in_networks(address, networks):
        raise CertificateError(
            f"the certificate may not be used from {address}, only from "
            f"{printable(allowed)}"
        )


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"POSIX time {seconds}"
