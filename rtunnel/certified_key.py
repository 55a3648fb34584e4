"""A key with its certificate, put in the place of another pair.

A fresh key and its certificate are two files that have to change together, and no file
system does that. So the new pair is first written whole beside the old one, the
certificate last: ``FILE.new``, ``FILE.new.pub``, ``FILE.new-cert.pub``. From then on it
is the pair that counts, and is moved into place one file after the other, the
certificate last again. Whoever reads a pair first finishes what a crash interrupted.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from rtunnel.errors import KeyFileError
from rtunnel.state_directory import (
    certificate_path,
    public_path,
    sync_directory,
    write_key_pair,
    write_public,
)
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey


def replace_certificate(path: Path, certificate: Certificate, comment: str) -> None:
    """Put a certificate for the same key in place, in one step.

    :param path: of the private key.
    :raises KeyFileError: when it cannot be written; the old one is then still there.
    """
    line = certificate.to_openssh(comment) + "\n"
    write_public(certificate_path(path), line, force=True)


def replace_pair(
    path: Path, key: PrivateKey, certificate: Certificate, comment: str
) -> None:
    """Put a fresh key and its certificate in place, both or neither.

    :param path: of the private key.
    :raises KeyFileError: when they cannot be written; the old pair is then still there.
    """
    finish_replacing(path)
    new = _beside(path)
    write_key_pair(new, key, comment, force=True)
    replace_certificate(new, certificate, comment)
    finish_replacing(path)


def finish_replacing(path: Path) -> None:
    """Move a pair that lies beside this one into place; remove it if it never became
    whole.

    :param path: of the private key.
    :raises KeyFileError: when that is not allowed.
    """
    new = _beside(path)
    if not certificate_path(new).exists():
        for left in (new, public_path(new)):
            # One that cannot be removed is in nobody's way.
            with contextlib.suppress(OSError):
                left.unlink()
        return
    try:
        for source, target in (
            (new, path),
            (public_path(new), public_path(path)),
            (certificate_path(new), certificate_path(path)),
        ):
            with contextlib.suppress(FileNotFoundError):
                os.replace(source, target)
        sync_directory(path.parent)
    except OSError as error:
        raise KeyFileError(
            f"{path}: the new key and certificate beside it cannot be put in its "
            f"place: {error.strerror}"
        ) from None


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".new")
