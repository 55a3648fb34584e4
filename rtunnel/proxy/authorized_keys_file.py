"""The people's keys file, read again whenever it has changed."""

from __future__ import annotations

from pathlib import Path

from twisted.logger import Logger

from rtunnel.trust.authorized_keys import AuthorizedKeys
from rtunnel.trust.identity import Identity, UserIdentity

#: Bytes of the file that are read; thousands of keys fit.
MAX_SIZE = 4 * 1024 * 1024


class AuthorizedKeysFile:
    """An ``authorized_keys`` file.

    A file that cannot be read lets nobody in, and says so once for each change of
    what is wrong.
    """

    _log = Logger()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys = AuthorizedKeys.parse("")
        self._problem: str | None = None

    def read(self) -> AuthorizedKeys:
        """The keys as they are in the file now."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            # No file is no keys, as for sshd: certificates may be all that is used.
            self._stamp, self._keys = None, AuthorizedKeys.parse("")
            self._problem = None
            return self._keys
        except OSError as error:
            return self._unreadable(error.strerror or str(error))
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if stamp == self._stamp:
            return self._keys
        if stat.st_size > MAX_SIZE:
            return self._unreadable(f"{stat.st_size} bytes; {MAX_SIZE} is the limit")
        try:
            text = self._path.read_text("utf-8", "replace")
        except OSError as error:
            return self._unreadable(error.strerror or str(error))
        self._stamp, self._problem = stamp, None
        self._keys = AuthorizedKeys.parse(text)
        for problem in self._keys.problems:
            self._log.warn("{path}: {problem}", path=str(self._path), problem=problem)
        return self._keys

    def reason_against(self, identity: Identity, now: float) -> str | None:
        """Why somebody who was let in by the file would not be now; see
        :meth:`AuthorizedKeys.reason_against`.

        A file that cannot be read says nothing against those who are there.

        :param now: POSIX time.
        """
        if not isinstance(identity, UserIdentity) or identity.key is None:
            return None
        keys = self.read()
        return None if self._problem else keys.reason_against(identity, now)

    def _unreadable(self, problem: str) -> AuthorizedKeys:
        if problem != self._problem:
            self._problem = problem
            self._log.error(
                "{path} cannot be used, nobody in it can log in: {problem}",
                path=str(self._path),
                problem=problem,
            )
        self._stamp, self._keys = None, AuthorizedKeys.parse("")
        return self._keys
