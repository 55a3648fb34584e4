"""A disk that is full, under the audit file of a running proxy."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from rtunnel.audit.file import AuditPath
from rtunnel.audit.verification import verify
from tests.interop.deployment import Deployment, Layout
from tests.interop.peers import require_mount_namespaces, require_peer
from tests.interop.processes import LOOPBACK, accepts, free_port, wait_until
from tests.interop.programs import Proxy
from tests.interop.sharing import DeploymentTestCase

#: Mounts a small disk on its first argument, and becomes the others.
ON_SMALL_DISK = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'


class FullDiskTests(DeploymentTestCase):
    """1 MiB, and a file that takes all that is left of it."""

    def start(self, *, required: bool) -> tuple[Deployment, Proxy]:
        """A deployment whose proxy has its audit file on a disk of its own."""
        require_mount_namespaces()
        deployment = self.deploy(Layout(proxies=1))
        (proxy,) = deployment.proxies
        self.assertEqual(proxy.process.stop(), 0)
        mounted = proxy.state / "disk"
        mounted.mkdir()
        config = proxy.state / "proxy.toml"
        text = config.read_text().replace('"audit.jsonl"', '"disk/audit.jsonl"')
        if required:
            text = text.replace("required = false", "required = true")
        config.write_text(text)
        shell = (require_peer("unshare"), "--mount", require_peer("sh"), "-c")
        proxy.wrapper = (*shell, ON_SMALL_DISK, mounted)
        proxy.start()
        proxy.wait_ready()
        # As it is in the mount namespace of the proxy.
        self.disk = Path(f"/proc/{proxy.process.pid}/root{mounted}")
        deployment.balancer.wait_up({proxy.name})
        deployment.wait_tunnels()
        return deployment, proxy

    def fill(self) -> None:
        """Until not a byte is left."""
        with (self.disk / "filler").open("ab", buffering=0) as filler:
            for size in (65536, 1):
                try:
                    while True:
                        filler.write(bytes(size))
                except OSError:
                    continue

    def log(self) -> str:
        """What became of connections, for failures."""
        return (self.disk / "audit.jsonl").read_text()[-3000:]

    def make_room(self) -> None:
        """As the operator does."""
        (self.disk / "filler").unlink()

    def audit_status(self, proxy: Proxy) -> dict[str, Any]:
        """What ``rtunnel status --json`` says of the file."""
        found: dict[str, Any] = proxy.status()["audit"]
        return found

    def test_by_default_nobody_notices(self) -> None:
        """But ``status`` and, once there is room, the file itself."""
        deployment, proxy = self.start(required=False)
        deployment.ssh.output("web1.b", "true")
        self.fill()

        def is_noticed() -> bool:
            self.assertEqual(deployment.ssh.output("web1.b", "echo", "x"), "x\n")
            return self.audit_status(proxy)["problem"] is not None

        # The last block of the file has room for some lines.
        wait_until(is_noticed, 30, self.log, every=0)
        for _ in range(2):
            self.assertEqual(deployment.ssh.output("web1.b", "echo", "x"), "x\n")
        audit = self.audit_status(proxy)
        self.assertEqual(audit["problem"], "No space left on device")
        # A login, an opening and a closing each; the last may be still to come.
        self.assertGreaterEqual(audit["lost"], 5)
        said = proxy.process.output()
        self.assertEqual(said.count("audit events are being lost"), 1)
        self.assertNotIn("Traceback", said)

        self.make_room()
        wait_until(
            lambda: self.audit_status(proxy)["problem"] is None, 10, proxy.process.tail
        )
        deployment.ssh.output("web1.b", "true")
        report = verify([AuditPath(self.disk / "audit.jsonl")])
        self.assertIn("events could not be written: No space", " ".join(report.notes))

    def test_required_takes_nobody_and_keeps_everybody(self) -> None:
        """Logins and new connections wait for room, what is open does not."""
        deployment, proxy = self.start(required=True)
        echo, port = deployment.target("echo"), free_port()
        login = deployment.ssh.start(
            *("-N", "-o", "ExitOnForwardFailure=yes"),
            *("-L", f"{LOOPBACK}:{port}:web1.b:{echo}", "lb"),
        )
        self.addCleanup(login.wait)
        self.addCleanup(login.kill)
        wait_until(lambda: accepts(port), 15, deployment.tails)
        witness = socket.create_connection((LOOPBACK, port), timeout=15)
        self.addCleanup(witness.close)
        self._ask(witness, b"before")
        tunnels = proxy.tunnels()

        self.fill()
        # The last block of the file has room for some lines; then the first login that
        # cannot be recorded finds it out, and is refused itself.
        wait_until(lambda: self._login(deployment).returncode, 30, self.log, every=0)
        reason = "the audit file cannot be written: No space left on device"
        # At first it may be that a line could not be written to its end.
        wait_until(
            lambda: self._readyz(proxy) == (503, [reason]),
            10,
            lambda: str(self._readyz(proxy)),
        )
        self._assert_refused(deployment)
        # A new connection over the login that is there.
        with socket.create_connection((LOOPBACK, port), timeout=15) as refused:
            self.assertEqual(refused.recv(1), b"")
        log = (deployment.ssh.directory / "ssh.log").read_text()
        self.assertIn("the proxy cannot write its audit file", log)
        self._ask(witness, b"meanwhile")
        self.assertEqual(
            [each["since"] for each in proxy.tunnels()],
            [each["since"] for each in tunnels],
        )

        self.make_room()
        wait_until(
            lambda: self._readyz(proxy) == (200, []), 10, lambda: proxy.process.tail()
        )
        deployment.balancer.wait_up({proxy.name})
        self.assertEqual(deployment.ssh.output("web1.b", "echo", "x"), "x\n")
        self._ask(witness, b"after")
        self.assertNotIn("Traceback", proxy.process.output())
        verify([AuditPath(self.disk / "audit.jsonl")])

    def _ask(self, witness: socket.socket, word: bytes) -> None:
        witness.sendall(word)
        heard = b""
        while len(heard) < len(word):
            data = witness.recv(65536)
            self.assertTrue(data, self.log())
            heard += data
        self.assertEqual(heard, word)

    def _login(self, deployment: Deployment) -> subprocess.CompletedProcess[bytes]:
        # Not by way of the balancer, which sends nobody to who is not ready.
        return deployment.ssh.run("ssh", deployment.proxies[0].name, "ls")

    def _assert_refused(self, deployment: Deployment) -> None:
        done = self._login(deployment)
        self.assertEqual(done.returncode, 255)
        self.assertIn(b"this proxy cannot write its audit file", done.stderr)

    def _readyz(self, proxy: Proxy) -> tuple[int, list[str]]:
        try:
            with urllib.request.urlopen(
                f"http://{LOOPBACK}:{proxy.web_port}/readyz", timeout=5
            ) as answer:
                return answer.status, json.load(answer)["reasons"]
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["reasons"]
