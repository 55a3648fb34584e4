"""How long one byte takes there and back, alone and beside a bulk stream."""

from __future__ import annotations

import time

from benchmarks import load
from benchmarks.measures.interface import Measure, Scale, Values
from benchmarks.place import Place
from benchmarks.systems.interface import System


def percentile(values: list[float], percent: int) -> float:
    """The value that so many per cent of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _values(trips: list[float]) -> dict[str, float]:
    return {
        "p50 us": percentile(trips, 50) * 1e6,
        "p99 us": percentile(trips, 99) * 1e6,
    }


def idle(shape: str) -> Measure:
    """A measure of round trips when nothing else happens."""

    def run(system: System, scale: Scale, place: Place) -> Values:
        return _values(load.round_trips(system.ways[shape].port, scale.trips))

    return Measure(f"{shape} round trip idle", shape, run)


def busy(shape: str) -> Measure:
    """A measure of round trips while an upload takes all it can get."""

    def run(system: System, scale: Scale, place: Place) -> Values:
        port = system.ways[shape].port
        with load.endless_upload(port) as sent:
            before, begun = sent(), time.perf_counter()
            trips = load.round_trips(port, scale.busy_trips, warm_up=5)
            seconds = time.perf_counter() - begun
            bulk = (sent() - before) / seconds / 1e6
        return _values(trips) | {"bulk MB/s": bulk}

    return Measure(f"{shape} round trip busy", shape, run)
