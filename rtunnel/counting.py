"""Numbers with what they count, as sentences say it: 1 second, 2 seconds. Pure."""

from __future__ import annotations


def counted(number: float, one: str, many: str | None = None) -> str:
    """A number and the form of a word that goes with it.

    :param number: shown with at most three digits behind the point.
    :param one: the word for exactly one.
    :param many: the word for any other number; ``one`` and an "s" when it is None.
    """
    shown = f"{number:.3f}".rstrip("0").rstrip(".")
    return f"{shown} {one if shown == '1' else many or one + 's'}"
