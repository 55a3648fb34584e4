"""What this proxy tells agents in discovery requests. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rtunnel.discovery.messages import (
    ACTIVE,
    DRAINING,
    MAX_ADDRESSES,
    MAX_PROXIES,
    DiscoveryRequest,
    ProxyAdvert,
)
from rtunnel.registry.records import ProxyRecord

#: Seconds between two discovery requests when nothing changes.
RESEND = 10.0

#: Seconds after which an agent forgets a proxy that nobody vouches for: three times
#: missed and a little.
TTL = 35.0


def announce(records: Iterable[ProxyRecord]) -> DiscoveryRequest:
    """The discovery request that lists these proxies, this one among them.

    More than :data:`~rtunnel.discovery.messages.MAX_PROXIES` are cut, the active ones
    first, by id, so that every proxy cuts the same.
    """
    ordered = sorted(records, key=lambda record: (record.state != "active", record.id))
    adverts = tuple(
        ProxyAdvert(
            id=record.id,
            addresses=record.addresses[:MAX_ADDRESSES],
            generation=record.generation,
            state=ACTIVE if record.state == "active" else DRAINING,
            ttl=TTL,
        )
        for record in ordered[:MAX_PROXIES]
    )
    return DiscoveryRequest(proxies=adverts, resend=RESEND)
