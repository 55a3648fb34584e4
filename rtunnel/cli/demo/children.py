"""The demo's child processes: started, watched, and never left behind."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure

from rtunnel.errors import RtunnelError

#: Seconds that a child has to stop in order before it is killed.
STOP_TIMEOUT = 5.0

RTUNNEL = (sys.executable, "-m", "rtunnel.cli.main")
TWISTD = (
    sys.executable,
    "-c",
    "from twisted.scripts.twistd import run; run()",
    "--nodaemon",
    "--pidfile=",
)
AGENT = (sys.executable, "-m", "rtunnel.cli.demo.agent")


class Child(ProcessProtocol):
    """A process that runs until it is told to stop.

    Its output goes to a file; lines of it are also handed to ``line_received``.

    :param log: file that the output is appended to.
    """

    def __init__(
        self, log: Path, line_received: Callable[[str], None] = lambda line: None
    ) -> None:
        self._log = log.open("ab")
        self._line_received = line_received
        self._partial = b""
        self.ended: Deferred[None] = Deferred()
        self.running = True

    def outReceived(self, data: bytes) -> None:
        """Standard output."""
        self._log.write(data)
        self._log.flush()
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line_received(line.decode("utf-8", "replace"))

    def errReceived(self, data: bytes) -> None:
        """Standard error."""
        self._log.write(data)
        self._log.flush()

    def processEnded(self, reason: Failure) -> None:
        """It is gone."""
        self.running = False
        self._log.close()
        self.ended.callback(None)

    def signal(self, name: str) -> None:
        """Send a signal, e.g. ``TERM``; one that is gone already is no error."""
        if self.transport is not None:
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess(name)

    async def stop(self, reactor: Any) -> None:
        """Ask it to stop, and make it if it does not."""
        if self.running:
            self.signal("TERM")
            killing = reactor.callLater(STOP_TIMEOUT, self.signal, "KILL")
            await self.ended
            if killing.active():
                killing.cancel()


def spawn(reactor: Any, child: Child, command: Sequence[str]) -> None:
    """Start ``command`` as ``child``."""
    reactor.spawnProcess(child, command[0], list(command), env=_environment())


async def run(reactor: Any, command: Sequence[str]) -> tuple[str, str, int]:
    """Run a command to its end: standard output, standard error, exit code."""
    out, err, code = await getProcessOutputAndValue(
        command[0], list(command[1:]), env=_environment(), reactor=reactor
    )
    return out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), code


async def rtunnel(reactor: Any, *arguments: str) -> str:
    """Run one ``rtunnel`` command.

    :raises RtunnelError: with what it said, when it fails.
    """
    out, err, code = await run(reactor, [*RTUNNEL, *arguments])
    if code:
        raise RtunnelError(f"rtunnel {arguments[0]} failed: {err.strip()}")
    return out


def _environment() -> dict[str, str]:
    # What somebody has set for real use must not reach into the demo.
    return {k: v for k, v in os.environ.items() if not k.startswith("RTUNNEL_")}
