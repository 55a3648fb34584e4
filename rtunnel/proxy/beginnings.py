"""Things that operators name by the beginning of an id. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from rtunnel.errors import RtunnelError
from rtunnel.naming import printable

_T = TypeVar("_T")

#: Characters of an id that a refusal repeats.
MAX_SHOWN = 64


def the_one(
    beginning: str,
    known: Iterable[_T],
    id_of: Callable[[_T], str],
    *,
    what: str,
    listed_by: str,
    refusal: Callable[[str], RtunnelError] = RtunnelError,
) -> _T:
    """The only thing whose id begins so.

    :param known: all that there are.
    :param what: one of them is, in a sentence: a noun with "a" or "an".
    :param listed_by: the command that shows them.
    :param refusal: makes the error of a sentence.
    :raises RtunnelError: when none or several of them do, or nothing is given.
    """
    if not beginning:
        raise refusal(
            f"the id of {what} is missing; `{listed_by}` shows those there are"
        )
    found = [each for each in known if id_of(each).startswith(beginning)]
    shown = printable(beginning, MAX_SHOWN)
    if not found:
        raise refusal(
            f"{shown} is not the id of {what}; `{listed_by}` shows those there are"
        )
    if len(found) > 1:
        raise refusal(
            f"{shown} is the beginning of {len(found)} ids; give more of the one that "
            f"you mean: `{listed_by}` shows them"
        )
    return found[0]
