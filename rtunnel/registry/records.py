"""What proxies write into the registry about themselves, and how it reads as JSON.

Pure. Fields that this version does not know are passed over, so that proxies of two
versions share a registry during an upgrade; a field that is missing or of the wrong
type makes the record unreadable, which is a :class:`~rtunnel.errors.RegistryError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Literal, cast

import attrs

from rtunnel.errors import RegistryError
from rtunnel.naming import printable
from rtunnel.registry.holder import Holder
from rtunnel.timestamps import seconds_of

#: Keys of proxy records: this and the proxy's id.
PROXIES = "proxies/"

#: Keys of tunnel records: this, the proxy's id, "/" and the number of the page.
TUNNELS = "tunnels/"

#: Tunnel records in one entry; keeps an entry far below the limit on values.
TUNNELS_PER_PAGE = 1000

#: Characters in any one text of a record; all of them can be printed.
MAX_TEXT = 255

#: Addresses of each kind in a proxy record.
MAX_ADDRESSES = 16

State = Literal["active", "draining"]
_STATES = ("active", "draining")


@attrs.frozen
class ProxyRecord:
    """A proxy that is up.

    :param id: UUID, the first principal of its host certificate.
    :param name: what people call it.
    :param addresses: where agents can reach this very proxy; may be empty.
    :param peer_addresses: what other proxies dial.
    :param generation: grows when the proxy starts anew.
    :param state: "draining" takes no new tunnels and channels.
    :param started: seconds since the epoch.
    :param signs: the roles for which it can sign certificates, "agent" and "proxy";
        none in records of proxies that do not know the field.
    :param holder: the process behind it; set by membership.
    """

    id: str
    name: str
    addresses: tuple[str, ...] = ()
    peer_addresses: tuple[str, ...] = ()
    generation: int = 0
    state: State = "active"
    started: float = 0.0
    signs: tuple[str, ...] = ()
    holder: Holder | None = None

    @property
    def key(self) -> str:
        """Where the registry keeps it."""
        return PROXIES + self.id

    def to_json(self) -> str:
        """The record as an entry's value."""
        return _dump(attrs.asdict(self))

    @classmethod
    def from_json(cls, value: str) -> ProxyRecord:
        """Read an entry's value.

        :raises RegistryError: when it is not a proxy record.
        """
        fields = _Fields("proxy", _load("proxy", value))
        holder = fields.get("holder")
        return cls(
            id=fields.text("id"),
            name=fields.text("name"),
            addresses=fields.texts("addresses"),
            peer_addresses=fields.texts("peer_addresses"),
            generation=fields.count("generation"),
            state=fields.state("state"),
            started=fields.number("started"),
            signs=fields.texts("signs") if "signs" in fields else (),
            holder=None if holder is None else _holder(_Fields("holder", holder)),
        )


@attrs.frozen
class TunnelRecord:
    """A tunnel that is in service.

    :param cluster: the cluster behind it.
    :param agent: instance id of the agent that dialled.
    :param proxy: id of the proxy that holds it.
    :param since: seconds since the epoch.
    :param rtt_seconds: round trip of the last heartbeat; None before the first.
    :param channels: channels open through it.
    """

    cluster: str
    agent: str
    proxy: str
    since: float
    rtt_seconds: float | None = None
    channels: int = 0

    @property
    def essentials(self) -> tuple[str, str, str, float]:
        """All but the measurements, which change all the time."""
        return self.cluster, self.agent, self.proxy, self.since


def tunnels_key(proxy: str, page: int) -> str:
    """Where the registry keeps one page of a proxy's tunnels."""
    return f"{TUNNELS}{proxy}/{page}"


def tunnels_to_json(records: Iterable[TunnelRecord]) -> str:
    """Tunnels of one proxy as an entry's value."""
    return _dump([attrs.asdict(record) for record in records])


def tunnels_from_json(value: str) -> tuple[TunnelRecord, ...]:
    """Read an entry's value.

    :raises RegistryError: when it is not a list of tunnel records.
    """
    loaded = _load("tunnel", value)
    if not isinstance(loaded, list):
        raise RegistryError("the registry holds a tunnel entry that is not a list")
    return tuple(_tunnel(_Fields("tunnel", each)) for each in loaded)


def _tunnel(fields: _Fields) -> TunnelRecord:
    rtt = fields.get("rtt_seconds")
    return TunnelRecord(
        cluster=fields.text("cluster"),
        agent=fields.text("agent"),
        proxy=fields.text("proxy"),
        since=fields.number("since"),
        rtt_seconds=None if rtt is None else fields.number("rtt_seconds"),
        channels=fields.count("channels"),
    )


def _holder(fields: _Fields) -> Holder:
    return Holder(
        place=fields.text("place"),
        pid=fields.count("pid"),
        began=fields.text("began"),
        nonce=fields.text("nonce"),
    )


class _Fields:
    """Typed reading of a JSON object; every failure names record and field."""

    def __init__(self, record: str, loaded: object) -> None:
        if not isinstance(loaded, dict):
            raise RegistryError(
                f"the registry holds a {record} record that is not a JSON object"
            )
        self._record = record
        self._fields = cast(Mapping[str, object], loaded)

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def get(self, name: str) -> object:
        return self._fields.get(name)

    def text(self, name: str) -> str:
        return self._checked_text(name, self.get(name))

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.get(name)
        if not isinstance(value, list) or len(value) > MAX_ADDRESSES:
            raise self._wrong(name, f"a list of at most {MAX_ADDRESSES} texts", value)
        return tuple(self._checked_text(name, each) for each in value)

    def count(self, name: str) -> int:
        value = self.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._wrong(name, "a whole number, not negative", value)
        return value

    def number(self, name: str) -> float:
        value = self.get(name)
        number = seconds_of(value)
        if number is None:
            raise self._wrong(name, "a number, not negative", value)
        return number

    def state(self, name: str) -> State:
        value = self.get(name)
        if value not in _STATES:
            raise self._wrong(name, " or ".join(_STATES), value)
        return cast(State, value)

    def _checked_text(self, name: str, value: object) -> str:
        # Whoever writes it, terminals of people who ask for the status show it.
        if (
            not isinstance(value, str)
            or len(value) > MAX_TEXT
            or not value.isprintable()
        ):
            raise self._wrong(
                name, f"a text of at most {MAX_TEXT} printable characters", value
            )
        return value

    def _wrong(self, name: str, expected: str, found: object) -> RegistryError:
        return RegistryError(
            f"the registry holds a {self._record} record whose {name} is not "
            f"{expected}: {printable(repr(found), 60)}"
        )


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _load(record: str, value: str) -> object:
    try:
        loaded: object = json.loads(value)
    except (ValueError, RecursionError):
        raise RegistryError(
            f"the registry holds a {record} entry that is not JSON"
        ) from None
    return loaded
