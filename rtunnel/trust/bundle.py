"""Trust bundles: which keys of one authority are trusted, and which one signs.

Every phase of a rotation is a bundle. It lies in the registry and goes to agents, and
neither is believed: a bundle counts for whoever trusts one of the keys that have signed
it, and only if its generation is higher than the one known. See docs/protocol.md.

Pure: no Twisted, no clock, no files.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from rtunnel.errors import MessageError, ProtocolError
from rtunnel.wire.data_types import string, text, uint32
from rtunnel.wire.keys import PrivateKey, PublicKey

#: The three authorities.
Role: TypeAlias = Literal["host", "agent", "user"]
ROLES: Final[tuple[Role, ...]] = ("host", "agent", "user")

#: Keys that one bundle trusts.
MAX_TRUSTED: Final = 16
#: Signatures of one bundle.
MAX_SIGNATURES: Final = 4
#: Bytes of one bundle as JSON; fits a control message and a registry entry.
MAX_BUNDLE: Final = 48 * 1024
#: The largest generation: what JSON carries between languages unharmed.
MAX_GENERATION: Final = 2**53 - 1

#: What is signed begins with this, so that no other signature can be taken for it.
DOMAIN: Final = b"rtunnel trust bundle v1"


class Phase(enum.Enum):
    """How far the rotation of an authority is; the values are for people and JSON."""

    #: One key is trusted and signs; no rotation, or one that was rolled back.
    STEADY = "steady"
    #: The new key is trusted beside the old one, which still signs.
    TRUSTED = "trusted"
    #: The new key signs; both are trusted.
    SIGNS = "signs"
    #: The old key is no longer trusted.
    RETIRED = "retired"


@attrs.frozen
class TrustBundle:
    """Whose signature is believed in one role, from one generation on.

    :param role: the authority.
    :param generation: grows with each phase, forth and back.
    :param phase: of the rotation.
    :param trusted: every key that is believed, ``signs`` among them.
    :param signs: the key by which certificates are signed now.
    :param other: the other key of the rotation: the new one before it signs, the old
        one after; None when there is none.
    :param signatures: of :attr:`signed_text`, by keys that readers trust already.
    :raises MessageError: when a field breaks its limit, or they contradict each other.
    """

    role: Role
    generation: int
    phase: Phase
    trusted: tuple[PublicKey, ...]
    signs: PublicKey
    other: PublicKey | None = None
    signatures: tuple[bytes, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.role not in ROLES:
            raise MessageError("a trust bundle of no authority")
        if not 1 <= self.generation <= MAX_GENERATION:
            raise MessageError("a trust bundle's generation is out of range")
        if not 1 <= len(self.trusted) <= MAX_TRUSTED:
            raise MessageError(f"a trust bundle trusts 1 to {MAX_TRUSTED} keys")
        if len(set(self.trusted)) != len(self.trusted):
            raise MessageError("a trust bundle names a key twice")
        if self.signs not in self.trusted:
            raise MessageError("a trust bundle whose signing key is not trusted")
        if (self.other is None) != (self.phase is Phase.STEADY):
            raise MessageError("a trust bundle with one key too many or too few")
        if self.other == self.signs:
            raise MessageError("a trust bundle rotates a key into itself")
        if self.other is not None and (self.other in self.trusted) == (
            self.phase is Phase.RETIRED
        ):
            raise MessageError("a trust bundle's phase contradicts its keys")
        if len(self.signatures) > MAX_SIGNATURES:
            raise MessageError(f"a trust bundle of over {MAX_SIGNATURES} signatures")

    @property
    def signed_text(self) -> bytes:
        """What the signatures are of: every other field."""
        return b"".join(
            (
                string(DOMAIN),
                text(self.role),
                text(str(self.generation)),
                text(self.phase.value),
                uint32(len(self.trusted)),
                *(string(key.blob) for key in self.trusted),
                string(self.signs.blob),
                string(b"" if self.other is None else self.other.blob),
            )
        )

    def signed(self, keys: Iterable[PrivateKey]) -> TrustBundle:
        """The bundle with the signatures of these keys, and no others."""
        data = self.signed_text
        return attrs.evolve(self, signatures=tuple(key.sign(data) for key in keys))

    def signer(self, trusted: Collection[PublicKey]) -> PublicKey | None:
        """The first of some keys that has signed the bundle; None when none has.

        :param trusted: the keys of this role that the reader trusts already.
        """
        return first_signer(self.signatures, self.signed_text, trusted)

    def to_fields(self) -> dict[str, Any]:
        """The bundle as a JSON object."""
        return {
            "role": self.role,
            "generation": self.generation,
            "phase": self.phase.value,
            "trusted": [key.to_openssh() for key in self.trusted],
            "signs": self.signs.to_openssh(),
            "other": None if self.other is None else self.other.to_openssh(),
            "signatures": signatures_text(self.signatures),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> TrustBundle:
        """Read a JSON object; fields that are not known are passed over.

        :raises MessageError: when it is no bundle. Whether to believe it is another
            question, see :meth:`signer`.
        """
        role, generation = fields.get("role"), fields.get("generation")
        if role not in ROLES:
            raise MessageError("a trust bundle of no authority")
        if not isinstance(generation, int) or isinstance(generation, bool):
            raise MessageError("a trust bundle's generation is not a whole number")
        try:
            phase = Phase(fields.get("phase"))
        except ValueError:
            raise MessageError("a trust bundle of no phase that is known") from None
        other = fields.get("other")
        return cls(
            role=cast(Role, role),
            generation=generation,
            phase=phase,
            trusted=tuple(map(_key, _list(fields, "trusted", MAX_TRUSTED))),
            signs=_key(fields.get("signs")),
            other=None if other is None else _key(other),
            signatures=read_signatures(fields.get("signatures")),
        )

    def to_json(self) -> str:
        """The bundle as text, for registry and file."""
        return json.dumps(self.to_fields(), separators=(",", ":"))

    @classmethod
    def from_json(cls, value: str) -> TrustBundle:
        """Read what :meth:`to_json` gave.

        :raises MessageError: when it is no bundle.
        """
        if len(value) > MAX_BUNDLE:
            raise MessageError(f"a trust bundle of more than {MAX_BUNDLE} bytes")
        try:
            fields = json.loads(value)
        except (ValueError, RecursionError):
            raise MessageError("a trust bundle that is not JSON") from None
        if not isinstance(fields, dict):
            raise MessageError("a trust bundle that is not a JSON object")
        return cls.from_fields(fields)


def first_signer(
    signatures: Iterable[bytes], data: bytes, trusted: Collection[PublicKey]
) -> PublicKey | None:
    """The first of some keys that has signed something; None when none has.

    :param trusted: the keys that the reader trusts already.
    """
    signatures = tuple(signatures)
    for key in trusted:
        for signature in signatures:
            if any(
                key.verify(signature, data, algorithm)
                for algorithm in key.signature_algorithms
            ):
                return key
    return None


def signatures_text(signatures: Iterable[bytes]) -> list[str]:
    """Signatures for a JSON object."""
    return [base64.b64encode(signature).decode() for signature in signatures]


def read_signatures(value: object) -> tuple[bytes, ...]:
    """Read what :func:`signatures_text` gave.

    :raises MessageError: when these are none, or over :data:`MAX_SIGNATURES`.
    """
    if not isinstance(value, list) or len(value) > MAX_SIGNATURES:
        raise MessageError(f"signatures are not a list of up to {MAX_SIGNATURES}")
    return tuple(map(_signature, value))


def _list(fields: Mapping[str, Any], name: str, limit: int) -> list[object]:
    value = fields.get(name)
    if not isinstance(value, list) or len(value) > limit:
        raise MessageError(f"a trust bundle's {name} is not a list of up to {limit}")
    return value


def _key(value: object) -> PublicKey:
    if not isinstance(value, str):
        raise MessageError("a trust bundle's key is not a text")
    try:
        return PublicKey.from_openssh(value)[0]
    except ProtocolError as error:
        raise MessageError(f"a trust bundle's key: {error}") from None


def _signature(value: object) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode(value.encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error):
            pass
    raise MessageError("a signature is not base64")
