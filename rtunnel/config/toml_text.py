"""TOML written: values, keys and whole documents with a comment beside each key.

As much of TOML 1.0 as ``tomllib`` can hand us, so that whatever was read can be written
and read again.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {
    ord('"'): '\\"',
    ord("\\"): "\\\\",
    **{code: f"\\u{code:04x}" for code in [*range(0x20), 0x7F]},
    ord("\n"): "\\n",
    ord("\t"): "\\t",
}

#: Column at which the comments beside keys start, if the value leaves room.
COMMENT_COLUMN = 33


def render_value(value: object) -> str:
    """One value on one line; tables become inline tables.

    :param value: what ``tomllib`` gives; tuples count as lists.
    :raises TypeError: for a type that TOML does not have.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value.translate(_ESCAPES)}"'
        case int() | float():
            return repr(value)
        case datetime() | date() | time():
            return value.isoformat()
        case Mapping():
            pairs = [f"{render_key(k)} = {render_value(v)}" for k, v in value.items()]
            return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
        case list() | tuple():
            return f"[{', '.join(map(render_value, value))}]"
    raise TypeError(f"TOML has no {type(value).__name__}")


def render_key(key: str) -> str:
    """One part of a key, quoted if it has to be."""
    return key if _BARE_KEY.fullmatch(key) else render_value(key)


def render_document(
    data: Mapping[str, object], comments: Mapping[str, str], inline: Sequence[str] = ()
) -> str:
    """A document in the order of ``data``, with its tables after its plain values.

    :param data: two levels are spread over lines, deeper ones are written inline.
    :param comments: dotted key, or name of a table, and what to say beside it.
    :param inline: top-level tables to be written as inline tables.
    """
    tables: list[str] = []
    lines: list[str] = []
    for key, value in data.items():
        name = render_key(key)
        comment = comments.get(key, "")
        if isinstance(value, Mapping) and key not in inline:
            tables += ["", _line(f"[{name}]", comment), *_pairs(key, value, comments)]
        elif array := _array_of_tables(value):
            for table in array:
                tables += ["", _line(f"[[{name}]]", comment)]
                tables += _pairs(key, table, comments)
        else:
            lines.append(_line(f"{name} = {render_value(value)}", comment))
    return "\n".join([*lines, *tables]) + "\n"


def _array_of_tables(value: object) -> list[Mapping[str, object]]:
    """The tables in ``value``, none when it is anything but a list of tables."""
    if not isinstance(value, list | tuple):
        return []
    found = [element for element in value if isinstance(element, Mapping)]
    return found if len(found) == len(value) else []


def _pairs(
    table: str, values: Mapping[str, object], comments: Mapping[str, str]
) -> list[str]:
    return [
        _line(
            f"{render_key(key)} = {render_value(value)}",
            comments.get(f"{table}.{key}", ""),
        )
        for key, value in values.items()
    ]


def _line(text: str, comment: str) -> str:
    return f"{text:<{COMMENT_COLUMN - 1}} # {comment}" if comment else text
