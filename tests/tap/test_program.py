"""What both plugins do around their service, under a real ``twistd``."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from pathlib import Path

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.tap.agent import Options as AgentOptions
from rtunnel.tap.proxy import Options as ProxyOptions
from tests.cli.running import CommandTestCase
from tests.interop.processes import (
    Process,
    free_port,
    wait_until,
)

#: What the ``twistd`` script does.
RUN = "from twisted.scripts.twistd import run; run()"

#: Says in the end how many objects the garbage collector passes over.
REPORT = """
import atexit, gc, sys
atexit.register(lambda: print("aside:", gc.get_freeze_count(), file=sys.__stderr__))
"""


class OptionsTests(SynchronousTestCase):
    """The command line."""

    def test_config_file_is_the_one_here_unless_another_is_named(self) -> None:
        """``proxy.toml`` and ``agent.toml`` in the current directory."""
        for options, name in (
            (ProxyOptions(), "proxy.toml"),
            (AgentOptions(), "agent.toml"),
        ):
            options.parseOptions([])
            self.assertEqual(options["config"], name)
            options.parseOptions(["--config", "x.toml"])
            self.assertEqual(options["config"], "x.toml")

    def test_log_is_text_or_json(self) -> None:
        """Anything else is refused, as is a level that there is not."""
        for name in ("text", "json"):
            options = ProxyOptions()
            options.parseOptions([f"--log-format={name}"])
            self.assertEqual(options["log-format"], name)
        for wrong in ("--log-format=xml", "--log-level=loud"):
            error = self.assertRaises(UsageError, ProxyOptions().parseOptions, [wrong])
            self.assertIn(wrong.partition("=")[0], str(error))

    def test_config_file_needs_its_option(self) -> None:
        """A file that would be passed over is refused, and the option named."""
        error = self.assertRaises(
            UsageError, AgentOptions().parseOptions, ["agent.toml"]
        )
        self.assertIn("--config FILE", str(error))

    def test_empty_name_of_a_config_file_is_refused(self) -> None:
        """It would be the current directory."""
        for options in (AgentOptions(), ProxyOptions()):
            error = self.assertRaises(
                UsageError, options.parseOptions, ["--config", ""]
            )
            self.assertIn("--config is empty", str(error))


class TwistdTestCase(CommandTestCase):
    """A test with a cluster on a free port of this machine."""

    def setUp(self) -> None:
        super().setUp()
        self.port = free_port()
        self.assert_done(
            *("init", "--state", self.state, "--cluster", "a"),
            *("--public", f"127.0.0.1:{self.port}", "--set", "web.listen=[]"),
            *("--set", f'ssh.listen=["tcp:{self.port}:interface=127.0.0.1"]'),
        )

    def twistd(self, name: str, *arguments: str | Path, before: str = "") -> Process:
        """Start a plugin in the foreground, after some other code."""
        process = Process(
            name,
            [sys.executable, "-c", before + RUN, "-n", "--pidfile=twistd.pid", name]
            + [str(argument) for argument in arguments],
            self.directory,
            # Warnings go to standard error in a format of Python's own.
            extra_environment={"PYTHONWARNINGS": "ignore"},
        )
        self.addCleanup(process.stop)
        return process

    def proxy(self, *more: str | Path) -> Process:
        """Start a proxy."""
        return self.twistd(
            "rtunnel-proxy", "--config", self.state / "proxy.toml", *more
        )

    def assert_ends_in_plain_lines(self, process: Process, *expected: str) -> None:
        """Exit code 1, a line for each problem, no traceback, no pid file."""
        self.assertEqual(process.wait(), 1)
        output = process.output()
        self.assertNotIn("Traceback", output)
        lines = [line for line in output.splitlines() if line.startswith("rtunnel-")]
        self.assertEqual(len(lines), len(expected), output)
        for line, text in zip(lines, expected, strict=True):
            self.assertIn(text, line)
        self.assertFalse((self.directory / "twistd.pid").exists())


class FailedStartTests(TwistdTestCase):
    """A start that cannot be."""

    def test_every_problem_of_the_config_file_has_its_line(self) -> None:
        """Each names file and key."""
        path = self.state / "proxy.toml"
        path.write_text('cluster = "A"\nname = 5\n')
        self.assert_ends_in_plain_lines(
            self.proxy(), f"{path}: cluster: ", f"{path}: name: "
        )

    def test_missing_config_file_is_named(self) -> None:
        """The one in the current directory, when none was given."""
        self.assert_ends_in_plain_lines(
            self.twistd("rtunnel-agent"), "agent.toml: no such file"
        )

    def test_key_that_others_can_read_is_named(self) -> None:
        """With the command that mends it."""
        path = self.state / "host_key"
        path.chmod(0o644)
        self.assert_ends_in_plain_lines(self.proxy(), f"chmod 600 {path}")

    def test_port_in_use_is_named(self) -> None:
        """It shows only when the services start."""
        with socket.create_server(("127.0.0.1", self.port)):
            self.assert_ends_in_plain_lines(
                self.proxy(), f"port {self.port}: Address already in use; stop what"
            )

    def test_endpoint_that_is_none_is_named(self) -> None:
        """Likewise."""
        path = self.state / "proxy.toml"
        path.write_text(path.read_text().replace("tcp:", "carrier-pigeon:"))
        self.assert_ends_in_plain_lines(self.proxy(), "carrier-pigeon")


class RunningTests(TwistdTestCase):
    """A program that runs."""

    def test_sigterm_ends_in_order_with_exit_code_0(self) -> None:
        """A drain that is done is no crash."""
        proxy = self.proxy()
        proxy.wait_for_port(self.port)
        proxy.signal(signal.SIGTERM)
        self.assertEqual(proxy.wait(), 0)
        self.assertIn("SIGTERM received", proxy.output())
        self.assertFalse((self.directory / "twistd.pid").exists())
        self.assertFalse((self.state / "admin.sock").exists())

    def test_what_stays_until_the_end_is_no_work_for_the_garbage_collector(
        self,
    ) -> None:
        """Nobody waits while it looks through modules and classes."""
        proxy = self.twistd(
            "rtunnel-proxy", "--config", self.state / "proxy.toml", before=REPORT
        )
        proxy.wait_for_port(self.port)
        proxy.signal(signal.SIGTERM)
        self.assertEqual(proxy.wait(), 0)
        said = re.search(r"^aside: (\d+)$", proxy.output(), re.MULTILINE)
        assert said is not None, proxy.output()
        self.assertGreater(int(said[1]), 10_000)

    def test_draining_may_be_asked_for_twice(self) -> None:
        """The second request finds it at work, and changes nothing."""
        path = self.state / "proxy.toml"
        path.write_text(path.read_text().replace("grace = 0 ", "grace = 2 "))
        proxy = self.proxy()
        proxy.wait_for_port(self.port)
        for _ in range(2):
            self.assert_done("drain", "--state", self.state)
        wait_until(lambda: "stopping already" in proxy.output(), 10, "it says so")
        self.assertEqual(proxy.wait(), 0)
        self.assertNotIn("Traceback", proxy.output())

    def test_sighup_reloads(self) -> None:
        """Also when the file cannot be used: the proxy goes on."""
        proxy = self.proxy()
        proxy.wait_for_port(self.port)
        proxy.signal(signal.SIGHUP)
        wait_until(lambda: "reloaded" in proxy.output(), 10, "the rules are reloaded")
        (self.state / "proxy.toml").write_text("nonsense")
        proxy.signal(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in proxy.output(), 10, "that is refused")
        self.assertTrue(proxy.is_alive)
        self.assertNotIn("Traceback", proxy.output())

    def test_json_log_is_json_from_the_first_line(self) -> None:
        """One object per line, what twistd itself says included."""
        proxy = self.proxy("--log-format=json")
        proxy.wait_for_port(self.port)
        proxy.signal(signal.SIGTERM)
        proxy.wait()
        events = [json.loads(line) for line in proxy.output().splitlines()]
        self.assertIn("starting up", events[0]["message"])
        self.assertTrue(
            {"time", "level", "logger", "message"}.issubset(events[0]), events[0]
        )
        self.assertEqual([e for e in events if e["level"] == "debug"], [])

    def test_agent_runs_until_told_to_stop(self) -> None:
        """A proxy that is not there is no reason to end."""
        out = self.directory / "agent"
        self.assert_done("agent", "sign", "b", "--state", self.state, "--out", out)
        agent = self.twistd(
            *("rtunnel-agent", "--config", out / "agent.toml", "--log-level=debug")
        )
        wait_until(lambda: "dial 1 to" in agent.output(), 10, "the agent dials")
        agent.signal(signal.SIGTERM)
        self.assertEqual(agent.wait(), 0)


class SecondSignalTests(TwistdTestCase):
    """A program that is told twice."""

    def test_second_sigterm_ends_it_now(self) -> None:
        """Whatever the drain still waits for."""
        script = self.directory / "slow.py"
        script.write_text(SLOW)
        process = Process("slow", [sys.executable, script], self.directory)
        self.addCleanup(process.stop)
        wait_until(lambda: "running" in process.output(), 10, "it runs")
        process.signal(signal.SIGTERM)
        wait_until(lambda: "draining" in process.output(), 10, "it drains")
        self.assertTrue(process.is_alive)
        process.signal(signal.SIGTERM)
        self.assertEqual(process.wait(), -signal.SIGTERM)


#: A program whose drain never ends.
SLOW = """
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from rtunnel.tap.signals import Signals

def drain():
    print("draining", flush=True)
    return Deferred()

def start():
    Signals(reactor, lambda: None).install()
    print("running", flush=True)

reactor.callWhenRunning(start)
reactor.addSystemEventTrigger("before", "shutdown", drain)
reactor.run()
"""
