"""The messages of the control channel, as values and as bytes.

Every message travels as one channel request of ``control@rtunnel``: the request type is
the message's name, the payload a JSON object in UTF-8. Values are checked when they are
made, so what :func:`decode` returns can be used without another look, and what breaks a
limit never reaches :func:`encode`.

Fields that a message does not have are ignored when reading, so that a newer peer can
say more; names that we do not know are an error of their own, which is answered with
failure and is not the end of the tunnel. See docs/protocol.md, "The control channel".

Pure: no Twisted, no clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn

import attrs

from rtunnel.discovery import trust_messages
from rtunnel.discovery.message_fields import (
    as_object,
    checked_id,
    checked_integer,
    checked_seconds,
    checked_text,
    checked_texts,
    need,
    need_list,
)
from rtunnel.discovery.trust_messages import (
    NotRenewed,
    Renew,
    RenewalDue,
    Renewed,
    Replace,
    Revoked,
    Trust,
)
from rtunnel.errors import MessageError, UnknownMessage
from rtunnel.naming import printable

#: Bytes of one message's JSON.
MAX_PAYLOAD: Final = 64 * 1024
#: Proxies in one discovery request.
MAX_PROXIES: Final = 64
#: Advertised addresses of one proxy.
MAX_ADDRESSES: Final = 16
#: Names that one agent announces, and entries of its ``limits``.
MAX_ANNOUNCES: Final = 64

#: States of a proxy. A draining one finishes what it has and wants no new tunnels.
ACTIVE: Final = "active"
DRAINING: Final = "draining"
_STATES = (ACTIVE, DRAINING)


@attrs.frozen
class Hello:
    """The agent's first message; the reply decides whether the tunnel is in service.

    :param version: of rtunnel at the agent, for logs.
    :param instance: the agent's UUID; has to be the key id of its certificate.
    :param announces: names of hosts that the agent offers, for listings; at most 64.
    :param limits: what the agent can carry, by name (``channels``: open at once).
    :param replaces: the :func:`replacement_proof` of the tunnel to this proxy that this
        one takes the place of; empty for none.
    :raises MessageError: when a field breaks its limit.
    """

    version: str = attrs.field()
    instance: str = attrs.field()
    announces: tuple[str, ...] = attrs.field(default=())
    limits: Mapping[str, int] = attrs.field(factory=dict, hash=False)
    replaces: str = attrs.field(default="")

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.limits, Mapping):
            raise MessageError("limits is not an object")
        if len(self.limits) > MAX_ANNOUNCES:
            raise MessageError(f"limits has more than {MAX_ANNOUNCES} entries")
        limits = {
            checked_text("a name in limits", name): checked_integer(
                "a value in limits", value
            )
            for name, value in self.limits.items()
        }
        announces = checked_texts("announces", self.announces, MAX_ANNOUNCES)
        checked_text("replaces", self.replaces)
        object.__setattr__(self, "version", checked_text("version", self.version))
        object.__setattr__(self, "instance", checked_id("instance", self.instance))
        object.__setattr__(self, "announces", announces)
        object.__setattr__(self, "limits", MappingProxyType(limits))


def replacement_proof(session_id: bytes) -> str:
    """What shows that a tunnel's successor is of the same agent process.

    The session id (RFC 4253 section 7.2) is known to the two ends of a connection and
    to nobody else, and this does not give it away.

    :param session_id: of the SSH connection that is to be replaced.
    """
    return hashlib.sha256(b"rtunnel replaces v1" + session_id).hexdigest()


@attrs.frozen
class Heartbeat:
    """A sign of life, both ways; the reply to it gives the round trip time.

    :param sequence: counts up from 0 for each direction of each tunnel.
    :raises MessageError: when it is negative or beyond 2^53 - 1.
    """

    sequence: int = attrs.field()

    def __attrs_post_init__(self) -> None:
        checked_integer("sequence", self.sequence)


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
        addresses = checked_texts("addresses", self.addresses, MAX_ADDRESSES)
        object.__setattr__(self, "id", checked_id("id", self.id))
        object.__setattr__(self, "addresses", addresses)
        checked_integer("generation", self.generation)
        if self.state not in _STATES:
            raise MessageError("state is neither 'active' nor 'draining'")
        object.__setattr__(self, "ttl", checked_seconds("ttl", self.ttl))


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
        object.__setattr__(self, "resend", checked_seconds("resend", self.resend))


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
        checked_text("reason", self.reason)
        seconds = checked_seconds("seconds", self.seconds, zero=True)
        object.__setattr__(self, "seconds", seconds)


Message = (
    Hello
    | Heartbeat
    | DiscoveryRequest
    | Drain
    | Renew
    | Renewed
    | NotRenewed
    | RenewalDue
    | Replace
    | Trust
    | Revoked
)


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
            if message.replaces:
                fields["replaces"] = message.replaces
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
        case _:
            name, fields = trust_messages.name_and_fields(message)
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
        return read(as_object(fields))
    except MessageError as error:
        raise MessageError(f"a {name.decode()} message: {error}") from None


def _refuse_constant(constant: str) -> NoReturn:
    # Python reads and writes NaN and Infinity; JSON (RFC 8259 section 6) has neither.
    raise ValueError(constant)


def _read_hello(fields: Mapping[str, Any]) -> Hello:
    return Hello(
        version=need(fields, "version"),
        instance=need(fields, "instance"),
        announces=tuple(need_list(fields, "announces")),
        limits=as_object(need(fields, "limits")),
        replaces=fields.get("replaces", ""),
    )


def _read_heartbeat(fields: Mapping[str, Any]) -> Heartbeat:
    return Heartbeat(need(fields, "sequence"))


def _read_discovery(fields: Mapping[str, Any]) -> DiscoveryRequest:
    adverts = need_list(fields, "proxies")
    if len(adverts) > MAX_PROXIES:
        raise MessageError(f"{len(adverts)} proxies; {MAX_PROXIES} is the limit")
    return DiscoveryRequest(
        proxies=tuple(_read_advert(as_object(advert)) for advert in adverts),
        resend=need(fields, "resend"),
    )


def _read_advert(fields: Mapping[str, Any]) -> ProxyAdvert:
    return ProxyAdvert(
        id=need(fields, "id"),
        addresses=tuple(need_list(fields, "addresses")),
        generation=need(fields, "generation"),
        state=need(fields, "state"),
        ttl=need(fields, "ttl"),
    )


def _read_drain(fields: Mapping[str, Any]) -> Drain:
    return Drain(reason=need(fields, "reason"), seconds=need(fields, "seconds"))


_READERS: Final[Mapping[bytes, Callable[[Mapping[str, Any]], Message]]] = {
    b"hello": _read_hello,
    b"heartbeat": _read_heartbeat,
    b"discovery": _read_discovery,
    b"drain": _read_drain,
    **trust_messages.READERS,
}
