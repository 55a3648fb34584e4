"""A state directory filled: every file of it, or none.

A key without its certificate, or a config file without either, only misleads whoever
finds it later; in the place of older ones they would be neither the old nor the new. No
file system puts several files in place at once. So they are first written whole beside
their places, and then a marker says that all of them are there: ``.filling.MARK``, and
``.NAME.MARK`` for each file. From the marker on they are what counts, and whoever comes
first finishes what a crash interrupted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from rtunnel.errors import KeyFileError
from rtunnel.ownership import give_to_owner
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

#: What the name of the marker begins with.
_MARKER = ".filling."


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

    Files that a process was putting there when it was killed are there then.

    :raises KeyFileError: naming each that is in the way, or where nothing can be made.
    """
    finish_filling(directory)
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
    names = [file.name for file in files]
    check_fillable(directory, names, force=force)
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    make_directory(directory)
    for file in files:
        discard_unfinished(directory, file.name)
    mark = secrets.token_hex(8)
    marker = directory / f"{_MARKER}{mark}"
    placed: list[Path] = []
    try:
        for file in files:
            _write(directory / f".{file.name}.{mark}", file)
        with _held(marker, os.O_CREAT | os.O_EXCL):
            sync_directory(directory)
            for file in files:
                target = directory / file.name
                if os.path.lexists(target):
                    os.link(target, directory / f".{file.name}.{mark}.old")
                placed.append(target)
                os.replace(directory / f".{file.name}.{mark}", target)
            sync_directory(directory)
    except BaseException as error:
        # First of all: without it nobody goes on with what is taken back here.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(marker)
        for target in placed:
            old = directory / f".{target.name}.{mark}.old"
            with contextlib.suppress(FileNotFoundError):
                if old.exists():
                    os.replace(old, target)
                else:
                    os.unlink(target)
        _remove(directory, names, mark)
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()
        if isinstance(error, OSError):
            raise KeyFileError(
                f"{directory}: cannot be filled: {error.strerror}"
            ) from None
        raise
    _remove(directory, names, mark)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(marker)


def finish_filling(directory: Path) -> None:
    """Put files in place that a process had written when it was killed.

    What another process puts in place just now is left to it.

    :raises KeyFileError: when they cannot be put there.
    """
    try:
        names = os.listdir(directory)
    except OSError:
        # Whoever comes to read or to write will say so.
        return
    for mark in [name[len(_MARKER) :] for name in names if name.startswith(_MARKER)]:
        marker = directory / f"{_MARKER}{mark}"
        end = f".{mark}"
        written = [name for name in names if name.endswith((end, f"{end}.old"))]
        # Those that are new or old, and not the marker itself.
        of = {name.partition(end)[0][1:] for name in written} - {_MARKER.strip(".")}
        try:
            # Somebody does it just now, or has done it.
            at_work = contextlib.suppress(BlockingIOError, FileNotFoundError)
            with at_work, _held(marker):
                for name in of:
                    with contextlib.suppress(FileNotFoundError):
                        os.replace(directory / f".{name}{end}", directory / name)
                sync_directory(directory)
                _remove(directory, of, mark)
                os.unlink(marker)
        except OSError as error:
            raise KeyFileError(
                f"{directory}: new files that were being put there when a process was "
                f"killed cannot be put in place: {error.strerror}"
            ) from None


@contextlib.contextmanager
def _held(marker: Path, flags: int = 0) -> Iterator[None]:
    """Let nobody else go by a marker.

    :raises BlockingIOError: when somebody does.
    """
    descriptor = os.open(
        marker, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600
    )
    try:
        if flags:
            give_to_owner(descriptor, marker)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, file: NewFile) -> None:
    if file.private:
        write_private(path, file.content)
    else:
        write_public(path, file.content.decode("utf-8"))


def _remove(directory: Path, names: Iterable[str], mark: str) -> None:
    """Remove what stood beside the files while they were written."""
    for name in names:
        for end in ("", ".old"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(directory / f".{name}.{mark}{end}")
