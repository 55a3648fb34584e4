"""What a certificate has to pass before it is believed, one rule at a time.

:meth:`rtunnel.wire.certificate.Certificate.check` puts them in order. Each raises
:class:`~rtunnel.errors.CertificateError` with a reason for our own log.

Source: draft-miller-ssh-cert, and what OpenSSH makes of it. Where the draft leaves a
choice, the answer here is no.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from rtunnel.errors import CertificateError, ProtocolError
from rtunnel.naming import printable
from rtunnel.wire.data_types import Reader
from rtunnel.wire.keys import PublicKey


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


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"POSIX time {seconds}"
