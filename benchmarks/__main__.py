"""Run the benchmarks: ``python -m benchmarks``; ``--help`` says how to choose.

Every system is started first; then each measure takes its turns, A B C, C B A, so that
what else the machine does meanwhile falls on all of them. What counts is the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from benchmarks import report
from benchmarks.measures.idle_memory import CHANNELS, TUNNELS
from benchmarks.measures.interface import QUICK, Measure, Scale
from benchmarks.measures.logins import HANDSHAKES, JUMP_LOGIN, STORM
from benchmarks.measures.opens import opens
from benchmarks.measures.round_trips import busy, idle
from benchmarks.measures.throughput import throughput
from benchmarks.place import Place
from benchmarks.plots import draw
from benchmarks.systems.asyncssh import AsyncSSH
from benchmarks.systems.bare import Bare
from benchmarks.systems.interface import System
from benchmarks.systems.openssh import OpenSSH
from benchmarks.systems.ours import Ours, of_checkout

Series = dict[str, dict[str, dict[str, list[float]]]]

_CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")

#: Rounds that may fail before a system is left out of a measure.
MAX_FAILURES = 2


def all_measures() -> Iterator[Measure]:
    """In the order in which they are taken.

    Memory comes first, the smaller growth before the larger: what a process has
    freed hides what it takes next.
    """
    yield CHANNELS
    yield TUNNELS
    for streams in (1, 10):
        for direction in ("up", "down"):
            yield throughput("tunnel", direction, streams)
    for shape in ("relay", "jump"):
        for direction in ("up", "down"):
            yield throughput(shape, direction, 1)
    for shape in ("tunnel", "relay", "jump"):
        yield idle(shape)
    yield busy("tunnel")
    for at_once in (1, 10):
        yield opens("tunnel", at_once)
    yield HANDSHAKES
    yield STORM
    yield JUMP_LOGIN


def takes_part(system: System | Bare, measure: Measure) -> bool:
    """Whether a system has what a measure needs."""
    if isinstance(system, Bare):
        return measure.name in system.measures
    if measure.shape == "ours":
        return isinstance(system, Ours)
    return not measure.shape or measure.shape in system.ways


def take_turns(
    measure: Measure,
    systems: list[System | Bare],
    scale: Scale,
    place: Place,
    series: Series,
) -> None:
    """All rounds of one measure."""
    taking_part = [each for each in systems if takes_part(each, measure)]
    failures = dict.fromkeys((each.name for each in taking_part), 0)
    first = -1 if measure.warm_up else 0
    for number in range(first, measure.rounds(scale)):
        for system in taking_part if number % 2 == 0 else reversed(taking_part):
            if failures[system.name] >= MAX_FAILURES:
                continue
            try:
                values = measure.run(system, scale, place)
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                failures[system.name] += 1
                print(f"{measure.name}, {system.name}: {error}", file=sys.stderr)
                continue
            if number >= 0:
                quantities = series.setdefault(measure.name, {})
                own = quantities.setdefault(system.name, {})
                for quantity, value in values.items():
                    own.setdefault(quantity, []).append(value)


def about_machine() -> dict[str, object]:
    """What the figures were taken on, with no names."""
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr.strip()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        # BBR paces by timers, which cost more than all else on some virtual machines.
        "congestion_control": _CONGESTION_CONTROL.read_text().strip(),
        "openssh": ssh,
    }


def main() -> None:
    """Measure, print, write, draw."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--plots", type=Path, help="draw SVG files in this directory")
    parser.add_argument(
        "--only",
        default="",
        help="measures whose names contain one of these words, a comma between",
    )
    parser.add_argument("--without", default="", help="systems to leave out")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="another checkout, to compare with"
    )
    parser.add_argument("--rounds", type=int, help="of every measure")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    scale = QUICK if options.quick else Scale()
    if options.rounds is not None:
        scale = attrs.evolve(scale, rounds=options.rounds)
    kinds: list[type[System | Bare]] = [OpenSSH, AsyncSSH, Bare, Ours]
    if options.against is not None:
        kinds.append(of_checkout(options.against))
    series: Series = {}
    place = Place()
    try:
        systems: list[System | Bare] = [
            kind(place) for kind in kinds if kind.name not in options.without.split(",")
        ]
        for measure in all_measures():
            if any(word in measure.name for word in options.only.split(",")):
                begun = time.perf_counter()
                take_turns(measure, systems, scale, place, series)
                seconds = time.perf_counter() - begun
                print(f"  {measure.name}: {seconds:.0f} s", file=sys.stderr)
    finally:
        place.close()
    print(report.table(series))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": about_machine(), "quick": options.quick}
        options.json.write_text(json.dumps(document | {"results": series}, indent=1))
    if options.plots is not None:
        draw(series, options.plots)


if __name__ == "__main__":
    main()
