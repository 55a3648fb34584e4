"""What every audit line has."""

from __future__ import annotations

from typing import Final, Literal

#: The fields that say what happened, in their order.
EVENT_FIELDS: Final = (
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

#: The fields of every line, in their order; :mod:`rtunnel.audit.chain` adds the last.
FIELDS: Final = (*EVENT_FIELDS, "chain")

#: How it went: as it should, not allowed, or tried in vain.
Outcome = Literal["ok", "refused", "failed"]
