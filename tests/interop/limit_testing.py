"""What a peer that passes a limit costs a proxy, measured from outside.

Four figures, whatever the limit: the time until it is dealt with, the longest that
everybody else waited, the memory, and what stands in the log. Time that others wait is
measured as CPU time that the proxy used during one round trip of somebody else: the
machine that the tests share may be busy, and that is not the proxy's fault.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.numbers import MSG_KEXINIT
from tests.interop import heartbeat
from tests.interop.deployment import USER, Deployment, Layout
from tests.interop.processes import (
    ROOT,
    CpuTime,
    environment,
    peak_rss,
    reset_peak_rss,
    rss,
)
from tests.interop.sharing import DeploymentTestCase
from tests.interop.socket_client import SocketClient

#: Connections that pass the limit at the same time.
AT_ONCE = 8

#: Seconds from the violation to the end of the connection, or to the refusal.
CLOSED_WITHIN = 1.0
#: Seconds of the proxy's CPU time that nobody else's round trip may include.
STALL = 0.05
#: Seconds that somebody else's round trip may take on a machine that others use too.
GAP = 1.0
#: Bytes of the proxy's memory for each connection.
MEMORY = 1024 * 1024

#: What a proxy frees is gone at once, down to 16 KiB a piece. Left to itself the C
#: library keeps it, and what one test costs is hidden in what another has freed.
EXACT_MEMORY = (("MALLOC_MMAP_THRESHOLD_", str(16 * 1024)),)

#: So often is measured again before a figure counts as the proxy's fault.
ATTEMPTS = 3

Act = Callable[[SocketClient], object]


@attrs.frozen
class Cost:
    """What one attempt at a limit took.

    :param closed: seconds until the last connection was dealt with.
    :param stall: seconds of CPU time in somebody else's worst round trip.
    :param gap: seconds of that trip.
    :param cpu: seconds of CPU time for each connection.
    :param memory: bytes for each connection.
    """

    closed: float
    stall: float
    gap: float
    cpu: float
    memory: float

    def excess(self) -> list[str]:
        """The figures that are over their bounds."""
        return [
            f"{name}: {value:.3f}, and {bound:g} is the bound"
            for name, value, bound in (
                ("seconds until it was dealt with", self.closed, CLOSED_WITHIN),
                ("seconds of CPU time while others waited", self.stall, STALL),
                ("seconds that others waited", self.gap, GAP),
                ("bytes of memory for each connection", self.memory, MEMORY),
            )
            if value > bound
        ]


class _Heartbeat:
    """:mod:`tests.interop.heartbeat`, running."""

    def __init__(self, port: int, pid: int, person: Path) -> None:
        words = (heartbeat.__file__, port, pid, person / "id", person / "id-cert.pub")
        self._process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
        )
        self.report()

    def report(self) -> dict[str, float]:
        """What it saw since the last time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the heartbeat has died: somebody else's connection was lost"
        figures: dict[str, float] = json.loads(line)
        return figures

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class WaitingPeer:
    """A peer that has said what it will ever say, and notes when it is sent away.

    :param started: the ``time.monotonic()`` from when its time counts, or before.
    """

    def __init__(self, client: SocketClient, started: float) -> None:
        self._client = client
        self._started = started
        self._after = 0.0
        self._reason = ""
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        self._reason = self._client.wait_closed(60)
        self._after = time.monotonic() - self._started

    def result(self) -> tuple[float, str]:
        """Wait for its end; after how many seconds that came, and why."""
        self._thread.join()
        return self._after, self._reason


_heartbeats: dict[Deployment, _Heartbeat] = {}
_waiting_peers: dict[str, list[WaitingPeer]] = {}
_sources = (
    f"127.{block}.{n // 250}.{n % 250 + 1}"
    for block in itertools.count(30)
    for n in range(50_000)
)


_targets: dict[tuple[Deployment, str], int] = {}


def _end_heartbeats() -> None:
    while _heartbeats:
        _heartbeats.popitem()[1].close()


atexit.register(_end_heartbeats)


def new_source() -> str:
    """An address of this machine that nothing has come from yet."""
    return next(_sources)


class LimitTestCase(DeploymentTestCase):
    """Passes limits of a real proxy, over real sockets, and looks what that costs."""

    layout: ClassVar[Layout] = Layout(proxies=1, proxy_environment=EXACT_MEMORY)

    def setUp(self) -> None:
        """Somebody who is logged in all the while, and the log so far."""
        self._clients: list[SocketClient] = []
        deployment = self.deployment
        (self.proxy,) = deployment.proxies
        person = deployment.directory / USER
        self.key = PrivateKey.from_openssh((person / "id").read_bytes())
        line = (person / "id-cert.pub").read_text()
        self.certificate, _ = Certificate.from_openssh(line)
        if deployment not in _heartbeats:
            _end_heartbeats()
            self._make_buffers()
            pid = self.proxy.process.pid
            _heartbeats[deployment] = _Heartbeat(self.proxy.port, pid, person)
            self._start_waiting_peers()
        self.heartbeat = _heartbeats[deployment]
        self._logged = len(self.proxy.process.output())
        self.addCleanup(self._assert_quiet_log)
        self.addCleanup(self._close_clients)

    def _make_buffers(self) -> None:
        """Move some data: the buffers that all connections share are made by the first.

        They are 3 MiB, and no cost of a limit that is passed later.
        """
        client = self.log_in()
        client.open_target("web1.b", self.target("zeros"), window=2**32 - 1)
        client.take_data(4 * 2**20)
        client.close()

    def _start_waiting_peers(self) -> None:
        """Those limits that are times are passed while the other tests go on."""
        log_in = [self.arrive, self.begin, self.exchange, self.ask_to_log_in]
        waiting = []
        for stage in log_in * 2:
            started = time.monotonic()
            waiting.append(WaitingPeer(stage(), started))
        _waiting_peers["login"] = waiting
        stalled = []
        for _ in range(2):
            client = self.log_in()
            started = time.monotonic()
            client.send(MSG_KEXINIT, client.kexinit().payload[1:])
            stalled.append(WaitingPeer(client, started))
        _waiting_peers["exchange"] = stalled
        self._clients.clear()

    def waiting_peers(self, limit: str) -> list[WaitingPeer]:
        """Those that were started with the deployment.

        :param limit: what they wait for: ``login`` or ``exchange``.
        """
        return _waiting_peers[limit]

    def target(self, behaviour: str) -> int:
        """The port of a target that all tests share."""
        key = self.deployment, behaviour
        if key not in _targets:
            _targets[key] = self.deployment.target(behaviour)
        return _targets[key]

    def log(self) -> str:
        """What the proxy has logged since the test began."""
        return self.proxy.process.output()[self._logged :]

    def _assert_quiet_log(self) -> None:
        self.assertTrue(self.proxy.process.is_alive)
        said = self.log()
        for word in ("Traceback", "Unhandled", "met an error of ours", "\x1b"):
            self.assertNotIn(word, said)

    # Clients, and how far they have come.

    def arrive(self, **options: Any) -> SocketClient:
        """One more connection on which nothing has been said."""
        options.setdefault("source", new_source())
        key = options.pop("key", self.key)
        certificate = options.pop("certificate", self.certificate)
        client = SocketClient(self.proxy.port, key, certificate, **options)
        self._clients.append(client)
        return client

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()

    def begin(self, **options: Any) -> SocketClient:
        """One that has said its version."""
        client = self.arrive(**options)
        client.send_version()
        return client

    def offer(self, **options: Any) -> SocketClient:
        """One that has sent its KEXINIT."""
        client = self.begin(**options)
        client.send(MSG_KEXINIT, client.kexinit().payload[1:])
        return client

    def exchange(self, **options: Any) -> SocketClient:
        """One that has exchanged keys."""
        return self.arrive(**options).connect()

    def ask_to_log_in(self, **options: Any) -> SocketClient:
        """One that may log in."""
        return self.arrive(**options).start_userauth()

    def log_in(self, **options: Any) -> SocketClient:
        """One that has logged in."""
        return self.arrive(**options).log_in()

    # The measure.

    def pass_limit(
        self,
        act: Act,
        outcome: Act,
        at: Callable[[], SocketClient] | None = None,
        count: int = AT_ONCE,
    ) -> None:
        """Pass the limit on several connections at once, and see what that costs.

        :param act: passes it.
        :param outcome: waits until it has been dealt with; raises AssertionError when
            it was not.
        :param at: makes a connection that has come far enough; logged in by default.
        :param count: connections.
        """
        self.pass_each([(act, outcome)] * count, at)

    def pass_each(
        self,
        cases: Sequence[tuple[Act, Act]],
        at: Callable[[], SocketClient] | None = None,
    ) -> None:
        """The same, in another way on each connection.

        :param cases: what passes the limit, and the outcome.
        """
        for attempt in range(1, ATTEMPTS + 1):
            cost = self._measure(cases, at or self.log_in)
            excess = cost.excess()
            if not excess or attempt == ATTEMPTS:
                break
        self._note(cost)
        self.assertEqual(excess, [], cost)

    def _measure(
        self, cases: Sequence[tuple[Act, Act]], at: Callable[[], SocketClient]
    ) -> Cost:
        clients = [at() for _ in cases]
        pid = self.proxy.process.pid
        cpu = CpuTime(pid)
        try:
            self.heartbeat.report()
            reset_peak_rss(pid)
            memory, used = rss(pid), cpu.seconds()
            sent = []
            for client, (act, _) in zip(clients, cases, strict=True):
                act(client)
                sent.append(time.monotonic())
            closed = 0.0
            for client, (_, outcome), then in zip(clients, cases, sent, strict=True):
                outcome(client)
                closed = max(closed, time.monotonic() - then)
            seen = self.heartbeat.report()
            return Cost(
                closed=closed,
                stall=seen["stall"],
                gap=seen["gap"],
                cpu=(cpu.seconds() - used) / len(cases),
                memory=(peak_rss(pid) - memory) / len(cases),
            )
        finally:
            cpu.close()
            for client in clients:
                client.close()

    def _note(self, cost: Cost) -> None:
        """Keep the figures, in the file that ``RTUNNEL_FIGURES`` names."""
        if path := os.environ.get("RTUNNEL_FIGURES"):
            line = {"test": self.id().rpartition(".")[2], **attrs.asdict(cost)}
            with open(path, "a") as figures:
                figures.write(json.dumps(line) + "\n")


def closes(reason: str) -> Act:
    """An outcome: the connection ends, for this reason."""

    def outcome(client: SocketClient) -> None:
        said = client.wait_closed()
        if reason not in said:
            raise AssertionError(f"{reason!r} is not in the reason given: {said!r}")

    return outcome


def goes_on(client: SocketClient) -> None:
    """An outcome: the connection works as before."""
    client.still_works()


def then(*steps: Act) -> Act:
    """One after the other."""

    def all_of_them(client: SocketClient) -> None:
        for step in steps:
            step(client)

    return all_of_them
