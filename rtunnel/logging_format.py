"""How log events look: one line each, as text or as JSON.

``text`` is a moment (RFC 3339, UTC), the level, the logger and the message; ``json`` is
an object of ``time``, ``level``, ``logger``, ``message``, the event's own fields under
their own names, and ``traceback`` where there is one. In both, nothing in an event can
begin another line or speak to a terminal.
"""

from __future__ import annotations

import contextlib
import json
import math
from typing import IO, Any, cast

from twisted.logger import (
    FileLogObserver,
    ILogFilterPredicate,
    LogEvent,
    LogLevel,
    PredicateResult,
    formatEvent,
)
from twisted.python.failure import Failure
from zope.interface import provider

from rtunnel.naming import printable
from rtunnel.timestamps import rfc3339

#: What ``--log-format`` may say.
LOG_FORMATS = ("text", "json")

#: Characters of a message, of a field and of a traceback that are kept.
MAX_MESSAGE = 8192
MAX_TRACEBACK = 65536

#: Items of a list or a mapping in a field that are kept, and levels of nesting.
MAX_ITEMS = 100
MAX_DEPTH = 4

#: Names that this format gives itself, and those that twisted.python.log adds.
_OWN = ("time", "level", "logger", "message", "traceback")
_LEGACY = ("format", "system", "isError", "failure", "why")
_RESERVED = frozenset((*_OWN, *_LEGACY))


def make_observer(log_format: str, stream: IO[str]) -> FileLogObserver:
    """An observer that writes every event to a stream.

    :param log_format: one of :data:`LOG_FORMATS`.
    """
    return FileLogObserver(
        stream, {"text": event_as_text, "json": event_as_json}[log_format]
    )


def at_least(level: Any) -> ILogFilterPredicate:
    """Let events pass from a level on, and none that has no level.

    :param level: of :class:`~twisted.logger.LogLevel`.
    """
    wanted = frozenset(each for each in LogLevel.iterconstants() if each >= level)

    @provider(ILogFilterPredicate)
    def predicate(event: LogEvent) -> Any:
        is_wanted = event.get("log_level") in wanted
        return PredicateResult.maybe if is_wanted else PredicateResult.no

    return cast(ILogFilterPredicate, predicate)


def event_as_text(event: LogEvent) -> str | None:
    """One line for one event, its newline included; None when it says nothing."""
    message, traceback = _message(event), _traceback(event)
    if not message and traceback is None:
        return None
    said = printable(message, MAX_MESSAGE)
    if traceback is not None:
        said += ": " * bool(said) + printable(traceback.rstrip(), MAX_TRACEBACK)
    return f"{_time(event)} {_level(event)} {_logger(event)} {said}\n"


def event_as_json(event: LogEvent) -> str | None:
    """One line for one event, its newline included; None when it says nothing."""
    message, traceback = _message(event), _traceback(event)
    if not message and traceback is None:
        return None
    line: dict[str, object] = {
        "time": _time(event),
        "level": _level(event),
        "logger": _logger(event),
        "message": _cut(message, MAX_MESSAGE),
    }
    for name, value in event.items():
        if not name.startswith("log_") and name not in _RESERVED:
            line[name] = _plain(value, MAX_DEPTH)
    if traceback is not None:
        line["traceback"] = _cut(traceback, MAX_TRACEBACK)
    # ASCII only: JSON's own escapes leave no control character as it is.
    return json.dumps(line) + "\n"


def _message(event: LogEvent) -> str:
    text = event.get("log_format")
    # What Twisted knows beyond Python's own formatting, calls as in "{name()}", takes
    # it as long as all the rest of a line.
    if isinstance(text, str) and "()" not in text and "log_flattened" not in event:
        with contextlib.suppress(Exception):
            return text.format_map(event)
    return formatEvent(event)


def _time(event: LogEvent) -> str:
    return rfc3339(event.get("log_time", 0.0))


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return "info" if level is None else str(level.name)


def _logger(event: LogEvent) -> str:
    return printable(str(event.get("log_namespace") or "-"))


def _traceback(event: LogEvent) -> str | None:
    failure = event.get("log_failure")
    return failure.getTraceback() if isinstance(failure, Failure) else None


def _plain(value: object, depth: int) -> object:
    """A value that JSON can hold, made from any value."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, bytes):
        return _cut(value.decode("utf-8", "backslashreplace"), MAX_MESSAGE)
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in list(value)[:MAX_ITEMS]]
    if depth and isinstance(value, dict):
        return {
            str(key): _plain(item, depth - 1)
            for key, item in list(value.items())[:MAX_ITEMS]
        }
    try:
        return _cut(str(value), MAX_MESSAGE)
    except Exception:
        return f"<a {type(value).__name__} that cannot be shown>"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
