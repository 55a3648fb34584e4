"""The list of host certificates that agents must not believe any longer. Pure.

Whoever can write the registry, or was a proxy once, could tell agents that every proxy
is revoked, and so lock them out. So the list is signed by the host authority, as trust
bundles are (:mod:`rtunnel.trust.bundle`): it counts for whoever trusts a key that has
signed it, and only if its version is higher than the one known. See docs/protocol.md.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import attrs

from rtunnel.errors import InvalidName, MessageError
from rtunnel.trust.bundle import (
    MAX_GENERATION,
    MAX_SIGNATURES,
    first_signer,
    read_signatures,
    signatures_text,
)
from rtunnel.trust.identity import check_uuid
from rtunnel.trust.revocation import Revocation, RevocationKind, Revocations
from rtunnel.wire.data_types import string, text, uint32
from rtunnel.wire.keys import PrivateKey, PublicKey

#: Entries of one list. With its signatures it fits a control message.
MAX_ENTRIES: Final = 300
#: Bytes of one list as JSON.
MAX_LIST: Final = 60 * 1024

#: What is signed begins with this, so that no other signature can be taken for it.
DOMAIN: Final = b"rtunnel revoked hosts v1"

#: The operator's reasons stay at the proxies.
_REASON: Final = "the host authority says so"


def may_be_host(revocation: Revocation) -> bool:
    """Whether a revocation can be one of a host certificate: by serial number, by key,
    or by the id of a proxy."""
    match revocation.kind:
        case RevocationKind.SERIAL | RevocationKind.KEY:
            return True
        case RevocationKind.KEY_ID:
            try:
                check_uuid(revocation.value)
            except InvalidName:
                return False
            return True
        case _:
            return False


@attrs.frozen
class RevokedHosts:
    """What is revoked of proxies, from one version on.

    :param version: grows with each change.
    :param entries: see :func:`may_be_host`. Their reasons are not carried, their times
        in whole seconds.
    :param signatures: of :attr:`signed_text`, by keys of the host authority.
    :raises MessageError: when a field breaks its limit.
    """

    version: int
    entries: tuple[Revocation, ...] = ()
    signatures: tuple[bytes, ...] = ()

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.version <= MAX_GENERATION:
            raise MessageError("the version of revoked hosts is out of range")
        if len(self.entries) > MAX_ENTRIES:
            raise MessageError(f"over {MAX_ENTRIES} revoked hosts")
        if not all(map(may_be_host, self.entries)):
            raise MessageError("a revocation that can be of no host certificate")
        if len(self.signatures) > MAX_SIGNATURES:
            raise MessageError(f"over {MAX_SIGNATURES} signatures of revoked hosts")

    @property
    def signed_text(self) -> bytes:
        """What the signatures are of: every other field."""
        return b"".join(
            (
                string(DOMAIN),
                text(str(self.version)),
                uint32(len(self.entries)),
                *(_entry_text(entry) for entry in self.entries),
            )
        )

    def signed(self, keys: Iterable[PrivateKey]) -> RevokedHosts:
        """The list with the signatures of these keys, and no others."""
        data = self.signed_text
        return attrs.evolve(self, signatures=tuple(key.sign(data) for key in keys))

    def signer(self, trusted: Collection[PublicKey]) -> PublicKey | None:
        """The first of some keys that has signed the list; None when none has.

        :param trusted: the host authorities that the reader trusts.
        """
        return first_signer(self.signatures, self.signed_text, trusted)

    def at(self, now: float) -> tuple[Revocation, ...]:
        """The entries that hold at a time.

        :param now: POSIX time.
        """
        return tuple(e for e in self.entries if e.until is None or now < e.until)

    def revocations(self, now: float) -> Revocations:
        """The same, to ask about certificates."""
        return Revocations(self.at(now))

    def to_fields(self) -> dict[str, Any]:
        """The list as a JSON object."""
        return {
            "version": self.version,
            "entries": [_entry_fields(entry) for entry in self.entries],
            "signatures": signatures_text(self.signatures),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> RevokedHosts:
        """Read a JSON object; fields that are not known are passed over.

        :raises MessageError: when it is no list. Whether to believe it is another
            question, see :meth:`signer`.
        """
        version, entries = fields.get("version"), fields.get("entries")
        if not isinstance(version, int) or isinstance(version, bool):
            raise MessageError("the version of revoked hosts is not a whole number")
        if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
            raise MessageError(f"revoked hosts are not a list of up to {MAX_ENTRIES}")
        return cls(
            version,
            tuple(map(_read_entry, entries)),
            read_signatures(fields.get("signatures")),
        )

    def to_json(self) -> str:
        """The list as text, for registry and file."""
        return json.dumps(self.to_fields(), separators=(",", ":"))

    @classmethod
    def from_json(cls, value: str) -> RevokedHosts:
        """Read what :meth:`to_json` gave.

        :raises MessageError: when it is no list.
        """
        if len(value) > MAX_LIST:
            raise MessageError(f"revoked hosts in more than {MAX_LIST} bytes")
        try:
            fields = json.loads(value)
        except (ValueError, RecursionError):
            raise MessageError("revoked hosts that are not JSON") from None
        if not isinstance(fields, dict):
            raise MessageError("revoked hosts that are not a JSON object")
        return cls.from_fields(fields)


def following(
    known: RevokedHosts | None,
    now: float,
    *,
    add: Revocation | None = None,
    remove: str | None = None,
) -> RevokedHosts:
    """The list that comes next, not signed yet, without what has ended.

    :param known: the one before; None before the first.
    :param now: POSIX time.
    :param add: see :func:`may_be_host`; in place of the entry with the same id.
    :param remove: the id of an entry.
    :raises MessageError: when there are too many.
    """
    gone = {remove, None if add is None else add.id}
    kept = () if known is None else known.at(now)
    return RevokedHosts(
        1 if known is None else known.version + 1,
        (
            *(entry for entry in kept if entry.id not in gone),
            *(() if add is None else (_bare(add),)),
        ),
    )


def _bare(revocation: Revocation) -> Revocation:
    """What a list carries of a revocation."""
    until = revocation.until
    return attrs.evolve(
        revocation,
        reason=_REASON,
        created=float(int(revocation.created)),
        until=None if until is None else float(int(until) + 1),
    )


def _until(entry: Revocation) -> int | None:
    return None if entry.until is None else int(entry.until)


def _entry_text(entry: Revocation) -> bytes:
    until = _until(entry)
    return b"".join(
        (
            text(entry.kind.value),
            text(entry.value),
            text(entry.ca or ""),
            text(str(int(entry.created))),
            text("" if until is None else str(until)),
        )
    )


def _entry_fields(entry: Revocation) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "kind": entry.kind.value,
        "value": entry.value,
        "created": int(entry.created),
    }
    if entry.ca is not None:
        fields["ca"] = entry.ca
    if entry.until is not None:
        fields["until"] = _until(entry)
    return fields


def _read_entry(fields: object) -> Revocation:
    if not isinstance(fields, dict):
        raise MessageError("a revoked host is not a JSON object")
    kind, value = fields.get("kind"), fields.get("value")
    ca, until = fields.get("ca"), _read_time(fields, "until")
    created = _read_time(fields, "created")
    if not isinstance(value, str) or not isinstance(ca, str | None) or created is None:
        raise MessageError("a revoked host lacks a field")
    try:
        return Revocation.make(
            RevocationKind(kind),
            value,
            reason=_REASON,
            created=created,
            until=until,
            ca=ca,
        )
    except (ValueError, InvalidName) as error:
        raise MessageError(f"a revoked host: {error}") from None


def _read_time(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not 0 <= value <= MAX_GENERATION:
        raise MessageError("a revoked host's time is none")
    return float(value)
