"""Many channels of a tunnel that stand still leave one that moves its speed."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from tests.interop import soak
from tests.interop.deployment import Deployment, Layout
from tests.interop.processes import LOOPBACK, accepts, free_port, wait_until
from tests.interop.sharing import DeploymentTestCase

SLOW_CHANNELS = 200

MIB = 1024 * 1024

#: Bytes in one transfer, and how many there are of each kind.
SIZE = (64 if soak.IS_SOAK else 16) * MIB
ROUNDS = 15 if soak.IS_SOAK else 5

#: What is left at least, as a share of the speed without the others. A short transfer
#: on a busy machine says little; what is starved has a tenth, or a hundredth.
LEFT = 0.9 if soak.IS_SOAK else 0.4

#: Seconds in which nothing moves, after which the channels stand still.
STILL = 1.0


class Tunnel:
    """A deployment with one tunnel, and a port here for each target.

    :param test: ends it.
    """

    def __init__(self, test: SynchronousTestCase) -> None:
        deployment = self._deployment = Deployment(Layout(proxies=1))
        test.addCleanup(deployment.close)
        deployment.wait_tunnels()
        self._test = test
        # Logins of their own, so that they have nothing but the tunnel in common.
        self._silent = self._forward("silent")
        self._reading = self._forward("half-close")
        self._sending = self._forward("zeros")

    def _forward(self, behaviour: str) -> int:
        deployment, port = self._deployment, free_port()
        target = deployment.target(behaviour)
        ssh = deployment.ssh.start("-N", "-L", f"{port}:web1.b:{target}", "lb")
        self._test.addCleanup(ssh.wait)
        self._test.addCleanup(ssh.kill)
        wait_until(lambda: accepts(port), 10, f"ssh -L to {behaviour}")
        return port

    def stop_channels(self, count: int) -> None:
        """Open channels, and send on each what goes."""
        sockets = []
        for number in range(count):
            connection = socket.socket()
            self._test.addCleanup(connection.close)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            connection.connect((LOOPBACK, self._silent))
            connection.setblocking(False)
            sockets.append(connection)
            # An agent opens so many at once, and not all.
            wait_until(partial(self.has_more_than, number), 10, "a channel")
        block = bytes(65536)
        moved = time.monotonic()
        while time.monotonic() < moved + STILL:
            for connection in sockets:
                try:
                    connection.send(block)
                    moved = time.monotonic()
                except BlockingIOError:
                    continue
            time.sleep(0.01)

    def has_more_than(self, count: int) -> bool:
        """Whether more channels are open."""
        return self.channels() > count

    def channels(self) -> int:
        """How many are open."""
        return int(self._deployment.proxies[0].tunnels()[0]["channels"])

    def upload(self) -> float:
        """Seconds until the target has everything."""
        begun = time.perf_counter()
        with socket.create_connection((LOOPBACK, self._reading), 60) as connection:
            connection.sendall(bytes(SIZE))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        return time.perf_counter() - begun

    def download(self) -> float:
        """Seconds until everything is here."""
        begun = time.perf_counter()
        room = bytearray(MIB)
        with socket.create_connection((LOOPBACK, self._sending), 60) as connection:
            left = SIZE
            while left > 0:
                left -= connection.recv_into(room)
        return time.perf_counter() - begun


class SlowChannelsTests(DeploymentTestCase):
    """A tunnel with 200 targets that never read, and one without, turn by turn."""

    def compare(self, what: str, move: Callable[[Tunnel], float]) -> None:
        """See what the 200 leave of the speed."""
        alone, beside = [], []
        for _ in range(ROUNDS):
            alone.append(move(self.free))
            beside.append(move(self.crowded))
        speeds = [SIZE / MIB / statistics.median(times) for times in (alone, beside)]
        left = speeds[1] / speeds[0]
        soak.report(
            f"201st channel, {what}",
            {"alone MiB/s": speeds[0], "beside 200 MiB/s": speeds[1], "left": left},
        )
        self.assertGreater(left, LEFT, what)

    def test_two_hundred_that_stand_still(self) -> None:
        """Nine tenths are left, up and down."""
        self.free, self.crowded = Tunnel(self), Tunnel(self)
        self.crowded.stop_channels(SLOW_CHANNELS)
        self.compare("upload", Tunnel.upload)
        self.compare("download", Tunnel.download)
        self.assertGreaterEqual(self.crowded.channels(), SLOW_CHANNELS)
