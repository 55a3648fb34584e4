"""What an idle tunnel, and an idle connection through one, cost the proxy in memory."""

from __future__ import annotations

from benchmarks import load
from benchmarks.accounting import KIB, memory
from benchmarks.measures.interface import Measure, Scale, Values
from benchmarks.measures.logins import ssh_load
from benchmarks.place import Place
from benchmarks.systems.interface import System
from benchmarks.systems.ours import Ours


def _tunnels(system: System, scale: Scale, place: Place) -> Values:
    """Of the second such lot: the first also pays for what is there only once."""
    assert isinstance(system, Ours)
    key = system.agent_authority
    with ssh_load(system, "tunnels", 50, 10, key):
        before = memory(system.proxy)
        with ssh_load(system, "tunnels", scale.tunnels, 50, key):
            held = memory(system.proxy) - before
    return {"KiB": held / scale.tunnels / KIB}


def _channels(system: System, scale: Scale, place: Place) -> Values:
    way = system.ways["relay"]
    with load.idle_connections(way.port, 50):
        before = {name: memory(way.processes[name]) for name in ("proxy", "agent")}
        with load.idle_connections(way.port, scale.channels):
            held = {n: memory(way.processes[n]) - was for n, was in before.items()}
    # At the proxy each connection is two channels: the client's and the tunnel's.
    return {
        "proxy KiB": held["proxy"] / scale.channels / 2 / KIB,
        "agent KiB": held["agent"] / scale.channels / KIB,
    }


def _once(scale: Scale) -> int:
    # Freed memory would hide what a second round takes.
    return 1


TUNNELS = Measure("idle tunnel", "ours", _tunnels, rounds=_once)
CHANNELS = Measure("idle channel", "ours", _channels, rounds=_once)
