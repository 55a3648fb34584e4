"""Our programs in processes that begin at once, for tests that kill many of them.

A Python takes half a second to import all of it. So one process of its own does that,
and forks for each command.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.interop.processes import ROOT, environment

_PR_SET_PDEATHSIG = 1


class Forks:
    """The process that forks.

    :param log: where everything that is printed goes.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        log.touch()
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )
        assert self._ask("ready") == 0, "the forking process has not begun"

    def _ask(self, *words: object) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(words) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def start(self, *command: str | Path, changes: int | None = None) -> Fork:
        """Begin a command line of ``rtunnel`` or ``twistd``.

        :param changes: so many files it makes, opens to write, renames, links or
            removes before it is killed; None for any number.
        """
        return Fork(self._ask("start", changes, *map(str, command)), self)

    def wait(self, pid: int) -> int:
        """Wait for the end of one of them; its exit code, below 0 for a signal."""
        return self._ask("wait", pid)

    def output(self) -> str:
        """Everything that was printed so far."""
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        """End it, and with it everything that it has forked."""
        self._server.kill()
        self._server.communicate()


class Fork:
    """A command that runs.

    :ivar exit_code: see :meth:`Forks.wait`; None until it was waited for.
    """

    def __init__(self, pid: int, forks: Forks) -> None:
        self.pid = pid
        self.exit_code: int | None = None
        self._forks = forks

    @property
    def has_ended(self) -> bool:
        """Whether it has, waited for or not."""
        if self.exit_code is not None:
            return True
        status = Path(f"/proc/{self.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "Z"

    def kill(self, after: float = 0) -> None:
        """Let the machine crash under it, if it has not ended by then.

        :param after: seconds.
        """
        time.sleep(after)
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def stop(self) -> int:
        """Ask it to end, and wait for that."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end."""
        if self.exit_code is None:
            self.exit_code = self._forks.wait(self.pid)
        return self.exit_code


def _serve(log: Path) -> None:
    """Fork for each line of standard input."""
    import rtunnel.cli.agent
    import rtunnel.cli.ca
    import rtunnel.cli.join
    import rtunnel.cli.proxy
    import rtunnel.cli.revoke
    import rtunnel.cli.token
    import rtunnel.proxy.service
    import rtunnel.tap.agent
    import rtunnel.tap.proxy
    import rtunnel.web.service  # noqa: F401

    for line in sys.stdin:
        what, *words = json.loads(line)
        if what == "start":
            changes, *command = words
            answer = os.fork() or _become(command, changes, log)
        elif what == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(words[0], 0)[1])
        else:
            answer = 0
        print(answer, flush=True)


class _Changes:
    """Ends the process when it is about to change one file more.

    :param left: how many it may.
    """

    def __init__(self, left: int) -> None:
        self._left = left
        self._is_killing = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Hear of what happens (:func:`sys.addaudithook`)."""
        is_change = event in ("os.rename", "os.link", "os.remove", "os.mkdir")
        if event == "open":
            name, _, flags = arguments
            is_change = bool(flags & (os.O_WRONLY | os.O_RDWR)) and name != os.devnull
        if not is_change or self._is_killing:
            return
        if self._left:
            self._left -= 1
            return
        self._is_killing = True
        os.kill(os.getpid(), signal.SIGKILL)


def _become(command: Sequence[str], changes: int | None, log: Path) -> int:
    """Be a command, in the process that was forked for it; never return."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, descriptor)
    sys.argv = list(command)
    # Conch has imported the reactor, and what that polls with is the parent's as well.
    reactor: Any = sys.modules["twisted.internet.reactor"]
    reactor.__init__()
    if changes is not None:
        sys.addaudithook(_Changes(changes))
    code: object = 1
    try:
        if command[0] == "twistd":
            from twisted.scripts.twistd import run as run_twistd

            run_twistd()
            code = 0
        else:
            from rtunnel.cli.main import main

            main()
    except SystemExit as error:
        code = error.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
