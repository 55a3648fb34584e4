"""Values for the tests of discovery: ids, adverts, and strategies that draw them."""

from __future__ import annotations

import uuid
from typing import Protocol

from hypothesis import strategies as st

from rtunnel.discovery.message_fields import MAX_INTEGER, MAX_SECONDS, MAX_STRING
from rtunnel.discovery.messages import (
    ACTIVE,
    DRAINING,
    MAX_ADDRESSES,
    DiscoveryRequest,
    Drain,
    Heartbeat,
    Hello,
    Message,
    ProxyAdvert,
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
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.bundle import Phase, TrustBundle
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.trust.revocation import Revocation, RevocationKind
from rtunnel.trust.revoked_hosts import following
from rtunnel.wire.keys import ED25519
from tests.wire.examples import private_key

NOW = 1_800_000_000


def proxy_id(number: int) -> str:
    """A UUID that tells which number it was made of."""
    return str(uuid.UUID(int=number))


def advert(
    number: int,
    *,
    addresses: tuple[str, ...] = (),
    generation: int = 1,
    state: str = ACTIVE,
    ttl: float = 30.0,
) -> ProxyAdvert:
    """What is said about the proxy of that number."""
    return ProxyAdvert(proxy_id(number), addresses, generation, state, ttl)


def request(*adverts: ProxyAdvert) -> DiscoveryRequest:
    """A discovery request that lists these."""
    return DiscoveryRequest(adverts, 10.0)


#: Text that a message may hold.
texts = st.text(max_size=MAX_STRING).filter(str.isprintable)
#: The same, not empty.
names = texts.filter(bool)
integers = st.integers(0, MAX_INTEGER)
seconds = st.floats(min_value=0.001, max_value=MAX_SECONDS)

hellos = st.builds(
    Hello,
    version=texts,
    instance=st.uuids().map(str),
    announces=st.lists(names, max_size=3).map(tuple),
    limits=st.dictionaries(texts, integers, max_size=3),
    replaces=texts,
)
adverts = st.builds(
    ProxyAdvert,
    id=st.uuids().map(str),
    addresses=st.lists(names, max_size=MAX_ADDRESSES).map(tuple),
    generation=integers,
    state=st.sampled_from([ACTIVE, DRAINING]),
    ttl=seconds,
)
discovery_requests = st.builds(
    DiscoveryRequest,
    proxies=st.lists(adverts, max_size=4, unique_by=lambda a: a.id).map(tuple),
    resend=seconds,
)
_key, _fresh = (private_key(ED25519, name) for name in ("key", "fresh"))
_certificate = CertificateAuthority(_key, now=lambda: NOW).sign_agent(
    _key.public, cluster="b", instance=proxy_id(7), validity=60
)
_bundle = TrustBundle(
    role="host",
    generation=2,
    phase=Phase.SIGNS,
    trusted=(_key.public, _fresh.public),
    signs=_fresh.public,
    other=_key.public,
).signed([_key, _fresh])
_revoked = following(
    following(
        None,
        NOW,
        add=Revocation.make(
            RevocationKind.SERIAL, "42", reason="x", created=NOW, until=NOW + 60
        ),
    ),
    NOW,
    add=Revocation.make(
        RevocationKind.KEY, _key.public.fingerprint, reason="x", created=NOW
    ),
).signed([_key])
trust_messages: st.SearchStrategy[Message] = st.one_of(
    st.just(Renew(RenewalRequest.make(_certificate, _key, NOW))),
    st.just(Renew(RenewalRequest.make(_certificate, _key, NOW, _fresh))),
    st.just(Renewed(_certificate)),
    st.just(Renewed(_certificate, _bundle)),
    st.builds(NotRenewed, texts),
    st.builds(RenewalDue, texts, st.just(0.0) | seconds),
    st.builds(Replace, texts, st.just(0.0) | seconds),
    st.just(Trust(_bundle)),
    st.just(Revoked(_revoked)),
)
messages: st.SearchStrategy[Message] = st.one_of(
    hellos,
    st.builds(Heartbeat, integers),
    discovery_requests,
    st.builds(Drain, reason=texts, seconds=st.just(0.0) | seconds),
    trust_messages,
)


class Request(Protocol):
    """What opens a channel."""

    def encode(self) -> bytes:
        """The type-specific part of the open."""


@st.composite
def garbage(draw: st.DrawFn, requests: st.SearchStrategy[Request]) -> bytes:
    """Any bytes; or a request with one byte changed, cut off, or too long by one."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    encoded = bytearray(draw(requests).encode())
    encoded[draw(st.integers(0, len(encoded) - 1))] ^= draw(st.sampled_from([0, 0x81]))
    end = draw(st.just(len(encoded)) | st.integers(0, len(encoded)))
    return bytes(encoded[:end]) + draw(st.sampled_from([b"", b"x"]))
