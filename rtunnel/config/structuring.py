"""TOML data to config values, strictly: what is wrong, where, and what was expected.

cattrs walks the classes and gathers every failure; the checks of
:mod:`rtunnel.config.checks` keep it from coercing anything.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import GenericAlias, MappingProxyType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from rtunnel.config.checks import (
    NON_EMPTY,
    BadValue,
    Check,
    ClusterPattern,
    PinnedAddress,
    PinnedName,
    RuleTimes,
    Target,
    UserPattern,
)
from rtunnel.config.toml_text import render_key, render_value
from rtunnel.config.values import AgentConfig, ProxyConfig
from rtunnel.naming import printable
from rtunnel.trust.policy import AllowRule
from rtunnel.trust.targets import TargetPatterns

Config = TypeVar("Config", bound=ProxyConfig | AgentConfig)
Hook = Callable[[Any, Any], Any]

#: Characters of a wrong value that an error shows.
MAX_SHOWN = 60

_LIST = 'a list, as in ["..."]'
_NON_EMPTY_LIST = "a list of at least one"
_TABLE = "a table"


def describe_problem(
    source: str | Path, key: str, found: str, expected: str, hint: str = ""
) -> str:
    """A problem as every :class:`ConfigError` words it, for checks made elsewhere.

    :param source: the file, or the argument, that the value comes from.
    :param key: dotted key, as in ``limits.login_grace``.
    :param found: what is there.
    :param expected: what should be.
    :param hint: more about what is wrong, or what to do.
    """
    tail = f"; {hint}" if hint else ""
    return f"{printable(str(source))}: {key}: found {found}, expected {expected}{tail}"


@attrs.frozen
class Problem:
    """One thing wrong in a document; see :func:`describe_problem` for the fields."""

    key: tuple[str | int, ...]
    found: str
    expected: str
    hint: str = ""

    def describe(self, source: str | Path) -> str:
        """The problem as one line."""
        return describe_problem(
            source, dotted(self.key), self.found, self.expected, self.hint
        )


class Problems(Exception):
    """A document cannot be a config; ``problems`` holds every reason."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems


def structure(data: Mapping[str, object], kind: type[Config]) -> Config:
    """A config from what ``tomllib`` gave; paths are left as they stand.

    :raises Problems: with everything that is wrong.
    """
    try:
        return _converter.structure(data, kind)
    except (BadValue, cattrs.BaseValidationError) as error:
        raise Problems(list(_problems(error, (), kind, kind))) from error


def dotted(key: tuple[str | int, ...]) -> str:
    """``("ssh", "listen", 0)`` as ``ssh.listen[0]``."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + printable(render_key(part))
    return text


def key_names(kind: type) -> tuple[str, ...]:
    """The keys of the table that becomes a ``kind``, its own before inherited ones."""
    hidden = "path" if kind in (ProxyConfig, AgentConfig) else ""
    fields = sorted(attrs.fields(kind), key=lambda field: field.inherited)
    return tuple(field.name for field in fields if field.name != hidden)


def _problems(
    error: BaseException, key: tuple[str | int, ...], at: Any, root: type
) -> Iterator[Problem]:
    """Walk down what cattrs raised.

    :param key: where we are.
    :param at: the type that is expected there.
    :param root: the type of the whole document, for suggestions.
    """
    match error:
        case cattrs.ClassValidationError() | cattrs.IterableValidationError():
            noted, others = error.group_exceptions()
            for inner, note in noted:
                part = note.name if hasattr(note, "name") else note.index
                yield from _problems(inner, (*key, part), note.type, root)
            for other in others:
                yield from _problems(other, key, at, root)
        case ForbiddenExtraKeysError():
            for extra in sorted(error.extra_fields):
                yield _unknown_key((*key, extra), error.cl, root)
        case KeyError():
            yield Problem(key, "nothing", _expected(at))
        case BadValue():
            yield Problem(key, _shown(error.value), error.expected, error.detail)
        case _:
            raise error


def _unknown_key(key: tuple[str | int, ...], parent: type, root: type) -> Problem:
    known = key_names(parent)
    name = str(key[-1])
    close = [path for path in _key_paths(root) if path.rpartition(".")[2] == name]
    if not close:
        close = difflib.get_close_matches(name, known, n=1)
    return Problem(
        key,
        "an unknown key",
        f"one of {', '.join(known)}",
        f"did you mean {' or '.join(close)}?" if close else "",
    )


def _key_paths(kind: type) -> Iterator[str]:
    """The dotted keys of a document, tables included."""
    types = {a.name: a.type for a in attrs.fields(kind)}
    for name in key_names(kind):
        yield name
        inner = types[name]
        if inner is not None and attrs.has(inner) and inner is not TargetPatterns:
            yield from (f"{name}.{below}" for below in _key_paths(inner))


def _expected(kind: Any) -> str:
    """What a key of this type needs, for when it is missing."""
    marks = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    for mark in marks:
        if isinstance(mark, Check):
            return mark.expected
    return _NON_EMPTY_LIST if NON_EMPTY in marks else _LIST


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return _TABLE
    return printable(render_value(value), MAX_SHOWN)


@attrs.frozen
class _AllowTable:
    """One ``[[allow]]`` table as it stands in the file."""

    users: tuple[UserPattern, ...]
    clusters: tuple[ClusterPattern, ...]
    targets: TargetPatterns
    times: tuple[RuleTimes, ...] = ()


def _has_mark(kind: Any) -> bool:
    return get_origin(kind) is Annotated


def _mark_hook(kind: Any) -> Hook:
    plain, mark = get_args(kind)[:2]
    if isinstance(mark, Check):
        return lambda value, _: mark.read(value)
    read_list = _converter.get_structure_hook(plain)

    def non_empty(value: Any, _: Any) -> Any:
        if value == []:
            raise BadValue(value, _NON_EMPTY_LIST)
        return read_list(value, plain)

    return non_empty


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _tuple_hook(kind: Any) -> Hook:
    elements = GenericAlias(list, get_args(kind)[:1])
    read = _converter.get_structure_hook(elements)

    def strict(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise BadValue(value, _LIST)
        return tuple(read(value, elements))

    return strict


def _class_hook(kind: Any) -> Hook:
    hidden: dict[str, Any] = {
        a.name: override(omit=True)
        for a in attrs.fields(kind)
        if a.name not in key_names(kind)
    }
    read = make_dict_structure_fn(
        kind, _converter, _cattrs_forbid_extra_keys=True, **hidden
    )

    def strict(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise BadValue(value, _TABLE)
        return read(value, kind)

    return strict


def _allow_list(value: Any, _: Any) -> TargetPatterns:
    return TargetPatterns(_converter.structure(value, tuple[Target, ...]))


def _allow_rule(value: Any, _: Any) -> AllowRule:
    table = _converter.structure(value, _AllowTable)
    return AllowRule(table.users, table.clusters, table.targets, table.times)


def _resolve_table(value: Any, _: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise BadValue(value, _TABLE)
    pins = _converter.structure(value, dict[PinnedName, PinnedAddress])
    if len(pins) < len(value):
        raise BadValue(value, "each name once, whatever its case")
    return MappingProxyType(pins)


_converter = cattrs.Converter(detailed_validation=True)
_converter.register_structure_hook_factory(attrs.has, _class_hook)
_converter.register_structure_hook_factory(_is_tuple, _tuple_hook)
_converter.register_structure_hook_factory(_has_mark, _mark_hook)
_converter.register_structure_hook(TargetPatterns, _allow_list)
_converter.register_structure_hook(AllowRule, _allow_rule)
_converter.register_structure_hook_func(
    lambda kind: kind == Mapping[str, str], _resolve_table
)
