"""From the ``url`` of a config file to a registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rtunnel.errors import ConfigError
from rtunnel.registry.interface import Registry
from rtunnel.registry.memory import MemoryRegistry
from rtunnel.registry.sqlite import SqliteRegistry, ThreadWorker


def open_registry(
    url: str,
    base_directory: Path,
    reactor: Any,
    now: Callable[[], float],
) -> Registry:
    """Make the registry that ``url`` names; nothing is opened before its ``start``.

    :param url: ``memory:`` or ``sqlite:PATH``.
    :param base_directory: what a relative PATH is relative to.
    :param reactor: clock, and what worker threads report to.
    :param now: wall clock, seconds since the epoch.
    :raises ConfigError: when there is no such registry.
    """
    kind, _, rest = url.partition(":")
    if url == "memory:":
        return MemoryRegistry(reactor)
    if kind == "sqlite" and rest:
        path = base_directory / rest
        return SqliteRegistry(path, reactor, ThreadWorker(reactor), now)
    raise ConfigError(
        [f"registry.url: {url!r} is none of the registries memory: and sqlite:PATH"]
    )
