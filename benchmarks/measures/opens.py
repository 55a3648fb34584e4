"""Connections to the target opened in a second."""

from __future__ import annotations

from benchmarks import load
from benchmarks.accounting import CpuMeter
from benchmarks.measures.interface import Measure, Scale, Values
from benchmarks.place import Place
from benchmarks.systems.interface import System


def opens(shape: str, at_once: int) -> Measure:
    """A measure of opens, so many at once."""

    def run(system: System, scale: Scale, place: Place) -> Values:
        way = system.ways[shape]
        meters = {name: CpuMeter(way.processes[name]) for name in ("proxy", "agent")}
        rate = load.opens_per_second(way.port, at_once, scale.seconds)
        cost = 1e3 / (rate * scale.seconds)
        cpu = {f"{name} ms": m.seconds() * cost for name, m in meters.items()}
        return {"per s": rate, **cpu}

    return Measure(f"{shape} opens {at_once}", shape, run, warm_up=True)
