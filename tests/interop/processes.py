"""Processes that a test starts: output to files, signals, memory, a certain end.

Everything here blocks. The tests of this package run no reactor of their own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import attrs

LOOPBACK = "127.0.0.1"

#: The checkout: what is started here runs this code, installed or not.
ROOT = Path(__file__).resolve().parent.parent.parent

#: Below the range that Linux gives to outgoing connections, one of which could
#: otherwise take a port between our choosing it and a server's listening on it.
_PORTS = itertools.cycle(range(12000, 32000))
for _ in range(random.SystemRandom().randrange(20000)):
    next(_PORTS)

Found = TypeVar("Found")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on, a new one each time."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def environment() -> dict[str, str]:
    """Return the environment of what we start: ours, without the user's SSH agent."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if name not in ("SSH_AUTH_SOCK", "RTUNNEL_STATE", "DISPLAY")
        and not name.lower().endswith("_proxy")
    }
    return ours | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default", "LC_ALL": "C"}


def wait_until(
    condition: Callable[[], Found],
    seconds: float,
    what: str | Callable[[], str],
    every: float = 0.05,
) -> Found:
    """Return the first true value of `condition`.

    :param seconds: how long to go on asking.
    :param what: what is waited for, for the failure.
    :param every: seconds between questions.
    :raises AssertionError: when it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() >= deadline:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds:g} s: {text}")
        time.sleep(every)


@attrs.frozen
class TcpSocket:
    """One line of ``/proc/PID/net/tcp``.

    :param state: ``ESTABLISHED``, ``LISTEN`` or the kernel's number of another.
    :param to_send: bytes that the peer has not acknowledged, most of them not sent.
    :param to_read: bytes that the process has not read.
    """

    local_port: int
    remote_port: int
    state: str
    to_send: int
    to_read: int


_TCP_STATES = {"01": "ESTABLISHED", "0A": "LISTEN"}


def tcp_sockets(pid: int) -> list[TcpSocket]:
    """Return the IPv4 TCP sockets that a process has open."""
    own = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            own.add(os.readlink(descriptor))
    rows = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return [
        TcpSocket(
            local_port=int(fields[1].rpartition(":")[2], 16),
            remote_port=int(fields[2].rpartition(":")[2], 16),
            state=_TCP_STATES.get(fields[3], fields[3]),
            to_send=int(fields[4].partition(":")[0], 16),
            to_read=int(fields[4].partition(":")[2], 16),
        )
        for fields in map(str.split, rows)
        if f"socket:[{fields[9]}]" in own
    ]


def accepts(port: int) -> bool:
    """Tell whether a TCP connection to a port of 127.0.0.1 comes up."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def rss(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def reset_peak_rss(pid: int) -> None:
    """Let :func:`peak_rss` begin anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_rss(pid: int) -> int:
    """Return the most resident memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class CpuTime:
    """The CPU time of a process's main thread, to the nanosecond."""

    def __init__(self, pid: int) -> None:
        self._file = open(f"/proc/{pid}/schedstat", "rb", buffering=0)  # noqa: SIM115

    def seconds(self) -> float:
        """So much so far."""
        return int(os.pread(self._file.fileno(), 100, 0).split()[0]) / 1e9

    def close(self) -> None:
        """Look no more."""
        self._file.close()


def run(
    command: Sequence[str | Path],
    *,
    timeout: float = 30,
    check: bool = True,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its output as text.

    :param timeout: seconds.
    :raises AssertionError: for an exit code that is not 0, unless `check` is false.
    """
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        env=environment(),
        cwd=cwd,
    )
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(done.args)}: exit code {done.returncode}\n"
            f"{done.stdout}{done.stderr}"
        )
    return done


class Process:
    """A server that a test started.

    :param name: for people; also the name of its log.
    :param command: its absolute program and arguments.
    :param directory: where its log goes, and its working directory.
    :param namespace: the network namespace to start it in, "" for our own.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        directory: Path,
        *,
        namespace: str = "",
        extra_environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        words = [str(part) for part in command]
        if namespace:
            words = ["ip", "netns", "exec", namespace, *words]
        # Should this very process be killed, nothing that it started lives on.
        if setpriv := shutil.which("setpriv"):
            words = [setpriv, "--pdeathsig", "KILL", *words]
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment() | dict(extra_environment or {}),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id; all of the wrappers above exec, so it is the server's own."""
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, not to its children."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would, children included."""
        if self._popen.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(10)

    def stop(self, timeout: float = 15) -> int:
        """Ask it to end and return its exit code.

        :param timeout: seconds until it counts as stuck.
        """
        self.signal(signal.SIGTERM)
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} is still there {timeout:g} s after SIGTERM\n{self.tail()}"
            ) from None

    def wait(self, timeout: float = 10) -> int:
        """Wait for its end and return its exit code."""
        return self._popen.wait(timeout)

    def output(self) -> str:
        """Return all that it wrote."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 15) -> str:
        """Return the end of what it wrote, for failures."""
        last = self.output().splitlines()[-lines:]
        return "\n".join([f"--- {self.name} (pid {self.pid})", *last])

    def wait_for_port(self, port: int, seconds: float = 20) -> None:
        """Wait until it listens on a port, in whatever network namespace it is."""

        def is_there() -> bool:
            if not self.is_alive:
                raise AssertionError(f"{self.name} ended early\n{self.tail()}")
            return any(
                each.local_port == port and each.state == "LISTEN"
                for each in tcp_sockets(self.pid)
            )

        wait_until(
            is_there, seconds, lambda: f"{self.name} on port {port}\n{self.tail()}"
        )
