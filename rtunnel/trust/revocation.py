"""What is revoked: which certificates, keys, people, agents and clusters are refused.

Pure. A revocation is a record that an operator makes and all proxies share, or an entry
of an OpenSSH key revocation list (:mod:`rtunnel.wire.krl`). :class:`Revocations` says
whether an identity, or a certificate alone, is revoked, and by what.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping

import attrs

from rtunnel.errors import InvalidName, RegistryError
from rtunnel.naming import check_cluster, check_user, printable
from rtunnel.timestamps import seconds_of
from rtunnel.trust.identity import (
    AgentIdentity,
    Identity,
    PeerIdentity,
    UserIdentity,
    check_uuid,
)
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PublicKey
from rtunnel.wire.krl import KeyRevocationList

#: Characters in a key id, and in a reason.
MAX_TEXT = 255

#: Records that are held; further ones need a key revocation list.
MAX_RECORDS = 10_000

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_SERIAL = re.compile(r"[1-9][0-9]{0,19}")
_MAX_SERIAL = 2**64 - 1


class RevocationKind(enum.Enum):
    """What a revocation speaks of."""

    #: The serial number of a certificate, of one authority or of any.
    SERIAL = "serial"
    #: The fingerprint of a key: somebody's, or that of an authority, and then
    #: everything that it signed.
    KEY = "key"
    #: The key id of a certificate: a person's name, the id of an agent or a proxy.
    KEY_ID = "key_id"
    #: A person's name, by certificate or by authorized_keys.
    USER = "user"
    #: The instance id of an agent.
    AGENT = "agent"
    #: A cluster: all of its agents.
    CLUSTER = "cluster"


@attrs.frozen
class Revocation:
    """One record. Made by :meth:`make` or :meth:`from_json`.

    :param value: a number, fingerprint, name or id, in its one usual form.
    :param reason: the operator's; for the audit log, not for who is revoked.
    :param created: POSIX time.
    :param until: POSIX time when the record goes; None for never.
    :param ca: fingerprint of the authority whose serial it is; None for any.
    """

    kind: RevocationKind
    value: str
    reason: str
    created: float
    until: float | None = None
    ca: str | None = None

    @classmethod
    def make(
        cls,
        kind: RevocationKind,
        value: str,
        *,
        reason: str,
        created: float,
        until: float | None = None,
        ca: str | None = None,
    ) -> Revocation:
        """A record, if all of it is well-formed.

        :raises InvalidName: when something is not; the sentence says what.
        """
        value = _CHECKS[kind](value)
        if ca is not None:
            if kind is not RevocationKind.SERIAL:
                raise InvalidName("only serial numbers belong to an authority")
            ca = _check_fingerprint(ca)
        _check_text(reason, "reason")
        for moment in (created, until):
            if moment is not None and not (math.isfinite(moment) and moment >= 0):
                raise InvalidName(f"{moment} is no time")
        return cls(kind, value, reason, created, until, ca)

    @property
    def id(self) -> str:
        """What the record is listed and removed by: the same for the same target."""
        named = "\0".join((self.kind.value, self.value, self.ca or ""))
        return hashlib.sha256(named.encode()).hexdigest()[:16]

    @property
    def target(self) -> str:
        """What is revoked, on one line: ``serial:42``, ``user:alice``."""
        return f"{self.kind.value}:{self.value}"

    def to_json(self) -> str:
        """The record as the registry keeps it."""
        fields = {**attrs.asdict(self), "kind": self.kind.value}
        return json.dumps(fields, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Revocation:
        """Read what :meth:`to_json` wrote; fields that are not known are passed over.

        :raises RegistryError: when it is no such record.
        """
        try:
            fields = json.loads(text)
            if not isinstance(fields, Mapping):
                raise ValueError("not a JSON object")
            return cls.make(
                RevocationKind(fields.get("kind")),
                _text(fields, "value"),
                reason=_text(fields, "reason"),
                created=_time(fields, "created"),
                until=None if _is_absent(fields, "until") else _time(fields, "until"),
                ca=None if _is_absent(fields, "ca") else _text(fields, "ca"),
            )
        except (ValueError, RecursionError, InvalidName) as error:
            raise RegistryError(f"not a revocation: {printable(str(error))}") from None


class Revocations:
    """Everything that is revoked at one moment; never changes.

    :param records: the operators' records.
    :param lists: key revocation lists, by what to call each in a log.
    """

    def __init__(
        self,
        records: Iterable[Revocation] = (),
        lists: Mapping[str, KeyRevocationList] | None = None,
    ) -> None:
        self.records = tuple(records)
        self.lists = dict(lists or {})
        self._by_target = {(r.kind, r.value, r.ca): r for r in self.records}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Revocations)
            and self._by_target == other._by_target
            and self.lists == other.lists
        )

    __hash__ = None  # type: ignore[assignment]  # It may hold lists of any length.

    def __bool__(self) -> bool:
        return bool(self.records or self.lists)

    def reason(self, identity: Identity) -> str | None:
        """Why somebody is revoked, in a sentence for our own log; None when not.

        :param identity: as it was identified; whether that still holds otherwise is
            not asked.
        """
        match identity:
            case UserIdentity():
                found = self._find(RevocationKind.USER, identity.name)
            case AgentIdentity():
                found = self._find(RevocationKind.AGENT, identity.instance)
                found = found or self._find(RevocationKind.CLUSTER, identity.cluster)
            case PeerIdentity():
                found = None
            case _:
                return None
        if found is not None:
            return found
        if identity.certificate is not None:
            return self.certificate_reason(identity.certificate)
        return self._key_reason(identity.key) if identity.key is not None else None

    def certificate_reason(self, certificate: Certificate) -> str | None:
        """Why a certificate is revoked, whoever shows it; None when it is not."""
        serial = str(certificate.serial)
        found = (
            self._find(RevocationKind.KEY, certificate.key.fingerprint)
            or self._find(RevocationKind.KEY, certificate.ca_key.fingerprint)
            or self._find(RevocationKind.KEY_ID, certificate.key_id)
            or self._find(RevocationKind.SERIAL, serial)
            or self._find(RevocationKind.SERIAL, serial, certificate.ca_key.fingerprint)
        )
        if found is not None:
            return found
        for name, krl in self.lists.items():
            reason = krl.certificate_reason(certificate)
            if reason is not None:
                return f"{reason} is on the list {name}"
        return None

    def _key_reason(self, key: PublicKey) -> str | None:
        found = self._find(RevocationKind.KEY, key.fingerprint)
        if found is not None:
            return found
        for name, krl in self.lists.items():
            if krl.key_is_revoked(key.blob):
                return f"key {key.fingerprint} is on the list {name}"
        return None

    def _find(
        self, kind: RevocationKind, value: str, ca: str | None = None
    ) -> str | None:
        record = self._by_target.get((kind, value, ca))
        if record is None:
            return None
        what = kind.value.replace("_", " ")
        return f"{what} {printable(value)} is revoked: {printable(record.reason)}"


#: Nothing is revoked.
NO_REVOCATIONS = Revocations()


def _is_absent(fields: Mapping[str, object], name: str) -> bool:
    return fields.get(name) is None


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ValueError(f"its {name} is no text")
    return value


def _time(fields: Mapping[str, object], name: str) -> float:
    seconds = seconds_of(fields.get(name))
    if seconds is None:
        raise ValueError(f"its {name} is no time")
    return seconds


def _check_serial(value: str) -> str:
    if _SERIAL.fullmatch(value) is None or int(value) > _MAX_SERIAL:
        raise InvalidName(
            f"{printable(value)!r} is not a serial number: 1 to {_MAX_SERIAL}"
        )
    return value


def _check_fingerprint(value: str) -> str:
    value = value.rstrip("=")
    if _FINGERPRINT.fullmatch(value) is None:
        raise InvalidName(
            f"{printable(value)!r} is not a fingerprint as ssh-keygen -l prints it: "
            "SHA256: and 43 characters"
        )
    return value


def _check_key_id(value: str) -> str:
    return _check_text(value, "key id")


def _check_text(value: str, what: str) -> str:
    if not value or len(value) > MAX_TEXT or not value.isprintable():
        raise InvalidName(
            f"a {what} has 1 to {MAX_TEXT} characters, none of them control characters"
        )
    return value


_CHECKS: dict[RevocationKind, Callable[[str], str]] = {
    RevocationKind.SERIAL: _check_serial,
    RevocationKind.KEY: _check_fingerprint,
    RevocationKind.KEY_ID: _check_key_id,
    RevocationKind.USER: check_user,
    RevocationKind.AGENT: check_uuid,
    RevocationKind.CLUSTER: check_cluster,
}
