"""What the fields of control messages may hold. Pure.

Each check returns the value as it is to be kept, and raises
:class:`~rtunnel.errors.MessageError` when it breaks its limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rtunnel.errors import MessageError
from rtunnel.naming import printable

#: Characters of any one string.
MAX_STRING: Final = 255
#: Seconds: the longest ``ttl``, ``resend`` or drain that makes sense to us.
MAX_SECONDS: Final = 7 * 86400.0
#: The largest whole number that JSON carries between languages unharmed.
MAX_INTEGER: Final = 2**53 - 1

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def checked_text(what: str, value: object, *, empty: bool = True) -> str:
    if not isinstance(value, str):
        raise MessageError(f"{what} is not a string")
    if len(value) > MAX_STRING:
        raise MessageError(
            f"{what} has {len(value)} characters; {MAX_STRING} is the limit"
        )
    # Also keeps out lone surrogates, which JSON can carry and UTF-8 cannot.
    if not value.isprintable():
        raise MessageError(f"{what} has characters that cannot be printed")
    if not value and not empty:
        raise MessageError(f"{what} is empty")
    return value


def checked_id(what: str, value: object) -> str:
    text = checked_text(what, value).lower()
    if _UUID.fullmatch(text) is None:
        raise MessageError(f"{what} {printable(text, 60)!r} is not a UUID")
    return text


def checked_integer(what: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MessageError(f"{what} is not a whole number")
    if not 0 <= value <= MAX_INTEGER:
        raise MessageError(f"{what} is not between 0 and {MAX_INTEGER}")
    return value


def checked_seconds(what: str, value: object, *, zero: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MessageError(f"{what} is not a number")
    # Compared before it is converted: a huge int does not fit a float.
    if not 0 <= value <= MAX_SECONDS or math.isnan(value) or not (value or zero):
        least = "0" if zero else "more than 0"
        raise MessageError(f"{what} is not {least} to {MAX_SECONDS:.0f} seconds")
    return float(value)


def checked_texts(what: str, values: object, limit: int) -> tuple[str, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise MessageError(f"{what} is not a list")
    kept = tuple(values)
    if len(kept) > limit:
        raise MessageError(f"{what} has {len(kept)} entries; {limit} is the limit")
    return tuple(checked_text(f"an entry of {what}", v, empty=False) for v in kept)


def as_object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MessageError("not a JSON object")
    return value


def need(fields: Mapping[str, Any], key: str) -> Any:
    try:
        return fields[key]
    except KeyError:
        raise MessageError(f"{key!r} is missing") from None


def need_list(fields: Mapping[str, Any], key: str) -> list[Any]:
    value = need(fields, key)
    if not isinstance(value, list):
        raise MessageError(f"{key} is not a list")
    return value
