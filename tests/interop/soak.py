"""How long the tests take that watch for something that must not happen.

A few seconds where everything is tested, ``RTUNNEL_SOAK`` seconds for ``make soak``,
which also keeps the figures.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from tests.interop.processes import ROOT

#: Seconds to watch where that is all the time there is.
SHORT = 3.0

#: Seconds to watch; 0 for :data:`SHORT`.
_ASKED_FOR = float(os.environ.get("RTUNNEL_SOAK") or 0)

#: Whether this is the long form, whose figures have to be right and not only sane.
IS_SOAK = _ASKED_FOR > 0

#: Seconds to watch.
SECONDS = _ASKED_FOR or SHORT

#: Where :func:`report` puts the figures of the long form, a line for each test.
REPORT = ROOT / "build" / "soak.txt"


def report(name: str, figures: Mapping[str, float]) -> None:
    """Keep what was measured, by what it is called."""
    shown = ", ".join(f"{what} {figure:.4g}" for what, figure in figures.items())
    if IS_SOAK:
        REPORT.parent.mkdir(exist_ok=True)
        # Tests run side by side; a short line that is appended stays in one piece.
        with REPORT.open("a") as file:
            file.write(f"{name}: {shown}\n")
