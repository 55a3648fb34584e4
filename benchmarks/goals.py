"""What is to be reached, as a ratio to OpenSSH in the same run, or as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

import attrs

from benchmarks.systems.bare import Bare
from benchmarks.systems.openssh import OpenSSH
from benchmarks.systems.ours import Ours

#: By measure, system and quantity: one value for each round.
Results = Mapping[str, Mapping[str, Mapping[str, list[float]]]]


@attrs.frozen
class Goal:
    """One line of the table.

    :param title: for people.
    :param measure: name of the measure.
    :param quantity: of it.
    :param limit: the goal.
    :param at_least: whether more is better.
    :param ratio: whether it is to OpenSSH's.
    """

    title: str
    measure: str
    quantity: str
    limit: float
    at_least: bool = True
    ratio: bool = True

    def reached(self, value: float) -> bool:
        """Whether this value will do."""
        return value >= self.limit if self.at_least else value <= self.limit


def _at_most(title: str, measure: str, quantity: str, limit: float) -> Goal:
    return Goal(title, measure, quantity, limit, at_least=False)


def _absolute(title: str, measure: str, quantity: str, limit: float) -> Goal:
    return Goal(title, measure, quantity, limit, at_least=False, ratio=False)


GOALS = (
    Goal("tunnel throughput, 1 stream, up", "tunnel up 1", "MB/s", 1.5),
    Goal("tunnel throughput, 1 stream, down", "tunnel down 1", "MB/s", 1.4),
    Goal("tunnel throughput, 10 streams, up", "tunnel up 10", "MB/s", 1.3),
    Goal("tunnel throughput, 10 streams, down", "tunnel down 10", "MB/s", 1.5),
    _at_most("CPU per GB, proxy + agent, up", "tunnel up 1", "CPU s/GB", 0.60),
    _at_most("CPU per GB, proxy + agent, down", "tunnel down 1", "CPU s/GB", 0.60),
    _at_most("CPU per GB, 10 streams, up", "tunnel up 10", "CPU s/GB", 0.60),
    _at_most("CPU per GB, 10 streams, down", "tunnel down 10", "CPU s/GB", 0.60),
    Goal("stock client (-L) throughput, up", "relay up 1", "MB/s", 1.5),
    Goal("stock client (-L) throughput, down", "relay down 1", "MB/s", 1.5),
    _at_most("stock client, proxy CPU per GB, up", "relay up 1", "proxy s/GB", 0.40),
    _at_most("stock client, proxy CPU per GB, down", "relay down 1", "proxy s/GB", 0.4),
    Goal("ssh -J throughput, up", "jump up 1", "MB/s", 1.6),
    Goal("ssh -J throughput, down", "jump down 1", "MB/s", 2.5),
    _at_most("round trip p50, tunnel", "tunnel round trip idle", "p50 us", 1.3),
    _at_most("round trip p50, ssh -J", "jump round trip idle", "p50 us", 1.0),
    _at_most("round trip p50 beside bulk", "tunnel round trip busy", "p50 us", 2.0),
    Goal("opens per second, one by one", "tunnel opens 1", "per s", 20),
    Goal("opens per second, ten at once", "tunnel opens 10", "per s", 0.8),
    Goal("full handshakes per second", "handshakes", "per s", 6),
    _absolute("1,000 connections at once, s", "storm", "s", 2.0),
    _absolute("memory per idle tunnel, KiB", "idle tunnel", "KiB", 16),
    _absolute("memory per idle channel, KiB", "idle channel", "proxy KiB", 2),
)


@attrs.frozen
class Line:
    """A goal and what was measured: medians.

    :param bare: what is left when only system calls and the cipher are.
    """

    goal: Goal
    ours: float
    openssh: float | None
    asyncssh: float | None
    bare: float | None

    @property
    def value(self) -> float:
        """What the goal is about."""
        if not self.goal.ratio or not self.openssh:
            return self.ours
        return self.ours / self.openssh


def lines(results: Results) -> Iterator[Line]:
    """The table's lines, as far as there are results."""
    for goal in GOALS:
        systems = results.get(goal.measure, {})
        ours = _middle(systems, Ours.name, goal)
        openssh = _middle(systems, OpenSSH.name, goal)
        if ours is not None and not (goal.ratio and openssh is None):
            others = (_middle(systems, name, goal) for name in ("asyncssh", Bare.name))
            yield Line(goal, ours, openssh, *others)


def _middle(
    systems: Mapping[str, Mapping[str, list[float]]], name: str, goal: Goal
) -> float | None:
    if name not in systems:
        return None
    return float(median(systems[name][goal.quantity]))
