"""What a measure is: a name, and something done to one system in one round."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from benchmarks.place import Place
from benchmarks.systems.interface import System


@attrs.frozen
class Scale:
    """How much is done in one round.

    :param rounds: of every measure, each with every system.
    :param size: bytes of one transfer.
    :param jump_size: the same through ``ssh -J``, which is slower.
    :param trips: round trips, when nothing else happens.
    :param busy_trips: round trips beside a bulk stream.
    :param seconds: of opening connections.
    :param handshakes: logins in a row.
    :param storm: logins at once.
    :param storm_rounds: how often that.
    :param tunnels: idle agents.
    :param channels: idle connections through one client.
    """

    rounds: int = 7
    size: int = 400_000_000
    jump_size: int = 60_000_000
    trips: int = 1000
    busy_trips: int = 150
    seconds: float = 1.0
    handshakes: int = 300
    storm: int = 1000
    storm_rounds: int = 5
    tunnels: int = 500
    channels: int = 400


#: For ``make bench-quick``.
QUICK = Scale(
    rounds=5,
    size=50_000_000,
    jump_size=6_000_000,
    trips=200,
    busy_trips=40,
    seconds=0.3,
    handshakes=30,
    storm_rounds=1,
    tunnels=200,
    channels=200,
)

#: What comes out of one round: by quantity, in the unit that its name ends with.
Values = Mapping[str, float]


@attrs.frozen
class Measure:
    """Something to do in turn with every system.

    :param name: the start of its quantities' names.
    :param shape: which systems have it: one of ``System.ways``, or "" for all.
    :param run: does it once.
    :param rounds: how often, out of the scale.
    :param warm_up: whether the first round does not count.
    """

    name: str
    shape: str
    run: Callable[[System, Scale, Place], Values]
    rounds: Callable[[Scale], int] = lambda scale: scale.rounds
    warm_up: bool = False
