"""All harnesses, by name."""

from __future__ import annotations

from fuzz import (
    connections,
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
    )
    for harness in module.HARNESSES
}
