"""One OpenSSH key revocation list, read again whenever its file has changed."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.logger import Logger

from rtunnel.errors import ConfigError, RevocationListError
from rtunnel.wire.krl import MAX_KRL_LENGTH, KeyRevocationList


class KrlFile:
    """A key revocation list in a file.

    A file that cannot be read, or not as a list, leaves the last good one in force: a
    list that is half written must not let anybody in again. It says so once for each
    change of what is wrong.

    :param path: the file.
    :raises ConfigError: when there is no good list to begin with.
    :ivar failures: how many times a look found no good list.
    """

    _log = Logger()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failures = 0
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
        if problem != self._problem:
            self._problem = problem
            self._log.error(
                "the last good key revocation list stays in force: {problem}",
                problem=problem,
            )


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def _sentence(error: OSError | RevocationListError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
