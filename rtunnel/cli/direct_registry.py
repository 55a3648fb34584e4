"""The registry without a proxy: for verbs that also work while none is running here.

What a proxy does with its registry is written for a :class:`Registry`; a command that
finds no proxy to ask does the very same with the SQLite file itself, blocking. Other
proxies that share the file hear of it as of any other change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import attrs

from rtunnel.admin_client import ProxyNotRunning
from rtunnel.audit.events import Event
from rtunnel.audit.log import AuditLog
from rtunnel.config import ProxyConfig, load_proxy
from rtunnel.errors import RegistryError
from rtunnel.registry.interface import Entry, Registry
from rtunnel.registry.sqlite_file import SqliteFile
from rtunnel.state_directory import (
    ADMIN_SOCKET,
    HOST_KEY,
    PROXY_CONFIG,
    certificate_path,
    load_certificate,
)

_T = TypeVar("_T")


@attrs.frozen
class WithoutProxy:
    """What a command has in the place of a proxy that is not running.

    :param record: writes to its audit file.
    :param proxy_id: its id.
    :param directory: its state directory.
    """

    registry: Registry
    record: Callable[[Event], bool]
    proxy_id: str
    directory: Path


def use_registry(
    config: ProxyConfig, use: Callable[[Registry], Coroutine[Any, Any, _T]]
) -> _T:
    """Do something with the registry of a proxy that is not running.

    :param config: of that proxy.
    :param use: may wait for nothing but the registry.
    :raises RegistryError: when the registry cannot be used without the proxy, or not at
        all.
    """
    kind, _, path = config.registry.url.partition(":")
    if kind != "sqlite":
        raise RegistryError(
            f"the proxy is not running, and its registry {kind}: cannot be used "
            "without it; start the proxy first"
        )
    registry = DirectRegistry(SqliteFile(config.state / path, time.time))
    try:
        return _run(use(registry))
    finally:
        _run(registry.close())


def ask_or_use(
    state: Path,
    ask_proxy: Callable[[Path], _T],
    use: Callable[[WithoutProxy], Coroutine[Any, Any, _T]],
) -> _T:
    """Ask the running proxy; do what it would do, while it is not running.

    :param state: its state directory.
    :param ask_proxy: gets the path of its admin socket.
    :param use: gets what the proxy would have.
    :raises RtunnelError: when the proxy refuses, or cannot be asked.
    :raises RegistryError: when the registry cannot be used without the proxy, or not at
        all.
    """
    try:
        return ask_proxy(state / ADMIN_SOCKET)
    except ProxyNotRunning:
        return _use_without_proxy(state, use)


def _use_without_proxy(
    state: Path,
    use: Callable[[WithoutProxy], Coroutine[Any, Any, _T]],
) -> _T:
    config = load_proxy(state / PROXY_CONFIG)
    certificate = load_certificate(certificate_path(config.state / HOST_KEY))
    proxy_id = certificate.principals[0]
    audit = AuditLog(config.audit.path, time.time, proxy_id)
    try:
        return use_registry(
            config,
            lambda registry: use(
                WithoutProxy(registry, audit.record, proxy_id, config.state)
            ),
        )
    finally:
        audit.close()


class DirectRegistry:
    """A :class:`Registry` whose coroutines never wait, but block."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def start(self) -> None:
        """Open the file."""
        self._file.open()

    async def close(self) -> None:
        """Close the file."""
        self._file.close()

    async def get(self, key: str) -> Entry | None:
        """See :class:`Registry`, as for all below."""
        return self._file.get(key)

    async def list(self, prefix: str) -> tuple[Entry, ...]:
        return self._file.list(prefix)

    async def put(self, key: str, value: str, ttl: float | None = None) -> Entry:
        return self._file.put(key, value, ttl)

    async def compare_and_swap(
        self, key: str, value: str, revision: int | None, ttl: float | None = None
    ) -> Entry | None:
        return self._file.compare_and_swap(key, value, revision, ttl)

    async def delete(self, key: str, revision: int | None = None) -> bool:
        return self._file.delete(key, revision)

    def watch(self, prefix: str, callback: Callable[[], None]) -> Callable[[], None]:
        """A command does not stay to hear of changes."""
        raise RegistryError("a registry that is used directly cannot be watched")


def _run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        result: _T = stopped.value
        return result
    coroutine.close()
    raise RegistryError("a direct registry was asked to wait")
