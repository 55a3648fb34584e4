"""The messages of the control channel, as values and as bytes.

Every message travels as one channel request of ``control@rtunnel``: the request type is
the message's name, the payload a JSON object in UTF-8. Values are checked when they are
made, so what :func:`decode` returns can be used without another look, and what breaks a
limit never reaches :func:`encode`.

Fields that a message does not have are ignored when reading, so that a newer peer can
say more; names that we do not know are an error of their own, which is answered with
failure and is not the end of the tunnel. See the design's section "On the wire".

Pure: no Twisted, no clock.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn

import attrs

from rtunnel.errors import MessageError, UnknownMessage
from rtunnel.naming import printable

#: Bytes of one message's JSON.
MAX_PAYLOAD: Final = 64 * 1024
#: Proxies in one discovery request.
MAX_PROXIES: Final = 64
#: Advertised addresses of one proxy.
MAX_ADDRESSES: Final = 16
#: Characters of any one string.
MAX_STRING: Final = 255
#: Names that one agent announces, and entries of its ``limits``.
MAX_ANNOUNCES: Final = 64
#: Seconds: the longest ``ttl``, ``resend`` or drain that makes sense to us.
MAX_SECONDS: Final = 7 * 86400.0
#: The largest whole number that JSON carries between languages unharmed.
MAX_INTEGER: Final = 2**53 - 1

#: States of a proxy. A draining one finishes what it has and wants no new tunnels.
ACTIVE: Final = "active"
DRAINING: Final = "draining"
_STATES = (ACTIVE, DRAINING)

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _checked_text(what: str, value: object, *, empty: bool = True) -> str:
    if not isinstance(value, str):
        raise MessageError(f"{what} is not a string")
    if len(value) > MAX_STRING:
        raise MessageError(
            f"{what} has {len(value)} characters; {MAX_STRING} is the limit"
        )
    # Also keeps out lone surrogates, which JSON can carry and UTF-8 cannot.
    if not value.isprintable():
        raise MessageError(f"{what} has characters that cannot be printed")
    if not value and not empty:
        raise MessageError(f"{what} is empty")
    return value


def _checked_id(what: str, value: object) -> str:
    text = _checked_text(what, value).lower()
    if _UUID.fullmatch(text) is None:
        raise MessageError(f"{what} {printable(text, 60)!r} is not a UUID")
    return text


def _checked_integer(what: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MessageError(f"{what} is not a whole number")
    if not 0 <= value <= MAX_INTEGER:
        raise MessageError(f"{what} is not between 0 and {MAX_INTEGER}")
    return value


def _checked_seconds(what: str, value: object, *, zero: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MessageError(f"{what} is not a number")
    # Compared before it is converted: a huge int does not fit a float.
    if not 0 <= value <= MAX_SECONDS or math.isnan(value) or not (value or zero):
        least = "0" if zero else "more than 0"
        raise MessageError(f"{what} is not {least} to {MAX_SECONDS:.0f} seconds")
    return float(value)


def _checked_texts(what: str, values: object, limit: int) -> tuple[str, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise MessageError(f"{what} is not a list")
    kept = tuple(values)
    if len(kept) > limit:
        raise MessageError(f"{what} has {len(kept)} entries; {limit} is the limit")
    return tuple(_checked_text(f"an entry of {what}", v, empty=False) for v in kept)


@attrs.frozen
class Hello:
    """The agent's first message; the reply decides whether the tunnel is in service.

    :param version: of rtunnel at the agent, for logs.
    :param instance: the agent's UUID; has to be the key id of its certificate.
    :param announces: names of hosts that the agent offers, for listings; at most 64.
    :param limits: what the agent can carry, by name (``channels``: open at once).
    :raises MessageError: when a field breaks its limit.
    """

    version: str = attrs.field()
    instance: str = attrs.field()
    announces: tuple[str, ...] = attrs.field(default=())
    limits: Mapping[str, int] = attrs.field(factory=dict, hash=False)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.limits, Mapping):
            raise MessageError("limits is not an object")
        if len(self.limits) > MAX_ANNOUNCES:
            raise MessageError(f"limits has more than {MAX_ANNOUNCES} entries")
        limits = {
            _checked_text("a name in limits", name): _checked_integer(
                "a value in limits", value
            )
            for name, value in self.limits.items()
        }
        announces = _checked_texts("announces", self.announces, MAX_ANNOUNCES)
        object.__setattr__(self, "version", _checked_text("version", self.version))
        object.__setattr__(self, "instance", _checked_id("instance", self.instance))
        object.__setattr__(self, "announces", announces)
        object.__setattr__(self, "limits", MappingProxyType(limits))


@attrs.frozen
class Heartbeat:
    """A sign of life, both ways; the reply to it gives the round trip time.

    :param sequence: counts up from 0 for each direction of each tunnel.
    :raises MessageError: when it is negative or beyond 2^53 - 1.
    """

    sequence: int = attrs.field()

    def __attrs_post_init__(self) -> None:
        _checked_integer("sequence", self.sequence)


@attrs.frozen
class ProxyAdvert:
    """What a proxy says about one proxy, itself or another.

    :param id: the proxy's UUID, the first principal of its host certificate.
    :param addresses: where it can be dialled, ``host:port`` or ``tls:host:port``; at
        most 16. Empty: only the load balancer leads there. Their form is not checked
        here: an agent passes over those that it does not understand.
    :param generation: a later record of the same proxy has a higher one.
    :param state: ``active`` or ``draining``.
    :param ttl: seconds after which an agent forgets the proxy unless it is told again.
    :raises MessageError: when a field breaks its limit.
    """

    id: str = attrs.field()
    addresses: tuple[str, ...] = attrs.field()
    generation: int = attrs.field()
    state: str = attrs.field()
    ttl: float = attrs.field()

    def __attrs_post_init__(self) -> None:
        addresses = _checked_texts("addresses", self.addresses, MAX_ADDRESSES)
        object.__setattr__(self, "id", _checked_id("id", self.id))
        object.__setattr__(self, "addresses", addresses)
        _checked_integer("generation", self.generation)
        if self.state not in _STATES:
            raise MessageError("state is neither 'active' nor 'draining'")
        object.__setattr__(self, "ttl", _checked_seconds("ttl", self.ttl))


@attrs.frozen
class DiscoveryRequest:
    """Every proxy there is, as the sending proxy knows them: always the full list.

    :param proxies: at most 64, each id once.
    :param resend: seconds after which the proxy will say it again, changed or not.
    :raises MessageError: when a field breaks its limit.
    """

    proxies: tuple[ProxyAdvert, ...] = attrs.field()
    resend: float = attrs.field()

    def __attrs_post_init__(self) -> None:
        if len(self.proxies) > MAX_PROXIES:
            raise MessageError(
                f"{len(self.proxies)} proxies in a discovery request; "
                f"{MAX_PROXIES} is the limit"
            )
        if len({advert.id for advert in self.proxies}) != len(self.proxies):
            raise MessageError("a proxy is in a discovery request twice")
        object.__setattr__(self, "resend", _checked_seconds("resend", self.resend))


@attrs.frozen
class Drain:
    """The sender is leaving: take new connections elsewhere; open ones may finish.

    :param reason: one sentence for the log of the other side.
    :param seconds: how long the sender waits for open channels before it closes.
    :raises MessageError: when a field breaks its limit.
    """

    reason: str = attrs.field()
    seconds: float = attrs.field()

    def __attrs_post_init__(self) -> None:
        _checked_text("reason", self.reason)
        seconds = _checked_seconds("seconds", self.seconds, zero=True)
        object.__setattr__(self, "seconds", seconds)


Message = Hello | Heartbeat | DiscoveryRequest | Drain


def encode(message: Message) -> tuple[bytes, bytes]:
    """A message as channel request type and payload.

    :raises MessageError: when the payload would be longer than 64 KiB.
    """
    name: bytes
    fields: dict[str, Any]
    match message:
        case Hello():
            name = b"hello"
            fields = {
                "version": message.version,
                "instance": message.instance,
                "announces": message.announces,
                "limits": dict(message.limits),
            }
        case Heartbeat():
            name, fields = b"heartbeat", {"sequence": message.sequence}
        case DiscoveryRequest():
            name = b"discovery"
            adverts = [
                {
                    "id": advert.id,
                    "addresses": advert.addresses,
                    "generation": advert.generation,
                    "state": advert.state,
                    "ttl": advert.ttl,
                }
                for advert in message.proxies
            ]
            fields = {"proxies": adverts, "resend": message.resend}
        case Drain():
            name = b"drain"
            fields = {"reason": message.reason, "seconds": message.seconds}
    payload = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    if len(payload) > MAX_PAYLOAD:
        raise MessageError(
            f"a {name.decode()} message of {len(payload)} bytes; "
            f"{MAX_PAYLOAD} is the limit"
        )
    return name, payload


def decode(name: bytes, payload: bytes) -> Message:
    """Read a channel request of the control channel.

    :param name: the request type.
    :param payload: the type-specific rest of the request.
    :raises UnknownMessage: when the name is none of ours; answer with failure.
    :raises MessageError: when a message that we know is malformed; end the tunnel.
    """
    read = _READERS.get(name)
    if read is None:
        raise UnknownMessage(f"there is no control message '{printable(name, 60)}'")
    if len(payload) > MAX_PAYLOAD:
        raise MessageError(
            f"a {name.decode()} message of {len(payload)} bytes; "
            f"{MAX_PAYLOAD} is the limit"
        )
    try:
        fields = json.loads(payload.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise MessageError(f"a {name.decode()} message is not JSON") from None
    try:
        return read(_object(fields))
    except MessageError as error:
        raise MessageError(f"a {name.decode()} message: {error}") from None


def _refuse_constant(constant: str) -> NoReturn:
    # Python reads and writes NaN and Infinity; JSON (RFC 8259 section 6) has neither.
    raise ValueError(constant)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MessageError("not a JSON object")
    return value


def _need(fields: Mapping[str, Any], key: str) -> Any:
    try:
        return fields[key]
    except KeyError:
        raise MessageError(f"{key!r} is missing") from None


def _list(fields: Mapping[str, Any], key: str) -> list[Any]:
    value = _need(fields, key)
    if not isinstance(value, list):
        raise MessageError(f"{key} is not a list")
    return value


def _read_hello(fields: Mapping[str, Any]) -> Hello:
    return Hello(
        version=_need(fields, "version"),
        instance=_need(fields, "instance"),
        announces=tuple(_list(fields, "announces")),
        limits=_object(_need(fields, "limits")),
    )


def _read_heartbeat(fields: Mapping[str, Any]) -> Heartbeat:
    return Heartbeat(_need(fields, "sequence"))


def _read_discovery(fields: Mapping[str, Any]) -> DiscoveryRequest:
    adverts = _list(fields, "proxies")
    if len(adverts) > MAX_PROXIES:
        raise MessageError(f"{len(adverts)} proxies; {MAX_PROXIES} is the limit")
    return DiscoveryRequest(
        proxies=tuple(_read_advert(_object(advert)) for advert in adverts),
        resend=_need(fields, "resend"),
    )


def _read_advert(fields: Mapping[str, Any]) -> ProxyAdvert:
    return ProxyAdvert(
        id=_need(fields, "id"),
        addresses=tuple(_list(fields, "addresses")),
        generation=_need(fields, "generation"),
        state=_need(fields, "state"),
        ttl=_need(fields, "ttl"),
    )


def _read_drain(fields: Mapping[str, Any]) -> Drain:
    return Drain(reason=_need(fields, "reason"), seconds=_need(fields, "seconds"))


_READERS: Final[Mapping[bytes, Callable[[Mapping[str, Any]], Message]]] = {
    b"hello": _read_hello,
    b"heartbeat": _read_heartbeat,
    b"discovery": _read_discovery,
    b"drain": _read_drain,
}
