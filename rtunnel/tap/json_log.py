"""``--log-format=json``: one JSON object per log event, one event per line.

``time`` (RFC 3339, UTC), ``level``, ``logger`` and ``message``, then the event's own
fields under their names, and ``traceback`` where there is one.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from twisted.logger import LogEvent, formatEvent
from twisted.python.failure import Failure

#: Names that are this format's own, and those that ``twisted.python.log`` adds.
_OWN = ("time", "level", "logger", "message", "traceback")
_LEGACY = ("format", "system", "isError", "failure", "why")


def event_as_json(event: LogEvent) -> str | None:
    """One line for one event.

    :returns: the line with its newline, or nothing for an event that says nothing.
    """
    message = formatEvent(event)
    failure = event.get("log_failure")
    if not message and failure is None:
        return None
    level = event.get("log_level")
    line: dict[str, object] = {
        "time": _rfc3339(event.get("log_time", 0.0)),
        "level": "info" if level is None else level.name,
        "logger": event.get("log_namespace", ""),
        "message": message,
    }
    for name, value in event.items():
        if not name.startswith("log_") and name not in _OWN + _LEGACY:
            line[name] = _plain(value)
    if isinstance(failure, Failure):
        line["traceback"] = failure.getTraceback()
    return json.dumps(line) + "\n"


def _rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
