"""Who follows the rotation of an authority, and how far: what proxies write of it.

Pure. A record lives as long as the certificate of whom it speaks of: who is off for
longer cannot come back by itself anyway.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from rtunnel.errors import RegistryError
from rtunnel.trust.bundle import ROLES, Role, TrustBundle

#: Keys of the records: this, the kind, "/", the id, "/" and who has seen it.
FOLLOWERS: Final = "followers/"

Kind: TypeAlias = Literal["proxy", "agent"]

#: Whose certificates an authority signs; nobody keeps a list of people.
_USES: Final[Mapping[Kind, Role]] = {"proxy": "host", "agent": "agent"}
#: Which authorities somebody trusts.
_TRUSTS: Final[Mapping[Kind, tuple[Role, ...]]] = {"proxy": ROLES, "agent": ("host",)}


@attrs.frozen
class Follower:
    """A proxy, or an agent as one proxy has seen it last.

    :param id: UUID.
    :param name: of the proxy, or of the agent's cluster.
    :param by: id of the proxy that says it.
    :param certified_by: fingerprint of the authority's key that has signed its
        certificate.
    :param issued: POSIX time from which the certificate is valid.
    :param valid_before: POSIX time at which it ends.
    :param generations: of the trust bundles that it has taken over, by role.
    :param seen: POSIX time.
    """

    kind: Kind
    id: str
    name: str
    by: str
    certified_by: str
    issued: int
    valid_before: int
    generations: Mapping[Role, int] = attrs.field(factory=dict, hash=False)
    seen: float = 0.0

    @property
    def key(self) -> str:
        """Where the registry keeps it."""
        return f"{FOLLOWERS}{self.kind}/{self.id}/{self.by}"

    def to_json(self) -> str:
        """The record as an entry's value."""
        fields = attrs.asdict(self) | {"generations": dict(self.generations)}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, value: str) -> Follower:
        """Read an entry's value; fields that are not known are passed over.

        :raises RegistryError: when it is no such record.
        """
        try:
            fields = json.loads(value)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise _unreadable()
        generations = fields.get("generations")
        kind = _text(fields, "kind")
        if kind not in _USES or not isinstance(generations, dict):
            raise _unreadable()
        return cls(
            kind=cast(Kind, kind),
            id=_text(fields, "id"),
            name=_text(fields, "name"),
            by=_text(fields, "by"),
            certified_by=_text(fields, "certified_by"),
            issued=int(_number(fields, "issued")),
            valid_before=int(_number(fields, "valid_before")),
            generations={
                role: int(_number(generations, role))
                for role in ROLES
                if role in generations
            },
            seen=_number(fields, "seen"),
        )


def merged(records: Iterable[Follower]) -> tuple[Follower, ...]:
    """One record for each proxy and agent, of what several proxies have seen.

    What was taken over once stays so, and the newest certificate is the one in use.
    """
    seen: dict[tuple[Kind, str], list[Follower]] = {}
    for record in records:
        seen.setdefault((record.kind, record.id), []).append(record)
    return tuple(_merge(seen[key]) for key in sorted(seen))


def _merge(records: Sequence[Follower]) -> Follower:
    newest = max(records, key=lambda each: (each.issued, each.valid_before, each.seen))
    generations = {
        role: max(each.generations.get(role, 0) for each in records) for role in ROLES
    }
    return attrs.evolve(
        newest,
        generations={role: number for role, number in generations.items() if number},
        seen=max(each.seen for each in records),
    )


def lagging(follower: Follower, bundle: TrustBundle) -> tuple[str, ...]:
    """What somebody has not done yet of what a bundle asks for; nothing, if all.

    :return: sentences without a subject, for people.
    """
    lacks = []
    if bundle.role in _TRUSTS[follower.kind]:
        generation = follower.generations.get(bundle.role, 0)
        if generation < bundle.generation:
            lacks.append(
                f"trusts what generation {generation} says, not {bundle.generation}"
            )
    uses = bundle.role == _USES[follower.kind]
    if uses and follower.certified_by != bundle.signs.fingerprint:
        lacks.append(f"has a certificate of {follower.certified_by}")
    return tuple(lacks)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > 255 or not value.isprintable():
        raise _unreadable()
    return value


def _number(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= cast(float, value) < 2**64:
        return cast(float, value)
    raise _unreadable()


def _unreadable() -> RegistryError:
    return RegistryError("the registry holds a follower record that is none")
