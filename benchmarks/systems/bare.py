"""What no tunnel in Python can do without: the measure of how much there is to gain."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from benchmarks.place import Place
from benchmarks.systems.interface import Way
from tests.interop.processes import free_port


class Bare:
    """Two relays that read, encrypt or decrypt, and send; no SSH and no event loop.

    Of a :class:`~benchmarks.systems.interface.System` it has the way ``tunnel`` only,
    and one stream on that: with more, its threads wait for each other.
    """

    name = "bare"
    #: Names of what is measured with it.
    measures = frozenset(["tunnel up 1", "tunnel down 1", "tunnel round trip idle"])
    ways: Mapping[str, Way]

    def __init__(self, place: Place) -> None:
        port, sealed = free_port(), free_port()
        ends = [sys.executable, "-m", "benchmarks.systems.bare_ends"]
        agent = place.start("bare-agent", [*ends, "agent", sealed, place.target_port])
        agent.wait_for_port(sealed)
        proxy = place.start("bare-proxy", [*ends, "proxy", port, sealed])
        proxy.wait_for_port(port)
        self.ways = {"tunnel": Way(port, {"proxy": proxy.pid, "agent": agent.pid})}
