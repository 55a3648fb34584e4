"""A state directory filled: every file of it, or none.

A key without its certificate, or a config file without either, only misleads whoever
finds it later.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs

from rtunnel.errors import KeyFileError
from rtunnel.state_directory import (
    discard_unfinished,
    make_directory,
    refuse_existing,
    sync_directory,
    write_private,
    write_public,
)

#: Bytes that have to find room before anything is asked for. An agent's files take a
#: tenth of it, and so do a proxy's but for a long ``authorized_keys``.
ROOM = 64 * 1024


@attrs.frozen
class NewFile:
    """A file to be written.

    :param name: in the directory that is filled.
    :param private: readable for nobody else.
    """

    name: str
    content: bytes = attrs.field(repr=False)
    private: bool = False

    @classmethod
    def public(cls, name: str, text: str) -> NewFile:
        """A file that others may read."""
        return cls(name, text.encode("utf-8"))


def check_fillable(directory: Path, names: Sequence[str], *, force: bool) -> None:
    """Make sure, before much else is done, that files can be put there.

    :raises KeyFileError: naming each that is in the way, or where nothing can be made.
    """
    if not force:
        refuse_existing(directory / name for name in names)
    path = directory.absolute()
    there = next(each for each in (path, *path.parents) if os.path.exists(each))
    if not there.is_dir():
        raise KeyFileError(f"{there}: is not a directory; take another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise KeyFileError(
            f"{there}: nothing can be written there; take another directory"
        )
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(ROOM))
    except OSError as error:
        raise KeyFileError(
            f"{there}: nothing can be written there: {error.strerror}; make room, or "
            "take another directory"
        ) from None


def fill(directory: Path, files: Sequence[NewFile], *, force: bool) -> None:
    """Write files into a directory, which is made if need be.

    :param force: replace what is there.
    :raises KeyFileError: when one is there already, or cannot be written; then nothing
        has changed.
    """
    check_fillable(directory, [file.name for file in files], force=force)
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    make_directory(directory)
    for file in files:
        discard_unfinished(directory, file.name)
    mark = secrets.token_hex(8)
    placed: list[Path] = []
    try:
        for file in files:
            _write(directory / f".{file.name}.{mark}", file)
        for file in files:
            target = directory / file.name
            if os.path.lexists(target):
                os.link(target, directory / f".{file.name}.{mark}.old")
            placed.append(target)
            os.replace(directory / f".{file.name}.{mark}", target)
        sync_directory(directory)
    except BaseException as error:
        for target in placed:
            old = directory / f".{target.name}.{mark}.old"
            with contextlib.suppress(FileNotFoundError):
                if old.exists():
                    os.replace(old, target)
                else:
                    os.unlink(target)
        _remove(directory, files, mark)
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()
        if isinstance(error, OSError):
            raise KeyFileError(
                f"{directory}: cannot be filled: {error.strerror}"
            ) from None
        raise
    _remove(directory, files, mark)
    # What others were replacing when they were killed is replaced now.
    for file in files:
        for old in directory.glob(f".{glob.escape(file.name)}.*.old"):
            with contextlib.suppress(OSError):
                old.unlink()


def _write(path: Path, file: NewFile) -> None:
    if file.private:
        write_private(path, file.content)
    else:
        write_public(path, file.content.decode("utf-8"))


def _remove(directory: Path, files: Sequence[NewFile], mark: str) -> None:
    """Remove what stood beside the files while they were written."""
    for file in files:
        for end in ("", ".old"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(directory / f".{file.name}.{mark}{end}")
