"""What ssh-audit finds at a proxy, and at an agent as a client of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.peers import require_module, require_peer
from tests.interop.processes import (
    LOOPBACK,
    Process,
    environment,
    free_port,
    run,
    wait_until,
)
from tests.interop.programs import Agent, Proxy, rtunnel_here, settings
from tests.interop.sshd import make_key
from tests.interop.test_algorithms import known_hosts_lines

HERE = Path(__file__).parent

#: The only fault there may be, and where: what a client has that has nothing better.
TOLERATED = {
    ("kex", name, "warn", "does not provide protection against post-quantum attacks")
    for name in ("curve25519-sha256", "curve25519-sha256@libssh.org")
}

#: Exit codes of ssh-audit: nothing found, warnings, failures.
FINISHED = (0, 2, 3)


def faults(report: dict[str, Any]) -> set[tuple[str, str, str, str]]:
    """Everything that is worse than information: list, algorithm, level, text."""
    return {
        (kind, entry["algorithm"], level, text)
        for kind in ("kex", "key", "enc", "mac")
        for entry in report[kind]
        for level, texts in entry["notes"].items()
        for text in texts
        if level != "info"
    }


class SshAuditTests(SynchronousTestCase):
    """A proxy and an agent as our commands make them."""

    def setUp(self) -> None:
        """State directories for both."""
        require_module("ssh_audit")
        directory = tempfile.TemporaryDirectory(prefix="rtunnel-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.proxy = Proxy("proxy-1", self.directory, LOOPBACK)
        self.public = f"{LOOPBACK}:{self.proxy.port}"
        state = ("--state", self.proxy.state, "--cluster", "a")
        words = settings(self.proxy.settings(advertise=False))
        self.init: list[str | Path] = ["init", *state, "--public", self.public, *words]
        rtunnel_here(*self.init)

    def command(self, *words: str | Path) -> list[str]:
        """A command line of ssh-audit that prints JSON."""
        return [sys.executable, "-m", "ssh_audit", "-j", *map(str, words)]

    def audit_proxy(self, *words: str | Path) -> dict[str, Any]:
        """What it says of the proxy."""
        done = subprocess.run(
            self.command(*words, "-p", str(self.proxy.port), LOOPBACK),
            capture_output=True,
            timeout=30,
            env=environment(),
            cwd=self.directory,
        )
        self.assertIn(done.returncode, FINISHED, done)
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def audit_agent(self, *words: str | Path) -> dict[str, Any]:
        """What it says of the agent, which dials it."""
        port = free_port()
        state = self.directory / f"agent-{port}"
        proxies = settings([f'proxies=["{LOOPBACK}:{port}"]'])
        rtunnel_here(
            *("agent", "sign", "b", "--state", self.proxy.state, "--out", state),
            *proxies,
        )
        audit = Process(
            f"ssh-audit-{port}",
            self.command("-c", "-t", "20", *words, "-p", str(port)),
            self.directory,
        )
        self.addCleanup(audit.kill)
        audit.wait_for_port(port)
        agent = Agent(state.name, self.directory)
        agent.start()
        self.addCleanup(agent.process.kill)
        wait_until(lambda: not audit.is_alive, 20, agent.process.tail)
        self.assertIn(audit.wait(), FINISHED, audit.output())
        report: dict[str, Any] = json.loads(audit.output())
        return report

    def check(self, report: dict[str, Any]) -> None:
        """Nothing is wrong but what is tolerated."""
        self.assertEqual(faults(report), TOLERATED)
        self.assertEqual((report["cves"], report["additional_notes"]), ([], []))

    def test_proxy(self) -> None:
        """No fault, throttled as it should be, and nobody is locked out by that.

        ssh-audit opens connections as fast as they are answered, for a second and a
        half, and notes a rate of more than 20 a second.
        """
        self.proxy.start()
        self.addCleanup(self.proxy.process.kill)
        self.proxy.wait_ready()
        report = self.audit_proxy()
        self.check(report)
        keys = {entry["algorithm"] for entry in report["key"]}
        self.assertIn("ssh-ed25519", keys)
        offered = {entry["algorithm"] for entry in report["kex"]}
        # Without these there is no rate test, and it shows nothing.
        self.assertIn("curve25519-sha256", offered)
        policy = self.audit_proxy("-P", HERE / "ssh-audit-proxy.txt")
        self.assertEqual((policy["errors"], policy["passed"]), ([], True))
        self.check_login()

    def test_proxy_with_rsa_keys(self) -> None:
        """The same, with no word about the keys either."""
        types = ("--host-key-type", "rsa", "--ca-key-type", "rsa")
        rtunnel_here(*self.init, *types, "--force")
        self.proxy.start()
        self.addCleanup(self.proxy.process.kill)
        self.proxy.wait_ready()
        report = self.audit_proxy()
        self.check(report)
        keys = {entry["algorithm"] for entry in report["key"]}
        self.assertIn("rsa-sha2-512-cert-v01@openssh.com", keys)
        policy = self.audit_proxy("-P", HERE / "ssh-audit-proxy-rsa.txt")
        self.assertEqual((policy["errors"], policy["passed"]), ([], True))

    def check_login(self) -> None:
        """A person gets in, from the very address that has just been slowed down."""
        key = self.directory / "id"
        kind, blob, *_ = make_key(key).split()
        (self.proxy.state / "authorized_keys").write_text(f"{kind} {blob} ops\n")
        known_hosts = self.directory / "known_hosts"
        known_hosts.write_text(known_hosts_lines(self.proxy.state))
        command = [require_peer("ssh"), "-F", "none", "-i", str(key)]
        for option in (
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "GlobalKnownHostsFile=/dev/null",
            f"UserKnownHostsFile={known_hosts}",
        ):
            command += ["-o", option]
        run([*command, "-p", str(self.proxy.port), LOOPBACK, "ls"], timeout=5)

    def test_agent_as_a_client(self) -> None:
        """No fault."""
        self.check(self.audit_agent())
        policy = self.audit_agent("-P", HERE / "ssh-audit-agent.txt")
        self.assertEqual((policy["errors"], policy["passed"]), ([], True))
