"""Critical options and extensions of certificates: read, written and judged.

Source: draft-miller-ssh-cert. Their data stays as it was on the wire, since only who
knows an option knows what its data is; for most it is itself an SSH string.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from rtunnel.errors import CertificateError, ProtocolError
from rtunnel.naming import printable
from rtunnel.wire.data_types import Reader, string, text
from rtunnel.wire.source_address import in_networks, parse_address, parse_networks

#: Names and raw data, in the order of the names.
Options: TypeAlias = tuple[tuple[str, bytes], ...]


def read_options(data: bytes, what: str) -> Options:
    """Take a field of options apart.

    :param what: "critical option" or "extension", for the reason.
    :raises CertificateError: a name is repeated, out of order, empty or not ASCII.
    :raises ProtocolError: the field is malformed.
    """
    reader = Reader(data)
    options: list[tuple[str, bytes]] = []
    previous = b""
    while reader.remaining:
        name = reader.string()
        value = reader.string()
        if name <= previous:
            raise CertificateError(
                f"a certificate whose {what}s are empty, repeated or out of order"
            )
        previous = name
        try:
            options.append((name.decode("ascii"), value))
        except UnicodeDecodeError:
            raise CertificateError(
                f"a certificate with the {what} {printable(name)!r}"
            ) from None
    return tuple(options)


def encode_options(options: Iterable[tuple[str, bytes]]) -> bytes:
    """The field of options for these names and raw data, put in order."""
    return b"".join(text(name) + string(value) for name, value in sorted(options))


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
