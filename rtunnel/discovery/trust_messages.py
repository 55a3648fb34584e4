"""The control messages by which certificates are renewed and authorities rotated.

Like those of :mod:`rtunnel.discovery.messages`, which reads and writes them; the
strings in base64 may be longer than others. Pure.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from rtunnel.discovery.message_fields import checked_seconds, checked_text, need
from rtunnel.errors import CertificateError, MessageError, ProtocolError
from rtunnel.trust.bundle import TrustBundle
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.trust.revoked_hosts import RevokedHosts
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import Reader


@attrs.frozen
class Renew:
    """Agent to proxy: please renew my certificate.

    The answer says only whether somebody will try; :class:`Renewed` or
    :class:`NotRenewed` follows.

    :param request: its source is for the reader to fill in.
    """

    request: RenewalRequest


@attrs.frozen
class Renewed:
    """Proxy to agent: the next certificate. Success: it has been stored.

    :param bundle: of the agent authority, when another key of it has signed than the
        certificate before: an agent does not take a proxy's word for that.
    """

    certificate: Certificate
    bundle: TrustBundle | None = None


@attrs.frozen
class NotRenewed:
    """Proxy to agent: nothing came of it.

    :param reason: one sentence for the log of the agent.
    """

    reason: str = attrs.field()

    def __attrs_post_init__(self) -> None:
        checked_text("reason", self.reason)


@attrs.frozen
class RenewalDue:
    """Proxy to agent: ask for a new certificate, however long this one lasts.

    :param reason: one sentence for the log.
    :param seconds: within which to ask, each agent at a time of its own.
    """

    reason: str = attrs.field()
    seconds: float = attrs.field()

    def __attrs_post_init__(self) -> None:
        checked_text("reason", self.reason)
        seconds = checked_seconds("seconds", self.seconds, zero=True)
        object.__setattr__(self, "seconds", seconds)


@attrs.frozen
class Replace(RenewalDue):
    """Proxy to agent: make a new tunnel to me within that time, then let this one go
    when its channels have ended."""


@attrs.frozen
class Trust:
    """Proxy to agent: whom to trust. Success: it is believed, and stored."""

    bundle: TrustBundle


@attrs.frozen
class Revoked:
    """Proxy to agent: which host certificates to believe no longer. Success: it is
    believed, and stored."""

    hosts: RevokedHosts


TrustMessage = Renew | Renewed | NotRenewed | RenewalDue | Replace | Trust | Revoked


def name_and_fields(message: TrustMessage) -> tuple[bytes, dict[str, Any]]:
    """A message as request type and JSON object."""
    match message:
        case Renew():
            return b"renew", {"request": _text(message.request.encode_body())}
        case Renewed():
            fields: dict[str, Any] = {"certificate": _text(message.certificate.blob)}
            if message.bundle is not None:
                fields["bundle"] = message.bundle.to_fields()
            return b"renewed", fields
        case NotRenewed():
            return b"not_renewed", {"reason": message.reason}
        case Trust():
            return b"trust", message.bundle.to_fields()
        case Revoked():
            return b"revoked_hosts", message.hosts.to_fields()
        case Replace():
            name = b"replace"
        case RenewalDue():
            name = b"renewal_due"
    return name, {"reason": message.reason, "seconds": message.seconds}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(fields: Mapping[str, Any], name: str) -> bytes:
    value = need(fields, name)
    if isinstance(value, str):
        try:
            return base64.b64decode(value.encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error):
            pass
    raise MessageError(f"{name} is not base64")


def _read_renew(fields: Mapping[str, Any]) -> Renew:
    reader = Reader(_bytes(fields, "request"))
    try:
        request = RenewalRequest.decode_body("", reader)
        reader.end()
    except (CertificateError, ProtocolError) as error:
        raise MessageError(str(error)) from None
    return Renew(request)


def _read_renewed(fields: Mapping[str, Any]) -> Renewed:
    bundle = fields.get("bundle")
    if not isinstance(bundle, dict | None):
        raise MessageError("bundle is not an object")
    try:
        return Renewed(
            Certificate.from_blob(_bytes(fields, "certificate")),
            None if bundle is None else TrustBundle.from_fields(bundle),
        )
    except (CertificateError, ProtocolError) as error:
        raise MessageError(str(error)) from None


def _read_not_renewed(fields: Mapping[str, Any]) -> NotRenewed:
    return NotRenewed(need(fields, "reason"))


def _read_renewal_due(fields: Mapping[str, Any]) -> RenewalDue:
    return RenewalDue(need(fields, "reason"), need(fields, "seconds"))


def _read_replace(fields: Mapping[str, Any]) -> Replace:
    return Replace(need(fields, "reason"), need(fields, "seconds"))


def _read_trust(fields: Mapping[str, Any]) -> Trust:
    return Trust(TrustBundle.from_fields(fields))


def _read_revoked(fields: Mapping[str, Any]) -> Revoked:
    return Revoked(RevokedHosts.from_fields(fields))


READERS: Final[Mapping[bytes, Callable[[Mapping[str, Any]], TrustMessage]]] = {
    b"renew": _read_renew,
    b"renewed": _read_renewed,
    b"not_renewed": _read_not_renewed,
    b"renewal_due": _read_renewal_due,
    b"replace": _read_replace,
    b"trust": _read_trust,
    b"revoked_hosts": _read_revoked,
}
