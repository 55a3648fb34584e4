"""The operators' revocations in a registry: written, read, removed.

Every proxy of the cluster watches them, see :mod:`rtunnel.proxy.revocation_watch`.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.logger import Logger

from rtunnel.errors import RegistryError, RevocationRefused
from rtunnel.registry.interface import Entry, Registry
from rtunnel.timestamps import rfc3339
from rtunnel.trust.revocation import MAX_RECORDS, Revocation

#: Keys of revocations: this, and their id.
REVOCATIONS = "revocation/"

_log = Logger()


async def read_revocations(registry: Registry) -> tuple[Revocation, ...]:
    """Every revocation, the oldest first.

    :raises RegistryError: when the registry is away.
    """
    return parse_revocations(await registry.list(REVOCATIONS))


def parse_revocations(
    entries: Iterable[Entry], before: Iterable[Revocation] = ()
) -> tuple[Revocation, ...]:
    """The records in these entries, the oldest first.

    An entry that cannot be read is logged and passed over: it cannot be known whom it
    meant, and the others have to hold.

    :param before: the records that are known; one of them holds on while its entry
        cannot be read.
    """
    known = {REVOCATIONS + record.id: record for record in before}
    records = []
    for entry in entries:
        try:
            records.append(Revocation.from_json(entry.value))
        except RegistryError as error:
            _log.error("{key}: {error}", key=entry.key, error=error)
            if entry.key in known:
                records.append(known[entry.key])
    return tuple(sorted(records, key=lambda record: (record.created, record.id)))


async def add_revocation(registry: Registry, record: Revocation) -> None:
    """Revoke something. What is revoked already gets the new reason and time.

    :raises RevocationRefused: when it is revoked for longer already.
    :raises RegistryError: when the registry is away, or holds too many.
    """
    held = await registry.list(REVOCATIONS)
    key = REVOCATIONS + record.id
    for known in parse_revocations(entry for entry in held if entry.key == key):
        _check_longer(known, record)
    if len(held) >= MAX_RECORDS and all(entry.key != key for entry in held):
        raise RegistryError(
            f"there are {MAX_RECORDS} revocations, which is the limit; remove some, or "
            "put them into a key revocation list (ssh-keygen -k)"
        )
    ttl = None if record.until is None else record.until - record.created
    if ttl is None or ttl > 0:
        await registry.put(key, record.to_json(), ttl)


def _check_longer(known: Revocation, record: Revocation) -> None:
    if record.until is None or (
        known.until is not None and known.until <= record.until
    ):
        return
    end = (
        "until it is removed"
        if known.until is None
        else f"until {rfc3339(known.until, 'seconds')}"
    )
    raise RevocationRefused(
        f"{known.target} is revoked {end} already, and stays so; to have it end "
        f"sooner, remove that first: rtunnel revoke --remove {known.id}"
    )


async def remove_revocation(registry: Registry, id: str) -> None:
    """Take a revocation back, if it is there.

    :param id: the record's.
    :raises RegistryError: when the registry is away.
    """
    await registry.delete(REVOCATIONS + id)
