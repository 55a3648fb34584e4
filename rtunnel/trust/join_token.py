"""Join tokens: how one is made, what is recorded of it, and the line that carries it.

A token lets its bearer join once, as an agent of one cluster or as a proxy. It is
random, so its hash can be kept without salt, and only its hash is kept. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Final, cast

import attrs

from rtunnel.errors import InvalidName, JoinLineError, RegistryError
from rtunnel.naming import check_cluster, printable
from rtunnel.timestamps import seconds_of
from rtunnel.trust.signing_role import ROLES, Role

#: Keys of token records: this and the SHA-256 of the token, in hex.
TOKENS: Final = "token/"

#: Random bytes in a token.
TOKEN_BYTES: Final = 24
#: What tokens begin with, so that one that got astray can be found.
TOKEN_PREFIX: Final = "rtj-"

#: Characters of the id by which people speak of a token; a part of its hash.
ID_LENGTH: Final = 12

#: How often a token may be used at most.
MAX_USES: Final = 10_000
#: Seconds for which a token may be good at most: a year.
MAX_LIFETIME: Final = 366 * 86400.0
#: Characters in a label.
MAX_LABEL: Final = 64
#: Names of its own that a proxy may get in its certificate.
MAX_NAMES: Final = 16

#: Characters in a line.
MAX_LINE: Final = 8192
#: Addresses and fingerprints in a line, each.
MAX_ADDRESSES: Final = 16
MAX_FINGERPRINTS: Final = 16

#: What every line begins with; another number is another form.
LINE_START: Final = "rtunnel-join=1"

#: What everybody hears whose token does not do, whatever the reason.
TOKEN_REFUSED: Final = (
    "the token is not accepted: it was used, has expired, was withdrawn, or is for "
    "something else; ask for a new one"
)

_TOKEN = re.compile(re.escape(TOKEN_PREFIX) + r"[A-Za-z0-9_-]{32}")
_HASH = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_ADDRESS = re.compile(r"[A-Za-z0-9._:\[\]-]{1,300}")
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,255}")
_ANY_VERSION = re.compile(r"rtunnel-join=[0-9]{1,9}")


def new_token(random: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """A new token.

    :param random: this many random bytes.
    """
    text = base64.urlsafe_b64encode(random(TOKEN_BYTES)).decode("ascii")
    return TOKEN_PREFIX + text


def hash_of(token: str) -> str:
    """What is kept of a token: its SHA-256, in hex.

    :param token: anything that somebody shows as a token.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


@attrs.frozen
class TokenRecord:
    """What the registry keeps of a token.

    :param hash: of the token, see :func:`hash_of`.
    :param cluster: for an agent, the one whose agent its bearer becomes; for a proxy,
        the proxies' own.
    :param uses: how often it may still be used.
    :param created: POSIX time.
    :param expires: POSIX time.
    :param label: what the operator calls it; may be empty.
    :param names: for a proxy, names of its own for its certificate, without ports.
    """

    hash: str
    kind: Role
    cluster: str
    uses: int
    created: float
    expires: float
    label: str = ""
    names: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """By what people speak of it."""
        return self.hash[:ID_LENGTH]

    @property
    def key(self) -> str:
        """Where the registry keeps it."""
        return TOKENS + self.hash

    def is_good(self, now: float) -> bool:
        """Whether it has not expired.

        :param now: POSIX time.
        """
        return now < self.expires

    def used_once(self) -> TokenRecord | None:
        """The record after one use; None when that was the last."""
        return attrs.evolve(self, uses=self.uses - 1) if self.uses > 1 else None

    def to_json(self) -> str:
        """The record as an entry's value; the hash is in its key."""
        fields = attrs.asdict(self)
        del fields["hash"]
        return json.dumps(fields, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, key: str, value: str) -> TokenRecord:
        """Read an entry; fields that are not known are passed over.

        :raises RegistryError: when it is no token record.
        """
        try:
            return cls.make(key.removeprefix(TOKENS), json.loads(value))
        except (ValueError, RecursionError, InvalidName) as error:
            raise RegistryError(
                "the registry holds a token that cannot be read: "
                f"{printable(str(error))}"
            ) from None

    @classmethod
    def make(cls, hash: str, fields: object) -> TokenRecord:
        """A record, if all of it is well-formed.

        :param fields: what :meth:`to_json` writes.
        :raises InvalidName: when something is not; the sentence says what.
        """
        if _HASH.fullmatch(hash) is None:
            raise InvalidName("that is not the hash of a token")
        if not isinstance(fields, Mapping):
            raise InvalidName("that is not a JSON object")
        kind, uses = fields.get("kind"), fields.get("uses")
        if kind not in ROLES:
            raise InvalidName("a token's kind is agent or proxy")
        if type(uses) is not int or not 1 <= uses <= MAX_USES:
            raise InvalidName(f"a token can be used 1 to {MAX_USES} times")
        created, expires = _time(fields, "created"), _time(fields, "expires")
        if expires - created > MAX_LIFETIME:
            raise InvalidName("a token is good for a year at most")
        label, names = fields.get("label", ""), fields.get("names", [])
        if not (
            isinstance(label, str) and len(label) <= MAX_LABEL and label.isprintable()
        ):
            raise InvalidName(
                f"a token's label has at most {MAX_LABEL} printable characters"
            )
        if not (
            isinstance(names, list)
            and len(names) <= MAX_NAMES
            and all(isinstance(n, str) and _NAME.fullmatch(n) for n in names)
        ):
            raise InvalidName(
                f"a proxy's names are at most {MAX_NAMES} host names or addresses"
            )
        return cls(
            hash,
            cast(Role, kind),
            check_cluster(str(fields.get("cluster"))),
            uses,
            created,
            expires,
            label,
            tuple(names),
        )


def _time(fields: Mapping[str, object], name: str) -> float:
    seconds = seconds_of(fields.get(name))
    if seconds is None:
        raise InvalidName(f"a token's {name} is seconds since 1970")
    return seconds


@attrs.frozen
class JoinLine:
    """All that one has to know to join, as one line to paste.

    ``rtunnel-join=1,kind=agent,cluster=b,at=lb.example.com:3023,host-ca=SHA256:...,``
    ``token=rtj-...``, with one ``at`` or more and one ``host-ca`` or more. There is one
    form of it only, without white space; the token stands last, so that a line that
    was cut off is noticed.

    :param cluster: see :class:`TokenRecord`.
    :param addresses: where proxies are, ``host:port`` or ``tls:host:port``.
    :param host_cas: fingerprints of the host authority's keys, one of which has to have
        signed the host certificate there, ``SHA256:...``.
    """

    kind: Role
    cluster: str
    addresses: tuple[str, ...]
    host_cas: tuple[str, ...]
    token: str = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise JoinLineError(f"the line to join with {problem}")

    def _problem(self) -> str | None:
        if self.kind not in ROLES:
            return "is of a kind that is not known, neither agent nor proxy"
        try:
            check_cluster(self.cluster)
        except InvalidName:
            return "names no cluster"
        if not 1 <= len(self.addresses) <= MAX_ADDRESSES:
            return f"has to have 1 to {MAX_ADDRESSES} addresses (at=)"
        if not all(map(_ADDRESS.fullmatch, self.addresses)):
            return "has an address (at=) that is none"
        if not 1 <= len(self.host_cas) <= MAX_FINGERPRINTS:
            return f"has to have 1 to {MAX_FINGERPRINTS} fingerprints (host-ca=)"
        if not all(map(_FINGERPRINT.fullmatch, self.host_cas)):
            return "has a fingerprint (host-ca=) that is none"
        if _TOKEN.fullmatch(self.token) is None:
            return "has no whole token at its end; was it cut off?"
        return None

    def __str__(self) -> str:
        return ",".join(
            (
                LINE_START,
                f"kind={self.kind}",
                f"cluster={self.cluster}",
                *(f"at={address}" for address in self.addresses),
                *(f"host-ca={fingerprint}" for fingerprint in self.host_cas),
                f"token={self.token}",
            )
        )

    @classmethod
    def parse(cls, text: str) -> JoinLine:
        """Read a line; white space around it does not matter.

        :raises JoinLineError: with one sentence, which never shows the token.
        """
        line = text.strip()
        if len(line) > MAX_LINE:
            raise JoinLineError(
                f"a line to join with has at most {MAX_LINE} characters"
            )
        if any(c.isspace() for c in line):
            raise JoinLineError(
                "the line to join with has white space in it; paste it as one line"
            )
        start, *fields = line.split(",")
        if start != LINE_START:
            raise JoinLineError(
                "the line to join with is of another version of rtunnel"
                if _ANY_VERSION.fullmatch(start)
                else "that is not what `rtunnel token add` prints; it begins with "
                f"{LINE_START}"
            )
        found: dict[str, list[str]] = {}
        for field in fields:
            name, _, value = field.partition("=")
            found.setdefault(name, []).append(value)
        for name in ("kind", "cluster", "token"):
            if len(found.get(name, [])) != 1:
                raise JoinLineError(
                    f"the line to join with has no {name}; was it cut off?"
                    if name not in found
                    else f"the line to join with has more than one {name}"
                )
        read = cls(
            kind=cast(Role, found["kind"][0]),
            cluster=found["cluster"][0],
            addresses=tuple(found.get("at", [])),
            host_cas=tuple(found.get("host-ca", [])),
            token=found["token"][0],
        )
        if str(read) != line:
            raise JoinLineError(
                "the line to join with is not in the form that `rtunnel token add` "
                "prints; paste it unchanged"
            )
        return read
