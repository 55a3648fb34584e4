"""One OpenSSH key revocation list, read again whenever its file has changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from twisted.logger import Logger

from rtunnel.errors import ConfigError, RevocationListError
from rtunnel.wire.krl import MAX_KRL_LENGTH, KeyRevocationList

#: Looks in vain after which the log says so again: half an hour.
SAY_AGAIN: Final = 900


class KrlFile:
    """A key revocation list in a file.

    A file that cannot be read, or not as a list, leaves the last good one in force: a
    list that is half written must not let anybody in again, nor keep everybody out. It
    says so at each change of what is wrong, and again every :data:`SAY_AGAIN` looks.

    :param path: the file.
    :param failed: hears what is wrong, at each change of it.
    :raises ConfigError: when there is no good list to begin with.
    :ivar failures: how many times a look found no good list.
    """

    _log = Logger()

    def __init__(
        self, path: Path, failed: Callable[[str], object] = lambda problem: None
    ) -> None:
        self.path = path
        self.failures = 0
        self._tell = failed
        self._said = 0
        self._problem: str | None = None
        self._stamp: tuple[int, ...] | None = None
        try:
            self._list = self._read()
        except (OSError, RevocationListError) as error:
            raise ConfigError(
                [f"revocation.krl: {path} cannot be used: {_sentence(error)}"]
            ) from None

    @property
    def list(self) -> KeyRevocationList:
        """The newest good list."""
        return self._list

    @property
    def problem(self) -> str | None:
        """Why the list may be out of date; None when it is not."""
        return self._problem

    def check(self) -> bool:
        """Read the file if it has changed.

        :return: whether there is another list now.
        """
        try:
            if self._problem is None and _stamp(os.stat(self.path)) == self._stamp:
                return False
            read = self._read()
        except (OSError, RevocationListError) as error:
            self._failed(f"{self.path}: {_sentence(error)}")
            return False
        if self._problem is not None:
            self._problem = None
            self._log.info("{path} can be used again", path=str(self.path))
        changed = read != self._list
        self._list = read
        if changed:
            self._log.info(
                "read {path}, version {version}",
                path=str(self.path),
                version=read.version,
            )
        return changed

    def _read(self) -> KeyRevocationList:
        with open(self.path, "rb") as file:
            # Of the file that is read, before it is read: what comes later counts as a
            # change.
            stamp = _stamp(os.fstat(file.fileno()))
            data = file.read(MAX_KRL_LENGTH + 1)
        read = KeyRevocationList.from_bytes(data)
        self._stamp = stamp
        return read

    def _failed(self, problem: str) -> None:
        self.failures += 1
        is_news = problem != self._problem
        if is_news:
            self._problem = problem
            self._tell(problem)
        if is_news or self.failures - self._said >= SAY_AGAIN:
            self._said = self.failures
            self._log.error(
                "the last good key revocation list stays in force: {problem}",
                problem=problem,
            )


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def _sentence(error: OSError | RevocationListError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
