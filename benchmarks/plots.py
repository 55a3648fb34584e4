"""Results as pictures: bars of ratios to OpenSSH, drawn as SVG by hand."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import attrs

from benchmarks.goals import Line, Results, lines

_WIDTH, _LABEL, _BAR, _GAP = 760, 290, 14, 12
_COLOURS = {"rtunnel": "#1f6f8b", "asyncssh": "#b7b7a4", "OpenSSH": "#e07a5f"}


@attrs.frozen
class Plot:
    """One picture.

    :param file: its name.
    :param title: over it.
    :param starts: it shows the goals whose titles start so.
    """

    file: str
    title: str
    starts: tuple[str, ...]


PLOTS = (
    Plot(
        "throughput.svg",
        "Throughput, OpenSSH = 1 (longer is better)",
        ("tunnel throughput", "stock client (-L)", "ssh -J throughput"),
    ),
    Plot(
        "cpu.svg",
        "CPU seconds per GB, OpenSSH = 1 (shorter is better)",
        ("CPU per GB", "stock client, proxy"),
    ),
    Plot(
        "latency.svg",
        "Round trip p50, OpenSSH = 1 (shorter is better)",
        ("round trip",),
    ),
)


def draw(results: Results, directory: Path) -> None:
    """Write every picture that there are results for."""
    directory.mkdir(parents=True, exist_ok=True)
    found = list(lines(results))
    for plot in PLOTS:
        shown = [line for line in found if line.goal.title.startswith(plot.starts)]
        if shown:
            (directory / plot.file).write_text(_svg(plot.title, shown))


def _svg(title: str, shown: Sequence[Line]) -> str:
    rows = [(line, _bars(line)) for line in shown]
    longest = max(
        [line.goal.limit for line in shown] + [v for _, b in rows for v in b.values()]
    )
    scale = (_WIDTH - _LABEL - 60) / longest
    parts = [_text(10, 22, title, "bold")]
    y = 40
    for line, bars in rows:
        parts.append(_text(10, y + _BAR, line.goal.title))
        top = y
        for name, value in bars.items():
            parts.append(_rect(_LABEL, y, value * scale, _BAR, _COLOURS[name]))
            parts.append(
                _text(_LABEL + value * scale + 5, y + _BAR - 2, f"{value:.2f}")
            )
            y += _BAR
        at = _LABEL + line.goal.limit * scale
        parts.append(
            f'<path d="M{at:.1f} {top - 3}V{y + 3}" stroke="#333" '
            'stroke-dasharray="3 2"/>'
        )
        y += _GAP
    parts.append(
        f'<path d="M{_LABEL + scale:.1f} 34V{y}" stroke="{_COLOURS["OpenSSH"]}"/>'
    )
    x = _LABEL
    for name, text in (
        ("rtunnel", "rtunnel"),
        ("asyncssh", "asyncssh"),
        ("OpenSSH", "line: OpenSSH; dashed: the goal"),
    ):
        parts += [_rect(x, y + 4, 10, 10, _COLOURS[name]), _text(x + 15, y + 13, text)]
        x += 85
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 24}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _bars(line: Line) -> dict[str, float]:
    assert line.openssh
    bars = {"rtunnel": line.value}
    if line.asyncssh is not None:
        bars["asyncssh"] = line.asyncssh / line.openssh
    return bars


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" '
        f'fill="{colour}"/>'
    )


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}">{escape(text)}</text>'
