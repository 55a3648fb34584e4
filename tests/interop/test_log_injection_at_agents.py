"""Whatever text a proxy sends an agent, each line of its log stays one line."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.interop import rogue_proxy
from tests.interop.processes import LOOPBACK, Process, free_port, wait_until
from tests.interop.programs import Agent, rtunnel_here
from tests.interop.rogue_proxy import LISTENERS
from tests.interop.unbroken import NASTY, check_log


class AgentTextLogTests(SynchronousTestCase):
    """An agent, and proxies that are none, or that were taken over."""

    log_format: ClassVar[str] = "text"

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rtunnel-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.state = self.directory / "proxy"
        public = ("--public", f"{LOOPBACK}:3023")
        rtunnel_here("init", "--state", self.state, "--cluster", "a", *public)
        texts = self.directory / "texts"
        texts.write_text(json.dumps([text.hex() for text in NASTY]))
        count = LISTENERS * len(NASTY)
        # One after the other, with none in between that somebody has.
        while (ports := [free_port() for _ in range(count)])[-1] != ports[
            0
        ] + count - 1:
            pass
        self.ports = ports
        rogue = Process(
            "rogues",
            [sys.executable, rogue_proxy.__file__, self.state, str(ports[0]), texts],
            self.directory,
        )
        self.addCleanup(rogue.kill)
        rogue.wait_for_port(self.ports[-1])

    def agent(self, name: str, *addresses: str) -> Agent:
        """An agent that dials them."""
        agent = Agent(name, self.directory)
        rtunnel_here(
            *("agent", "sign", "b", "--state", self.state, "--out", agent.state),
            *("--set", f"proxies={json.dumps(addresses)}"),
        )
        agent.options = ("--log-format", self.log_format, "--log-level", "debug")
        self.addCleanup(lambda: agent.process.kill())
        return agent

    def messages(self, agent: Agent) -> list[str]:
        """What it has logged so far, each line checked."""
        whole, end, _ = agent.process.output().rpartition("\n")
        return check_log(whole + end, self.log_format) if end else []

    def test_every_line_is_one_line(self) -> None:
        """Whatever proxies, and what stands in their place, say."""
        agent = self.agent("agent-1", *(f"{LOOPBACK}:{port}" for port in self.ports))
        agent.start()

        def said(words: str) -> int:
            return sum(words in each for each in self.messages(agent))

        wait_until(
            lambda: (
                said(" says: ") >= 2 * len(NASTY)
                and said("disconnected: ") >= 2 * len(NASTY)
            ),
            60,
            agent.process.tail,
        )
        self.assertTrue(agent.process.is_alive)
        for word in ("x1b[2J", "u202e", "u2028", "x00"):
            self.assertGreaterEqual(said(word), 4, word)

    def test_an_http_proxy_breaks_no_line_either(self) -> None:
        """Its status line is shown."""
        for index in (1, 9):
            agent = self.agent(f"agent-{index}", "lb.example.com:3023")
            port = self.ports[index * LISTENERS + LISTENERS - 1]
            agent.environment = {"HTTPS_PROXY": f"http://{LOOPBACK}:{port}"}
            agent.start()
            wait_until(
                lambda agent=agent: any(  # type: ignore[misc]
                    "the HTTP proxy answered" in each for each in self.messages(agent)
                ),
                20,
                agent.process.tail,
            )
            agent.process.kill()


class AgentJsonLogTests(AgentTextLogTests):
    """The same, for programs that read logs."""

    log_format = "json"
