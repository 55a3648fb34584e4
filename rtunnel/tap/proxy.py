"""``twistd rtunnel-proxy``: the command line of a proxy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, cast

from twisted.internet.defer import Deferred

from rtunnel.tap.program import Program, ProgramOptions, RunningReactor, make_program


class Options(ProgramOptions):
    """What ``twistd rtunnel-proxy`` takes."""

    synopsis = "[--config FILE] [--log-format text|json]"
    optParameters: ClassVar[Sequence[Sequence[object]]] = [
        ["config", "c", "proxy.toml", "The config file that `rtunnel init` wrote."],
    ]


def makeService(options: Options) -> Program:
    """Build the proxy; called by ``twistd``.

    :raises SystemExit: after one line per problem on standard error.
    """
    from twisted.internet import reactor

    from rtunnel.config import load_proxy
    from rtunnel.proxy.service import ProxyService
    from rtunnel.web.service import ServedProxy

    def build(path: Path) -> tuple[ServedProxy, Deferred[None]]:
        config = load_proxy(path)
        proxy = ProxyService(config, reactor, now=time.time)
        served = ServedProxy(config, proxy, reactor)
        return served, served.started

    return make_program("rtunnel-proxy", options, cast(RunningReactor, reactor), build)
