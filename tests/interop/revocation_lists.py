"""Key revocation lists of OpenSSH, as an operator makes them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from tests.interop.peers import require_peer
from tests.interop.processes import run


def empty_krl() -> Path:
    """An empty list, in a directory of its own that goes when this process ends."""
    directory = Path(tempfile.mkdtemp(prefix="rtunnel-krl-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    krl = directory / "revoked.krl"
    run([require_peer("ssh-keygen"), "-q", "-k", "-f", krl])
    return krl
