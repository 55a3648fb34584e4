"""Crashes between two changes of a directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

#: What changes the names in a directory.
CHANGES = ("link", "rename", "replace", "unlink")


class Crash(BaseException):
    """The machine stops here."""


@contextmanager
def crash_before(number: int) -> Iterator[None]:
    """Let the process crash before a change of names, counted from 0.

    Everything that was done before stays, and nothing after it is done.
    """
    left = number

    def counting(change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            nonlocal left
            if left <= 0:
                raise Crash
            left -= 1
            return change(*args, **more)

        return counted

    changes: Any = {name: counting(getattr(os, name)) for name in CHANGES}
    with patch.multiple(os, **changes):
        yield


def every_crash(action: Callable[[], object]) -> Iterator[int]:
    """Crash an action before each of its changes, one after the other.

    The caller puts things back as they were before it goes on.
    """
    number = 0
    while True:
        try:
            with crash_before(number):
                action()
        except Crash:
            yield number
            number += 1
        else:
            return
