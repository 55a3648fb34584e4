"""All harnesses, by name."""

from __future__ import annotations

from fuzz import (
    connections,
    hostile_server,
    http,
    keys,
    messages,
    names,
    packets,
    peers,
    transports,
    userauth,
)
from fuzz.harness import Harness

HARNESSES: dict[str, Harness] = {
    harness.name: harness
    for module in (
        packets,
        keys,
        messages,
        names,
        userauth,
        connections,
        transports,
        http,
        peers,
        hostile_server,
    )
    for harness in module.HARNESSES
}
