"""Somebody who is logged in, and how long each answer takes, as a program.

``heartbeat.py PORT PID KEY CERTIFICATE``: asks for a round trip every few milliseconds.
For each line on its standard input it prints a line of JSON about the time since the
one before: the longest round trip, in seconds, and the most CPU time that process PID
used during one. The latter is what the process could not have used for us, whatever
else runs on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from pathlib import Path

from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey
from tests.interop.processes import CpuTime
from tests.interop.socket_client import SocketClient

#: Seconds between two questions.
PAUSE = 0.003


def main() -> None:
    """Run it with the arguments of the command line."""
    port, pid, key_path, certificate_path = sys.argv[1:]
    key = PrivateKey.from_openssh(Path(key_path).read_bytes())
    certificate, _ = Certificate.from_openssh(Path(certificate_path).read_text())
    client = SocketClient(int(port), key, certificate).log_in()
    cpu = CpuTime(int(pid))
    # When the connection is lost, that there is no answer says it.
    with contextlib.suppress(AssertionError), contextlib.closing(cpu):
        beat(client, cpu)


def beat(client: SocketClient, cpu: CpuTime) -> None:
    """Ask until there is no standard input any more."""
    longest = busiest = 0.0
    os.set_blocking(sys.stdin.fileno(), False)
    while True:
        started, used = time.monotonic(), cpu.seconds()
        client.ask()
        longest = max(longest, time.monotonic() - started)
        busiest = max(busiest, cpu.seconds() - used)
        if select.select([sys.stdin], [], [], PAUSE)[0]:
            if not os.read(sys.stdin.fileno(), 4096):
                return
            print(json.dumps({"gap": longest, "stall": busiest}), flush=True)
            longest = busiest = 0.0


if __name__ == "__main__":
    main()
