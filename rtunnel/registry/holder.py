"""Which process holds a proxy record, and whether that process still exists.

Pure: it reads the operating system, and no Twisted. A proxy that crashed has left its
record behind. When it can be shown that the process is gone the record may be taken
over at once; when nothing can be shown, only its time to live decides.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

import attrs

_PROC = Path("/proc")


@attrs.frozen
class Holder:
    """A process, named so that no other process is ever mistaken for it.

    :param place: where a process id means something: host name, and on Linux the boot
        and the PID namespace (containers may share a host name).
    :param pid: process id there.
    :param began: when the process began, in the kernel's own count; "" if not known.
        It tells a process from a later one that was given the same id.
    :param nonce: tells apart holders inside one process.
    """

    place: str
    pid: int
    began: str
    nonce: str

    @classmethod
    def of_this_process(cls) -> Holder:
        """A new holder in the calling process."""
        pid = os.getpid()
        return cls(_this_place(), pid, _began(pid), secrets.token_hex(8))

    def is_alive(self) -> bool | None:
        """Whether the process exists; None when that cannot be seen from here."""
        host, _, rest = self.place.partition("/")
        our_host, _, our_rest = _this_place().partition("/")
        if host != our_host:
            return None
        if rest != our_rest:
            boot, our_boot = rest.partition("/")[0], our_rest.partition("/")[0]
            # Another boot of this host ended all its processes. Another PID namespace
            # of this boot is a container that we cannot look into.
            return False if boot and our_boot and boot != our_boot else None
        if not _exists(self.pid):
            return False
        return self.began == _began(self.pid)


def _this_place() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return f"{socket.gethostname()}/"
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _began(pid: int) -> str:
    """Field 22 of proc_pid_stat(5); the name before it may hold blanks and ')'."""
    try:
        status = (_PROC / str(pid) / "stat").read_text("ascii", "replace")
        return status.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
