"""Results as text: ratios against the goals, and every median below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median, quantiles

from benchmarks.goals import Line, Results, lines
from benchmarks.systems.ours import Ours

#: In the order of their columns.
_SYSTEMS = (Ours.name, "other", "OpenSSH", "asyncssh", "bare")


def table(results: Results) -> str:
    """The whole report, as Markdown."""
    names = [
        name for name in _SYSTEMS if any(name in each for each in results.values())
    ]
    parts = [*_goals(results), "", *_medians(results, names)]
    if "other" in names:
        parts += ["", *_comparison(results)]
    return "\n".join(parts)


def _goals(results: Results) -> Iterator[str]:
    yield "| measure | goal | rtunnel | OpenSSH | asyncssh | bare | value | reached |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for line in lines(results):
        yield _row(line)


def _row(line: Line) -> str:
    goal = line.goal
    sign = "≥" if goal.at_least else "≤"
    unit = " x" if goal.ratio else ""
    verdict = "yes" if goal.reached(line.value) else "no"
    return (
        f"| {goal.title} | {sign} {goal.limit:g}{unit} | {_short(line.ours)} "
        f"| {_short(line.openssh)} | {_short(line.asyncssh)} | {_short(line.bare)} "
        f"| **{line.value:.3g}{unit}** | {verdict} |"
    )


def _medians(results: Results, names: Sequence[str]) -> Iterator[str]:
    yield f"| median | quantity | {' | '.join(names)} |"
    yield f"| --- | --- |{' --- |' * len(names)}"
    for measure, systems in results.items():
        quantities = {name: None for own in systems.values() for name in own}
        for quantity in quantities:
            values = [
                _short(median(systems[name][quantity]))
                if quantity in systems.get(name, {})
                else "-"
                for name in names
            ]
            yield f"| {measure} | {quantity} | {' | '.join(values)} |"


def _comparison(results: Results) -> Iterator[str]:
    """Ours to the other checkout's, round by round: what both had to bear counts less.

    The quartiles say how far the rounds are apart.
    """
    yield "| rtunnel / other | quantity | median | quartiles |"
    yield "| --- | --- | --- | --- |"
    for measure, systems in results.items():
        ours, others = systems.get(Ours.name, {}), systems.get("other", {})
        for quantity in ours:
            pairs = zip(ours[quantity], others.get(quantity, ()), strict=False)
            ratios = [own / other for own, other in pairs if other]
            if len(ratios) > 1:
                low, middle, high = quantiles(ratios, n=4, method="inclusive")
                yield (
                    f"| {measure} | {quantity} | **{middle:.3f}** "
                    f"| {low:.3f} to {high:.3f} |"
                )


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
