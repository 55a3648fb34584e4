"""Results as text: ratios against the goals, and every median below."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from benchmarks.goals import Line, Results, lines


def table(results: Results) -> str:
    """The whole report, as Markdown."""
    return "\n".join([*_goals(results), "", *_medians(results)])


def _goals(results: Results) -> Iterator[str]:
    yield "| measure | goal | rtunnel | OpenSSH | asyncssh | value | |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for line in lines(results):
        yield _row(line)


def _row(line: Line) -> str:
    goal = line.goal
    sign = "≥" if goal.at_least else "≤"
    unit = " x" if goal.ratio else ""
    verdict = "yes" if goal.reached(line.value) else "no"
    return (
        f"| {goal.title} | {sign} {goal.limit:g}{unit} | {_short(line.ours)} "
        f"| {_short(line.openssh)} | {_short(line.asyncssh)} "
        f"| **{line.value:.3g}{unit}** | {verdict} |"
    )


def _medians(results: Results) -> Iterator[str]:
    yield "| median | quantity | rtunnel | OpenSSH | asyncssh |"
    yield "| --- | --- | --- | --- | --- |"
    for measure, systems in results.items():
        quantities = {name: None for own in systems.values() for name in own}
        for quantity in quantities:
            values = [
                _short(median(systems[name][quantity]))
                if quantity in systems.get(name, {})
                else "-"
                for name in ("rtunnel", "OpenSSH", "asyncssh")
            ]
            yield f"| {measure} | {quantity} | {' | '.join(values)} |"


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
