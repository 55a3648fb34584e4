"""The inputs worth keeping: one text file for each harness, one input on each line.

They are base64, sorted and unlike one another, so that what a run has found reads as
added lines.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

#: Where they are kept.
CORPUS = Path(__file__).resolve().parent / "corpus"

#: Inputs that are kept of a harness, bytes in one of them, and in all; the shortest
#: stay.
MAX_INPUTS = 500
MAX_INPUT = 2048
MAX_BYTES = 24 * 1024


def load(name: str) -> list[bytes]:
    """The inputs kept for a harness."""
    path = CORPUS / f"{name}.txt"
    if not path.exists():
        return []
    return [
        base64.b64decode(line) for line in path.read_text(encoding="ascii").split("\n")
    ][:-1]


def save(name: str, inputs: Iterable[bytes]) -> int:
    """Keep these and no others; how many that is."""
    kept: list[bytes] = []
    left = MAX_BYTES
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        left -= len(data)
        if len(data) > MAX_INPUT or left < 0 or len(kept) == MAX_INPUTS:
            break
        kept.append(data)
    lines = [base64.b64encode(data).decode("ascii") + "\n" for data in kept]
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{name}.txt").write_text("".join(lines), encoding="ascii")
    return len(kept)
