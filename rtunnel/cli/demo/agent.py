"""The demo's agent: the real one, with a small SSH target in the same process."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.logger import globalLogBeginner, textFileLogObserver

from rtunnel.agent.service import AgentService
from rtunnel.cli.demo.target import target_factory
from rtunnel.config import load_agent
from rtunnel.state_directory import load_private_key, load_public_key
from rtunnel.trust.targets import TargetPatterns

#: The one host of the demo's cluster.
HOST = "web1"

#: How the port of the target is told: a line on standard output, then the number.
ANNOUNCEMENT = "target listens on port "


def main(config_path: str, target_key: str, user_key: str) -> None:
    """Run until SIGTERM or SIGINT.

    :param config_path: ``agent.toml``; its ``allow`` and ``resolve`` are replaced by
        the target.
    :param target_key: the target's private host key file.
    :param user_key: public key file of who may log in at the target.
    """
    from twisted.internet import reactor as global_reactor

    # Which interfaces the global reactor has depends on the platform.
    reactor: Any = global_reactor
    globalLogBeginner.beginLoggingTo(
        [textFileLogObserver(sys.stderr)], redirectStandardIO=False
    )
    config = load_agent(Path(config_path))
    factory = target_factory(
        reactor,
        load_private_key(Path(target_key)),
        [load_public_key(Path(user_key))[0]],
        f"{HOST}.{config.cluster}",
    )
    address = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost()
    assert isinstance(address, IPv4Address)
    port = address.port
    print(f"{ANNOUNCEMENT}{port}", flush=True)
    service = AgentService(
        attrs.evolve(
            config,
            allow=TargetPatterns.parse([f"{HOST}:{port}"]),
            resolve={HOST: "127.0.0.1"},
        ),
        reactor,
        now=time.time,
    )
    service.startService()

    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
