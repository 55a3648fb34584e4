"""Values for the tests of discovery: ids, adverts, and strategies that draw them."""

from __future__ import annotations

import uuid

from hypothesis import strategies as st

from rtunnel.discovery.messages import (
    ACTIVE,
    DRAINING,
    MAX_ADDRESSES,
    MAX_INTEGER,
    MAX_SECONDS,
    MAX_STRING,
    DiscoveryRequest,
    Drain,
    Heartbeat,
    Hello,
    Message,
    ProxyAdvert,
)


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
messages: st.SearchStrategy[Message] = st.one_of(
    hellos,
    st.builds(Heartbeat, integers),
    discovery_requests,
    st.builds(Drain, reason=texts, seconds=st.just(0.0) | seconds),
)
