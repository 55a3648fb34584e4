"""What stock ssh, scp, sftp and rsync do, whatever the layout."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.interop.processes import (
    LOOPBACK,
    accepts,
    free_port,
    wait_until,
)
from tests.interop.sharing import DeploymentTestCase

#: Open at once through one login.
CONNECTIONS = 40


class ClientPrograms(DeploymentTestCase):
    """What every layout must let every program do.

    It stands in a module that is not searched for tests: it runs by its subclasses.
    """

    def scratch(self) -> Path:
        """Make a directory that goes away with the test."""
        directory = tempfile.TemporaryDirectory(prefix="rtunnel-files-")
        self.addCleanup(directory.cleanup)
        return Path(directory.name)

    def _files(self) -> tuple[Path, Path, Path]:
        """A file to send, and names for it there and when it is back."""
        directory = self.scratch()
        sent = directory / "sent"
        sent.write_bytes(os.urandom(300_000))
        return sent, directory / "there", directory / "back"

    @contextlib.contextmanager
    def _forwarding(self, *options: str, port: int) -> Iterator[None]:
        """Keep ``ssh -N`` with a forwarding up, logged in at the balancer."""
        process = self.deployment.ssh.start(
            "-N", "-o", "ExitOnForwardFailure=yes", *options, "lb"
        )
        try:
            wait_until(lambda: accepts(port), 10, f"ssh {' '.join(options)}")
            yield
        finally:
            process.kill()
            process.wait()

    def test_ssh_jump_runs_a_command_through_every_proxy(self) -> None:
        """As many logins in a row as there are proxies, so round robin meets each."""
        for host in ["web1.b", "localhost.b", "127.0.0.1.b", "b"][
            : self.layout.proxies
        ]:
            printed = self.deployment.ssh.output(host, "cat; echo to $SSH_CONNECTION")
            self.assertIn(f"to {LOOPBACK}", printed)
        for proxy in self.deployment.proxies:
            printed = self.deployment.ssh.output(
                "-J", proxy.name, "web1.b", "cat", data=b"standard input"
            )
            self.assertEqual(printed, "standard input")

    def test_exit_code_and_standard_error_come_back(self) -> None:
        """ssh tells what the remote command told it."""
        done = self.deployment.ssh.run("ssh", "web1.b", "echo oops >&2; exit 7")
        self.assertEqual((done.returncode, done.stderr), (7, b"oops\n"))

    def test_scp_copies_both_ways(self) -> None:
        """What went there and came back is what it was."""
        sent, there, back = self._files()
        for words in ((sent, f"web1.b:{there}"), (f"web1.b:{there}", back)):
            done = self.deployment.ssh.run("scp", *words)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(back.read_bytes(), sent.read_bytes())

    def test_sftp_puts_and_gets(self) -> None:
        """A batch of commands leaves equal files on both sides."""
        sent, there, back = self._files()
        batch = f"put {sent} {there}\nget {there} {back}\nls -l {there}\n"
        done = self.deployment.ssh.run("sftp", "-b", "-", "web1.b", data=batch.encode())
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(there.read_bytes(), sent.read_bytes())
        self.assertEqual(back.read_bytes(), sent.read_bytes())

    def test_rsync_sends_a_tree_and_then_only_changes(self) -> None:
        """A second run finds the first one's files unchanged."""
        directory = self.scratch()
        source, there = directory / "source", directory / "there"
        (source / "deep").mkdir(parents=True)
        for name in ("one", "deep/two", "deep/three"):
            (source / name).write_bytes(os.urandom(50_000))
        arguments = ("-a", "--itemize-changes", f"{source}/", f"web1.b:{there}/")
        first = self.deployment.ssh.run("rsync", *arguments)
        self.assertEqual(first.returncode, 0, first.stderr)
        for path in source.rglob("*"):
            if path.is_file():
                copy = there / path.relative_to(source)
                self.assertEqual(copy.read_bytes(), path.read_bytes())
        second = self.deployment.ssh.run("rsync", *arguments)
        self.assertEqual((second.returncode, second.stdout), (0, b""))

    def test_local_forwarding_reaches_a_target(self) -> None:
        """ssh -L from a local port to a host of the cluster."""
        echo, local = self.deployment.target("echo"), free_port()
        with self._forwarding("-L", f"{local}:web1.b:{echo}", port=local):
            for word in (b"first", b"second"):
                self.assertEqual(_ask((LOOPBACK, local), word), word)

    def test_dynamic_forwarding_reaches_a_target_by_its_name(self) -> None:
        """ssh -D, and a SOCKS client that leaves the name to the other side."""
        echo, local = self.deployment.target("echo"), free_port()
        with (
            self._forwarding("-D", f"{LOOPBACK}:{local}", port=local),
            _socks_connection(local, "web1.b", echo) as connection,
        ):
            connection.sendall(b"through SOCKS")
            self.assertEqual(connection.recv(100), b"through SOCKS")

    def test_standard_input_and_output_can_be_the_connection(self) -> None:
        """ssh -W, as ssh -J itself uses it."""
        echo = self.deployment.target("echo")
        done = self.deployment.ssh.run("ssh", "-W", f"web1.b:{echo}", "lb", data=b"hi")
        self.assertEqual((done.returncode, done.stdout), (0, b"hi"), done.stderr)

    def test_subsystem_reaches_a_target(self) -> None:
        """ssh -s with proxy:host:port@cluster."""
        echo = self.deployment.target("echo")
        done = self.deployment.ssh.run(
            "ssh", "-s", "lb", f"proxy:web1:{echo}@b", data=b"hi"
        )
        self.assertEqual((done.returncode, done.stdout), (0, b"hi"), done.stderr)

    def test_one_login_carries_many_connections(self) -> None:
        """ControlMaster: forty targets at once over one connection to a proxy."""
        path = self.deployment.directory / "control"
        ssh, echo = self.deployment.ssh, self.deployment.target("echo")
        options = ("-o", f"ControlPath={path}")
        master = ssh.start("-M", "-N", *options, "lb")
        self.addCleanup(master.wait)
        self.addCleanup(master.kill)
        wait_until(path.exists, 10, "ControlMaster")
        running = [
            ssh.start(
                *(*options, "-W", f"web1.b:{echo}", "lb"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(CONNECTIONS)
        ]
        # All are open before the first one ends.
        for number, process in enumerate(running):
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"%d\n" % number)
            process.stdin.flush()
            self.assertEqual(process.stdout.readline(), b"%d\n" % number)
        for process in running:
            self.assertEqual(process.communicate(timeout=10)[0], b"")


def _ask(address: tuple[str, int], word: bytes) -> bytes:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(word)
        return connection.recv(100)


def _socks_connection(port: int, host: str, target_port: int) -> socket.socket:
    """Connect through a SOCKS 5 proxy on 127.0.0.1 (RFC 1928), by name."""
    connection = socket.create_connection((LOOPBACK, port), timeout=10)
    connection.sendall(b"\x05\x01\x00")
    assert connection.recv(2) == b"\x05\x00"
    name = host.encode()
    connection.sendall(
        b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack("!H", target_port)
    )
    reply = connection.recv(10)
    assert reply[:2] == b"\x05\x00", reply
    return connection
