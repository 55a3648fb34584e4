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
    rogue_agents,
    rogue_clients,
    transports,
    trust_records,
    userauth,
)
from fuzz.harness import Harness

HARNESSES: dict[str, Harness] = {
    harness.name: harness
    for module in (
        packets,
        keys,
        messages,
        trust_records,
        names,
        userauth,
        connections,
        transports,
        http,
        rogue_clients,
        rogue_agents,
        hostile_server,
    )
    for harness in module.HARNESSES
}
