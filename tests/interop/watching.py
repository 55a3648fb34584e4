"""What processes take while something goes on, and how others fare meanwhile."""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.interop.openssh import OpenSSH
from tests.interop.processes import rss, wait_until
from tests.interop.programs import Program

#: Seconds for one round trip, beyond which it counts as lost.
LOST = 20.0


def cpu_seconds(pid: int) -> float:
    """Time that a process has run on a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


class Watch:
    """Memory and time of some programs, from now on.

    :ivar growth: by name, the most bytes that each has had more than at the beginning.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self._pids = {each.name: each.process.pid for each in programs}
        self._before = {name: rss(pid) for name, pid in self._pids.items()}
        self.growth = dict.fromkeys(self._pids, 0)
        self.restart_cpu()

    def restart_cpu(self) -> None:
        """Count processor time from now on."""
        self._since = time.monotonic()
        self._cpu = {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    def sample(self) -> None:
        """Look at the memory, now."""
        for name, grown in self.grown().items():
            self.growth[name] = max(self.growth[name], grown)

    def grown(self) -> dict[str, int]:
        """Bytes that each has more than at the beginning."""
        return {name: rss(pid) - self._before[name] for name, pid in self._pids.items()}

    def cpu_share(self) -> dict[str, float]:
        """Share of one processor that each has had."""
        elapsed = time.monotonic() - self._since
        return {
            name: (cpu_seconds(pid) - self._cpu[name]) / elapsed
            for name, pid in self._pids.items()
        }

    def wait_quiet(self, seconds: float, share: float = 0.1) -> None:
        """Wait until nobody is busy any more.

        :raises AssertionError: when somebody still is after so many seconds.
        """

        def is_quiet() -> bool:
            self.restart_cpu()
            time.sleep(0.5)
            self.sample()
            return max(self.cpu_share().values()) < share

        wait_until(is_quiet, seconds, lambda: f"busy: {self.cpu_share()}")


class RoundTrips:
    """A connection to an echo target, one byte there and back at a time."""

    def __init__(self, ssh: OpenSSH, target: str, jump: str) -> None:
        self._process = ssh.start(
            *("-W", target, jump), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.once()

    def once(self) -> float:
        """Seconds for one round trip.

        :raises AssertionError: when nothing comes back.
        """
        sending, receiving = self._process.stdin, self._process.stdout
        assert sending is not None and receiving is not None
        started = time.perf_counter()
        sending.write(b"x")
        sending.flush()
        ready, _, _ = select.select([receiving], [], [], LOST)
        assert ready and receiving.read(1) == b"x", f"no echo within {LOST:g} s"
        return time.perf_counter() - started

    def measure(
        self, seconds: float, between: Callable[[], None] = lambda: None
    ) -> list[float]:
        """Go there and back twenty times a second; the times, shortest first.

        :param between: called after each.
        """
        times = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            times.append(self.once())
            between()
            time.sleep(0.05)
        return sorted(times)

    def close(self) -> None:
        """Hang up."""
        self._process.kill()
        self._process.communicate()


def quantile(times: Sequence[float], share: float) -> float:
    """The value that ``share`` of all are below; of sorted values."""
    return times[min(len(times) - 1, int(len(times) * share))]
