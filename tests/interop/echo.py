"""A transfer that goes on while something else happens."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from select import select

from tests.interop.openssh import OpenSSH
from tests.interop.processes import environment

#: Bytes that go to and fro in one round.
CHUNK = 256 * 1024


class Echo:
    """``ssh -J lb b cat``: what goes in has to come out, as long as it lasts.

    :ivar bytes: that have come back.
    :ivar longest: seconds of the round that took longest.
    """

    def __init__(self, ssh: OpenSSH, jump: str = "lb") -> None:
        self._process = subprocess.Popen(
            ssh.command("ssh", "-J", jump, "b", "cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=ssh.directory,
        )
        self.bytes = 0
        self.longest = 0.0

    def round(self, seconds: float = 60.0) -> None:
        """Send a chunk and have it back.

        :param seconds: that it may take.
        :raises AssertionError: when it does not come back, or other bytes do.
        """
        data, began = os.urandom(CHUNK), time.monotonic()
        to, back = self._process.stdin, self._process.stdout
        assert to is not None and back is not None
        sent, got = 0, b""
        while len(got) < len(data):
            left = began + seconds - time.monotonic()
            writing = [to] if sent < len(data) else []
            readable, writable, _ = select([back], writing, [], max(left, 0))
            if writable:
                try:
                    sent += os.write(to.fileno(), data[sent : sent + 32 * 1024])
                except BrokenPipeError:
                    raise AssertionError(
                        f"the transfer broke: {self._said()}"
                    ) from None
            if readable:
                part = os.read(back.fileno(), 64 * 1024)
                if not part:
                    raise AssertionError(f"the transfer broke: {self._said()}")
                got += part
            if not readable and not writable:
                raise AssertionError(f"nothing came back within {seconds:g} s")
        if got != data:
            raise AssertionError("other bytes came back")
        self.bytes += len(got)
        self.longest = max(self.longest, time.monotonic() - began)

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Go on until something holds.

        :param seconds: how long at most.
        :raises AssertionError: when it does not hold in time, or the transfer breaks.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.round()
            if condition():
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}")
            time.sleep(0.05)

    def finish(self) -> None:
        """End it in good order.

        :raises AssertionError: when ssh says that something went wrong.
        """
        out, said = self._process.communicate(timeout=30)
        if out or self._process.returncode:
            raise AssertionError(
                f"exit code {self._process.returncode}: {said.decode(errors='replace')}"
            )

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()

    def _said(self) -> str:
        _, said = self._process.communicate(timeout=10)
        return said.decode(errors="replace")
