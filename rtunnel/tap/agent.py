"""``twistd rtunnel-agent``: the command line of an agent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, cast

from rtunnel.tap.program import Program, ProgramOptions, RunningReactor, make_program


class Options(ProgramOptions):
    """What ``twistd rtunnel-agent`` takes."""

    synopsis = "[--config FILE] [--log-format text|json]"
    optParameters: ClassVar[Sequence[Sequence[object]]] = [
        [
            "config",
            "c",
            "agent.toml",
            "The config file that `rtunnel join` wrote.",
        ],
    ]


def makeService(options: Options) -> Program:
    """Build the agent; called by ``twistd``.

    :raises SystemExit: after one line per problem on standard error.
    """
    from twisted.internet import reactor

    from rtunnel.agent.reactors import IAgentReactor
    from rtunnel.agent.service import AgentService
    from rtunnel.config import load_agent

    def build(path: Path) -> tuple[AgentService, None]:
        # Its start cannot fail: an agent tries for ever.
        config = load_agent(path)
        return AgentService(config, cast(IAgentReactor, reactor), now=time.time), None

    return make_program("rtunnel-agent", options, cast(RunningReactor, reactor), build)
