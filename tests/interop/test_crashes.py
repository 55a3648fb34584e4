"""Machines that crash at any moment: SIGKILL, and lines of audit torn anywhere.

After each crash the same command, or the next start, has to work. ``RTUNNEL_KILLS`` is
how many there are for each test, ``RTUNNEL_SEED`` when they come.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.file import AuditPath
from rtunnel.audit.verification import AuditReport, verify
from rtunnel.authority_files import available_keys, load_authority
from rtunnel.config import load_agent, load_proxy
from rtunnel.filling import finish_filling
from rtunnel.state_directory import (
    AGENT_CA,
    HOST_CA,
    USER_CA,
    load_agent_credentials,
    load_proxy_credentials,
    load_trust_anchors,
    public_path,
)
from rtunnel.trust.bundle import ROLES
from rtunnel.trust_files import load_bundle, load_revoked_hosts
from tests.interop.forked import Fork, Forks
from tests.interop.processes import LOOPBACK, free_port, wait_until

KILLS = int(os.environ.get("RTUNNEL_KILLS", "6"))
SEED = int(os.environ.get("RTUNNEL_SEED", "1"))

#: More than any of these programs does to files until it is killed, or has ended.
CHANGES = 60


class CrashTests(SynchronousTestCase):
    """One proxy with all the authorities, and whoever joins it."""

    def setUp(self) -> None:
        self.chance = random.Random(SEED)
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.forks = Forks(self.directory / "log")
        self.addCleanup(self.forks.close)
        self.state = self.directory / "proxy"
        self.port = free_port()
        listen = f'["tcp:{self.port}:interface={LOOPBACK}"]'
        self.run_command(
            *("init", "--cluster", "a", "--public", f"{LOOPBACK}:{self.port}"),
            *("--set", f"ssh.listen={listen}", "--set", "web.listen=[]"),
        )

    def command(
        self,
        *words: str | Path,
        state: Path | None = None,
        changes: int | None = None,
    ) -> Fork:
        """A command line of ``rtunnel`` that has begun."""
        here = ("--state", state or self.state)
        return self.forks.start("rtunnel", *words, *here, changes=changes)

    def run_command(self, *words: str | Path, state: Path | None = None) -> str:
        """One that succeeds, and what it prints."""
        said = len(self.forks.output())
        code = self.command(*words, state=state).wait()
        output = self.forks.output()[said:]
        self.assertEqual(code, 0, f"{words}: {output}")
        return output

    def begin(self, plugin: str, state: Path, changes: int | None = None) -> Fork:
        """One of our programs under ``twistd``."""
        config = state / f"{plugin.removeprefix('rtunnel-')}.toml"
        words = ("-n", "--pidfile=", plugin, "--config", config)
        return self.forks.start("twistd", *words, changes=changes)

    def wait_for(self, said: str, process: Fork, since: int) -> bool:
        """Wait until a program says something; False when it has ended before."""

        def is_over() -> str | None:
            if said in self.forks.output()[since:]:
                return "said"
            return "ended" if process.has_ended else None

        found = wait_until(
            is_over,
            20,
            lambda: f"{said!r} in\n{self.forks.output()[since:]}",
            every=0.01,
        )
        return found == "said"

    def start_proxy(self) -> Fork:
        """The proxy, ready."""
        since = len(self.forks.output())
        proxy = self.begin("rtunnel-proxy", self.state)
        is_ready = self.wait_for("is ready on", proxy, since)
        self.assertTrue(is_ready, self.forks.output()[since:])
        return proxy

    def measured(self, action: Callable[[], object]) -> float:
        """Seconds that something takes when nothing goes wrong."""
        began = time.monotonic()
        action()
        return time.monotonic() - began

    # What has to hold after every crash.

    def assert_proxy_is_whole(self) -> None:
        """Each file of the proxy can be read, and belongs to the others."""
        load_proxy(self.state / "proxy.toml")
        load_proxy_credentials(self.state, "a", time.time())
        for role, name in zip(ROLES, (HOST_CA, AGENT_CA, USER_CA), strict=True):
            load_authority(self.state, name)
            available_keys(self.state / name)
            load_bundle(self.state, role)
        trusted = load_trust_anchors(public_path(self.state / HOST_CA))
        load_revoked_hosts(self.state, trusted)

    def assert_agent_is_whole(self, state: Path) -> None:
        """The same of an agent, which could start."""
        load_agent(state / "agent.toml")
        load_agent_credentials(state, "b", time.time())

    def verified(self) -> AuditReport:
        """What ``rtunnel audit verify`` finds; nothing but lines that were torn."""
        report = verify([AuditPath(self.state / "audit.jsonl")])
        for note in report.notes:
            self.assertIn("is incomplete: its writer was stopped", note)
        return report

    def is_tidy(self) -> bool:
        """Whether no file is half written; the proxy may be writing one."""
        return not any(name.startswith(".") for name in os.listdir(self.state))

    def tear(self) -> None:
        """Leave the last line of the audit file half written, as a crash of the whole
        machine can."""
        path = self.state / "audit.jsonl"
        data = path.read_bytes()
        last = data[:-1].rindex(b"\n") + 1
        path.write_bytes(data[: self.chance.randint(last, len(data))])

    # What is killed.

    def test_a_proxy_that_carries_out_commands(self) -> None:
        """It starts again, its audit file goes on where it was, and every phase of a
        rotation can still be left."""
        proxy = self.start_proxy()
        took = self.measured(lambda: self.run_command("token", "add", "b"))
        proxy.kill()
        audit = self.state / "audit.jsonl"
        for number in range(KILLS):
            since = len(self.forks.output())
            # By the clock, or by what it does.
            changes = self.chance.randrange(CHANGES) if number % 2 else None
            proxy = self.begin("rtunnel-proxy", self.state, changes)
            if self.wait_for("is ready on", proxy, since):
                command = self.command(*self.any_command(number))
                if changes is None:
                    proxy.kill(took * (1 + self.chance.random()) / 2)
                command.wait()
            proxy.kill()
            if self.chance.random() < 0.5:
                self.tear()
            before = audit.read_bytes()
            self.verified()
            proxy = self.start_proxy()
            self.assertTrue(audit.read_bytes().startswith(before))
            self.verified()
            self.assert_proxy_is_whole()
            wait_until(self.is_tidy, 10, "files that nobody finishes")
            proxy.kill()
        proxy = self.start_proxy()
        for role in ("agent", "user"):
            for _ in range(4):
                self.run_command("ca", "rotate", role, "--force")
        self.assert_proxy_is_whole()
        self.assertEqual(proxy.stop(), 0)

    def any_command(self, number: int) -> tuple[str, ...]:
        """One that changes files or the registry."""
        return self.chance.choice(
            [
                # Refused while the proxy's own certificate has not followed.
                ("ca", "rotate", "host"),
                ("ca", "rotate", "host", "--back"),
                ("ca", "rotate", "agent", "--force"),
                ("ca", "rotate", "user", "--force"),
                ("revoke", "--serial", str(number + 1)),
                ("token", "add", "b"),
            ]
        )

    def test_commands_without_a_proxy(self) -> None:
        """What they replace is the old one or the new one, and whoever does it again
        has it done once."""
        agent, proxy_2 = self.directory / "agent", self.directory / "proxy-2"
        self.run_command("agent", "sign", "b", "--out", agent)
        self.run_command("proxy", "sign", "proxy-2", "--out", proxy_2)
        for number in range(KILLS):
            words = self.chance.choice(
                [
                    ("proxy", "renew"),
                    ("agent", "renew", "--certificate", agent / "agent_key-cert.pub"),
                    ("agent", "sign", "b", "--force", "--out", agent),
                    ("proxy", "sign", "proxy-2", "--force", "--out", proxy_2),
                    ("revoke", "--serial", str(number + 1)),
                ]
            )
            self.command(*words, changes=self.chance.randrange(CHANGES)).wait()
            for directory in (self.state, agent, proxy_2):
                finish_filling(directory)
            self.assert_proxy_is_whole()
            load_proxy_credentials(proxy_2, "a", time.time())
            self.assert_agent_is_whole(agent)
            if words[0] == "revoke":
                self.run_command(*words)
                listed = self.run_command("revoke", "--list", "--json")
                self.assertEqual(listed.count(f'"value": "{number + 1}"'), 1, listed)
                self.verified()

    def test_an_agent_that_joins(self) -> None:
        """In the place of another one: whichever it is afterwards, it starts and is
        let in, and a new line makes a new one of it."""
        proxy = self.start_proxy()
        agent = self.directory / "agent"
        self.run_command("join", self.line(), state=agent)
        for _ in range(KILLS):
            words = ("join", self.line(), "--force")
            changes = self.chance.randrange(CHANGES)
            self.command(*words, state=agent, changes=changes).wait()
            since = len(self.forks.output())
            program = self.begin("rtunnel-agent", agent)
            is_in_service = self.wait_for("is in service", program, since)
            self.assertTrue(is_in_service, self.forks.output()[since:])
            program.kill()
            self.assert_agent_is_whole(agent)
        self.assertEqual(proxy.stop(), 0)
        self.verified()

    def line(self) -> str:
        """A line to join with."""
        return self.run_command("token", "add", "b").strip()
