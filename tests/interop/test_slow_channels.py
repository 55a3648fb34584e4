"""Many channels of a tunnel that stand still leave one that moves its speed."""

from __future__ import annotations

import socket
import time
from functools import partial
from statistics import median

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.window import MAX_WINDOW
from tests.interop import soak
from tests.interop.deployment import USER, Deployment, Layout
from tests.interop.processes import (
    LOOPBACK,
    accepts,
    free_port,
    tcp_sockets,
    wait_until,
)
from tests.interop.sharing import DeploymentTestCase
from tests.interop.socket_client import SocketClient, target

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

#: Bytes that the kernel may hold for each of them, at the proxy and at the agent: what
#: one side waits to send, or the other to be read.
IN_KERNEL = 512 * 1024

#: Bytes that the kernel takes for a client that does not read.
RECEIVE_BUFFER = 64 * 1024


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

    def stop_uploads(self, count: int) -> None:
        """Open channels to a target that never reads, and send on each what goes."""
        silent = self._forward("silent")
        sockets = []
        for number in range(count):
            connection = socket.socket()
            self._test.addCleanup(connection.close)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            connection.connect((LOOPBACK, silent))
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

    def stop_downloads(self, count: int) -> None:
        """Open channels to a target that sends without end, and read none of it.

        Each is a connection of its own: a client that somebody has suspended.
        """
        deployment = self._deployment
        (proxy,) = deployment.proxies
        zeros = deployment.target("zeros")
        person = deployment.directory / USER
        key = PrivateKey.from_openssh((person / "id").read_bytes())
        line = (person / "id-cert.pub").read_text()
        certificate, _ = Certificate.from_openssh(line)
        for number in range(count):
            client = SocketClient(
                proxy.port, key, certificate, receive_buffer=RECEIVE_BUFFER
            )
            self._test.addCleanup(client.close)
            client.log_in()
            client.request_channel(
                b"direct-tcpip", target("web1.b", zeros), window=MAX_WINDOW
            )
            wait_until(partial(self.has_more_than, number), 10, "a channel")
        held = self.in_kernel()
        moved = time.monotonic()
        while time.monotonic() < moved + STILL:
            time.sleep(0.1)
            if (now := self.in_kernel()) != held:
                held, moved = now, time.monotonic()

    def in_kernel(self) -> dict[str, int]:
        """Bytes that the kernel holds for proxy and agent, both ways."""
        programs = [*self._deployment.proxies, *self._deployment.agents]
        return {
            each.name: sum(
                one.to_send + one.to_read for one in tcp_sockets(each.process.pid)
            )
            for each in programs
        }

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
    """A tunnel with 200 channels that stand still, and one without, turn by turn."""

    def setUp(self) -> None:
        """Both, with nothing on them."""
        self.free, self.crowded = Tunnel(self), Tunnel(self)

    def compare(self, beside: str) -> None:
        """See what the 200 leave of the speed.

        :param beside: what they are.
        """
        for what, move in (("upload", Tunnel.upload), ("download", Tunnel.download)):
            times: dict[Tunnel, list[float]] = {self.free: [], self.crowded: []}
            for _ in range(ROUNDS):
                for each, own in times.items():
                    own.append(move(each))
            alone, crowded = (SIZE / MIB / median(own) for own in times.values())
            left = crowded / alone
            soak.report(
                f"201st channel beside {beside}, {what}",
                {"alone MiB/s": alone, "beside 200 MiB/s": crowded, "left": left},
            )
            self.assertGreater(left, LEFT, what)
        self.assertGreaterEqual(self.crowded.channels(), SLOW_CHANNELS)

    def test_two_hundred_targets_that_do_not_read(self) -> None:
        """Nine tenths are left, up and down."""
        self.crowded.stop_uploads(SLOW_CHANNELS)
        self.compare("uploads")

    def test_two_hundred_clients_that_do_not_read(self) -> None:
        """The same, and the kernel holds little for each: all share what it has."""
        before = self.crowded.in_kernel()
        self.crowded.stop_downloads(SLOW_CHANNELS)
        held = self.crowded.in_kernel()
        soak.report(
            "kernel's memory for 200 clients that do not read",
            {f"{name} MiB": (held[name] - before[name]) / MIB for name in held},
        )
        for name in held:
            self.assertLess(held[name] - before[name], SLOW_CHANNELS * IN_KERNEL, name)
        self.compare("downloads")
