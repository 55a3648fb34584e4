"""Whoever does not read stops the sender, and costs nobody memory or time.

``make soak`` runs these for minutes, and keeps the figures.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.interop import greedy_peer, soak
from tests.interop.deployment import USER, Layout
from tests.interop.processes import Process, wait_until
from tests.interop.programs import Program
from tests.interop.sharing import DeploymentTestCase
from tests.interop.watching import RoundTrips, Watch, quantile

MIB = 1024 * 1024

#: What proxy and agent may each grow by, in bytes: for each channel that is stuck, and
#: for each connection.
CHANNEL_BYTES = 8 * MIB
CONNECTION_BYTES = 64 * MIB

#: Share of a processor that each may use. In a few seconds, or on a busy machine, a
#: heartbeat weighs more.
CPU_SHARE = 0.05 if soak.IS_SOAK else 0.25

#: Seconds after which memory is back, and what may stay, in bytes: Python and malloc
#: keep some of what they once had.
BACK_SECONDS = 10.0
STAYING_BYTES = 8 * MIB

#: Channels that a greedy peer has.
CHANNELS = 40


class SlowReaderTests(DeploymentTestCase):
    """Somebody reads nothing, somebody else goes there and back meanwhile."""

    def setUp(self) -> None:
        """One proxy and one agent, so that all share what there is."""
        self.own = self.deploy(Layout(proxies=1))
        self.own.wait_tunnels()
        self.proxy = self.own.proxies[0]
        self.programs: list[Program] = [*self.own.proxies, *self.own.agents]
        echo = f"web1.b:{self.own.target('echo')}"
        # Whatever they load and keep, they do now.
        sent = bytes(20 * MIB)
        done = self.own.ssh.run("ssh", "-W", echo, "lb", data=sent)
        self.assertEqual(len(done.stdout), len(sent), done.stderr)
        self.round_trips = RoundTrips(self.own.ssh, echo, "lb")
        self.addCleanup(self.round_trips.close)

    def check(
        self,
        name: str,
        begin: Callable[[], None],
        end: Callable[[], None],
        bound: int,
    ) -> None:
        """Watch while somebody is stuck.

        :param begin: makes somebody stuck.
        :param end: sends them away.
        :param bound: bytes that each program may grow by.
        """
        idle = self.round_trips.measure(soak.SECONDS / 10)
        channels = self.open_channels()
        watch = Watch(self.programs)
        begin()
        watch.wait_quiet(30)
        watch.restart_cpu()
        beside = self.round_trips.measure(soak.SECONDS, watch.sample)
        shares, growth = watch.cpu_share(), watch.growth
        end()
        ended = time.monotonic()
        wait_until(
            lambda: self.open_channels() <= channels,
            BACK_SECONDS,
            lambda: f"{self.open_channels()} channels, before {channels}",
        )
        wait_until(
            lambda: max(watch.grown().values()) < STAYING_BYTES,
            BACK_SECONDS,
            lambda: f"bytes that stay: {watch.grown()}",
        )
        back = time.monotonic() - ended
        # Before and after, as a machine is not equally busy all the time.
        idle = sorted(idle + self.round_trips.measure(soak.SECONDS / 10))
        soak.report(
            name,
            {
                "seconds": soak.SECONDS,
                **{f"{each} grew MiB": most / MIB for each, most in growth.items()},
                **{f"{each} kept MiB": b / MIB for each, b in watch.grown().items()},
                **{f"{each} CPU %": 100 * share for each, share in shares.items()},
                "back after s": back,
                "idle p50 ms": 1000 * quantile(idle, 0.5),
                "idle p99 ms": 1000 * quantile(idle, 0.99),
                "beside p50 ms": 1000 * quantile(beside, 0.5),
                "beside p99 ms": 1000 * quantile(beside, 0.99),
            },
        )
        for each in growth:
            self.assertLess(growth[each], bound, each)
            self.assertLess(shares[each], CPU_SHARE, each)

    def open_channels(self) -> int:
        """Connections through any tunnel of the proxy."""
        clusters = self.proxy.status()["clusters"]
        return sum(
            tunnel["channels"] for each in clusters for tunnel in each["tunnels"]
        )

    def start_ssh(self, behaviour: str) -> subprocess.Popen[bytes]:
        """Connect ssh to a target, with zeros without end to send."""
        target = f"web1.b:{self.own.target(behaviour)}"
        with open("/dev/zero", "rb") as endless:
            process = self.own.ssh.start("-W", target, "lb", stdin=endless)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def start_greedy(self, role: str, directory: Path, *numbers: int) -> Process:
        """Start the greedy peer at the proxy."""
        program = [sys.executable, greedy_peer.__file__, role, str(self.proxy.port)]
        words = [str(directory), *map(str, numbers)]
        process = Process(f"greedy-{role}", [*program, *words], self.own.directory)
        self.addCleanup(process.kill)
        return process

    def test_target_that_never_reads(self) -> None:
        """The client that sends without end has to wait."""
        running = []

        def begin() -> None:
            running.append(self.start_ssh("silent"))
            time.sleep(1)

        def end() -> None:
            self.assertIsNone(running[0].poll(), "the sender gave up")
            running[0].kill()

        self.check("target that never reads", begin, end, CHANNEL_BYTES)

    def test_client_that_is_stopped(self) -> None:
        """The target that sends without end has to wait, and so it may for ever."""
        running = []

        def begin() -> None:
            running.append(self.start_ssh("zeros"))
            time.sleep(1)
            running[0].send_signal(signal.SIGSTOP)

        def end() -> None:
            self.assertIsNone(running[0].poll(), "the client is gone")
            running[0].kill()

        self.check("client stopped by SIGSTOP", begin, end, CHANNEL_BYTES)

    def test_client_that_takes_4_gib_and_reads_nothing(self) -> None:
        """With many channels, all of which have a target that sends without end."""
        running = []

        def begin() -> None:
            running.append(
                self.start_greedy(
                    *("client", self.own.directory / USER),
                    *(self.own.target("zeros"), CHANNELS),
                )
            )
            self.wait_deaf(running[0])

        def end() -> None:
            self.assertTrue(running[0].is_alive, running[0].tail())
            running[0].kill()

        self.check("client with 4 GiB windows", begin, end, CONNECTION_BYTES)

    def wait_deaf(self, greedy: Process) -> None:
        """Wait until a greedy peer reads no more."""
        wait_until(
            lambda: re.search("^deaf$", greedy.output(), re.MULTILINE),
            20,
            lambda: greedy.tail(),
        )

    def test_agent_that_takes_4_gib_and_reads_nothing(self) -> None:
        """It loses its tunnel, comes back, and gets as many clients as before."""
        agent = self.own.add_agent("c", "agent-c")
        greedy = self.start_greedy("agent", agent.state, CHANNELS)
        wait_until(lambda: self.proxy.tunnels("c"), 10, greedy.tail)
        senders: list[subprocess.Popen[bytes]] = []

        def begin() -> None:
            control = self.own.directory / "control"
            options = ("-o", f"ControlPath={control}")
            senders.append(self.own.ssh.start("-M", "-N", *options, "lb"))
            wait_until(control.exists, 10, "ControlMaster")
            for _ in range(CHANNELS):
                with open("/dev/zero", "rb") as endless:
                    words = (*options, "-W", "web1.c:22", "lb")
                    senders.append(self.own.ssh.start(*words, stdin=endless))
            self.wait_deaf(greedy)

        def end() -> None:
            greedy.kill()
            for sender in senders:
                sender.kill()
                sender.wait()

        self.addCleanup(end)
        self.check("agent with 4 GiB windows", begin, end, CONNECTION_BYTES)
