"""What every audit line has."""

from __future__ import annotations

from typing import Final, Literal

#: The fields of every line, in their order.
FIELDS: Final = (
    "time",
    "event",
    "connection_id",
    "user",
    "key_id",
    "source",
    "cluster",
    "target",
    "proxy",
    "agent",
    "outcome",
    "bytes_in",
    "bytes_out",
    "seconds",
    "reason",
)

#: How it went: as it should, not allowed, or tried in vain.
Outcome = Literal["ok", "refused", "failed"]
