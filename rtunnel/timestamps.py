"""Moments as people, log collectors and JSON records have them. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime


def rfc3339(seconds: float, precision: str = "milliseconds") -> str:
    """A moment in UTC, such as ``2026-01-01T00:00:00.000Z`` (RFC 3339).

    :param seconds: since the epoch.
    :param precision: "seconds", "milliseconds" or "microseconds".
    """
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def seconds_of(value: object) -> float | None:
    """What a JSON record holds as a moment or a span; None if it is none.

    :return: seconds, finite and not negative.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
