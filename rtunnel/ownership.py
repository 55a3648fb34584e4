"""Whose the files are that root makes.

A command that is run as root, in the state directory of a proxy that runs as another
user, must not leave files there that the proxy cannot open.
"""

from __future__ import annotations

import os
from pathlib import Path


def give_to_owner(descriptor: int, path: Path) -> None:
    """Give a file that was just made to the owner of its directory, if we are root.

    :param descriptor: of the file, open.
    :param path: of the file.
    :raises OSError: when that is not possible.
    """
    if os.geteuid() != 0:
        return
    owner = os.stat(path.parent)
    if owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
