"""Moments as people and log collectors read them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(seconds: float, precision: str = "milliseconds") -> str:
    """A moment in UTC, such as ``2026-01-01T00:00:00.000Z`` (RFC 3339).

    :param seconds: since the epoch.
    :param precision: "seconds", "milliseconds" or "microseconds".
    """
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")
