"""What processes have used: CPU seconds and memory, read from ``/proc``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

KIB = 1024


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    found = [pid]
    for each in found:
        for task in _entries(Path(f"/proc/{each}/task")):
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """User and system seconds so far of each process, its threads included.

    From the scheduler's nanoseconds: a tick of 10 ms is longer than much of what is
    measured.
    """
    used = {}
    for pid in pids:
        total = 0
        for task in _entries(Path(f"/proc/{pid}/task")):
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
        used[pid] = total / 1e9
    return used


class CpuMeter:
    """CPU seconds of one process tree since the meter was made.

    What a process used that was there at only one of the two looks is counted whole
    when it is there now, and lost when it is gone.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = cpu_seconds(tree(pid))

    def seconds(self) -> float:
        """Seconds used so far."""
        now = cpu_seconds(tree(self._pid))
        return sum(used - self._before.get(pid, 0.0) for pid, used in now.items())


def memory(pid: int) -> int:
    """Bytes that a process tree holds, shared pages divided among those who share."""
    return sum(_pss(each) for each in tree(pid))


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * KIB
    return 0


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
