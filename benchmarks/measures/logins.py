"""Logging in: full handshakes in a row, a storm of them, and ``ssh -J`` by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.accounting import KIB, CpuMeter, memory
from benchmarks.measures.interface import Measure, Scale, Values
from benchmarks.place import Place
from benchmarks.systems.interface import System
from tests.interop.processes import environment

#: Logins that are under way at once when they are counted per second.
IN_FLIGHT = 8


@contextmanager
def ssh_load(
    system: System, what: str, count: int, in_flight: int, key: Path | None = None
) -> Iterator[float]:
    """Run :mod:`benchmarks.ssh_load`; seconds it took. What it holds it holds."""
    login = system.login
    command = [
        *(sys.executable, "-m", "benchmarks.ssh_load", what, str(count)),
        *("--port", str(login.port), "--user", login.user, "--kex", login.kex),
        *("--key", str(key or login.key), "--in-flight", str(in_flight)),
    ]
    if login.certificate is not None:
        command += ["--certificate", str(login.certificate)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{what} at {system.name} has failed")
        yield json.loads(line)["seconds"]
    finally:
        process.communicate()


def _handshakes(system: System, scale: Scale, place: Place) -> Values:
    meter = CpuMeter(system.proxy)
    with ssh_load(system, "rate", scale.handshakes, IN_FLIGHT) as seconds:
        cpu = meter.seconds() / scale.handshakes
    values = {"per s": scale.handshakes / seconds}
    # sshd's children are gone by now, and what they used with them.
    return values if system.name == "OpenSSH" else values | {"proxy ms": cpu * 1e3}


def _storm(system: System, scale: Scale, place: Place) -> Values:
    before = memory(system.proxy)
    with ssh_load(system, "storm", scale.storm, scale.storm) as seconds:
        held = memory(system.proxy) - before
    return {"s": seconds, "KiB per connection": held / scale.storm / KIB}


def _jump(system: System, scale: Scale, place: Place) -> Values:
    assert system.jump_command is not None
    begun = time.perf_counter()
    subprocess.run(
        system.jump_command,
        check=True,
        stdin=subprocess.DEVNULL,
        env=environment(),
        timeout=60,
    )
    return {"ms": (time.perf_counter() - begun) * 1e3}


HANDSHAKES = Measure("handshakes", "", _handshakes)
STORM = Measure("storm", "", _storm, rounds=lambda scale: scale.storm_rounds)
JUMP_LOGIN = Measure("login", "jump", _jump)
