"""The programs that these tests talk to: found, or the test skips or fails.

With ``RTUNNEL_REQUIRE_PEERS=1`` a peer that is not here fails the test; CI sets it.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NoReturn

from twisted.trial.unittest import SkipTest

#: Daemons are often not on the path of people who are not root.
_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def require_peer(name: str) -> str:
    """Return the absolute path of a program.

    :raises SkipTest: it is not here, and it need not be.
    :raises AssertionError: it is not here, and it must be.
    """
    path = shutil.which(name, path=_PATH)
    if path is None:
        _missing(f"there is no {name} here")
    return path


def require_sshd() -> str:
    """Return the absolute path of sshd, which has all that it needs to start.

    Root's confines those who have not logged in to an empty directory. Debian has its
    service make that one, so where the service has not run it is not there.

    :raises SkipTest: it is not here, and it need not be.
    :raises AssertionError: it is not here, and it must be.
    """
    path = require_peer("sshd")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return path


def require_newer_openssh() -> Path:
    """Return the directory of an OpenSSH that has ``mlkem768x25519-sha256``.

    It holds ``ssh``, ``ssh-keygen``, ``sshd`` and what that starts; ``.ci/peers
    install`` has put them there.

    :raises SkipTest: it is not here, and it need not be.
    :raises AssertionError: it is not here, and it must be.
    """
    peers = os.environ.get("RTUNNEL_PEERS") or Path.home() / ".cache/rtunnel-peers"
    directory = Path(peers, "openssh/bin").absolute()
    if not (directory / "sshd").exists():
        _missing(f"there is no {directory}/sshd; run: .ci/peers install")
    return directory


def require_module(name: str) -> Any:
    """Return a Python module that only tests need.

    :raises SkipTest: it is not here, and it need not be.
    :raises AssertionError: it is not here, and it must be.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        _missing(f"there is no Python module {name} here")


def require_network_namespaces() -> None:
    """Make sure that this user may make network namespaces, and drop packets in them.

    :raises SkipTest: no, and that is no fault.
    :raises AssertionError: no, and it must be possible.
    """
    for name in ("ip", "nft"):
        require_peer(name)
    if os.geteuid() != 0:
        _missing("network namespaces need root")
    tried = subprocess.run(
        [require_peer("unshare"), "--net", require_peer("nft"), "list", "ruleset"],
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        _missing(f"no network namespaces: {tried.stderr.strip()}")


def require_mount_namespaces() -> None:
    """Make sure that this user may mount something that nobody else sees.

    :raises SkipTest: no, and that is no fault.
    :raises AssertionError: no, and it must be possible.
    """
    if os.geteuid() != 0:
        _missing("mount namespaces need root")
    tried = subprocess.run(
        [
            *(require_peer("unshare"), "--mount"),
            *(require_peer("mount"), "-t", "tmpfs", "none", "/mnt"),
        ],
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        _missing(f"no mount namespaces: {tried.stderr.strip()}")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("RTUNNEL_REQUIRE_PEERS") == "1":
        raise AssertionError(f"{reason}, and RTUNNEL_REQUIRE_PEERS=1")
    raise SkipTest(reason)
