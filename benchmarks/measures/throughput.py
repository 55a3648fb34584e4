"""Bytes per second one way, and what each process uses for a gigabyte."""

from __future__ import annotations

from benchmarks import load
from benchmarks.accounting import CpuMeter
from benchmarks.measures.interface import Measure, Scale, Values
from benchmarks.place import Place
from benchmarks.systems.interface import System

GB = 1e9


def throughput(shape: str, direction: str, streams: int) -> Measure:
    """A measure of one way.

    :param direction: ``up`` or ``down``, as the client sees it.
    """

    def run(system: System, scale: Scale, place: Place) -> Values:
        way = system.ways[shape]
        size = scale.jump_size if shape == "jump" else scale.size
        meters = {name: CpuMeter(pid) for name, pid in way.processes.items()}
        seconds = load.transfer(way.port, direction == "up", streams, size)
        cpu = {name: meter.seconds() * GB / size for name, meter in meters.items()}
        tunnel = cpu["proxy"] + cpu["agent"]
        by_process = {f"{name} s/GB": used for name, used in cpu.items()}
        return {"MB/s": size / seconds / 1e6, "CPU s/GB": tunnel, **by_process}

    return Measure(f"{shape} {direction} {streams}", shape, run, warm_up=True)
