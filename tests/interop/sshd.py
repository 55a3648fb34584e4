"""A real OpenSSH server, the target at the agent's side."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path

from tests.interop.peers import require_peer, require_sshd
from tests.interop.processes import Process, free_port, run

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {directory}/authorized_keys
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM {pam}
UseDNS no
PrintMotd no
MaxStartups 200
MaxSessions 200
AllowTcpForwarding yes
Subsystem sftp internal-sftp
"""


def make_key(path: Path, key_type: str = "ed25519") -> str:
    """Make a key pair with ssh-keygen and return the public line."""
    # The smallest RSA key that is accepted, as the larger ones take long to make.
    size = ["-b", "2048"] if key_type == "rsa" else []
    keygen = [require_peer("ssh-keygen"), "-q", "-t", key_type, *size]
    run([*keygen, "-N", "", "-f", path])
    return path.with_name(path.name + ".pub").read_text().strip()


class Sshd:
    """sshd on 127.0.0.1, which lets the current user in with one key.

    :param directory: where its files go; made if need be.
    :param authorized: the public key line of who may log in.
    :param namespace: the network namespace to run it in, "" for our own.
    :param settings: further lines of its configuration.
    :param programs: the directory of another OpenSSH than the system's; see
        :func:`~tests.interop.peers.require_newer_openssh`.
    """

    def __init__(
        self,
        directory: Path,
        authorized: str,
        namespace: str = "",
        settings: Sequence[str] = (),
        programs: Path | None = None,
    ) -> None:
        sshd = require_sshd()
        if programs is not None:
            sshd = str(programs / "sshd")
            for key in ("Session", "Auth"):
                path = programs / f"sshd-{key.lower()}"
                settings = [*settings, f"Sshd{key}Path {path}"]
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        self.user = getpass.getuser()
        self.host_key = make_key(directory / "host_key")
        self._authorized = directory / "authorized_keys"
        self.authorize(authorized)
        config = directory / "sshd_config"
        config.write_text(
            _CONFIG.format(
                port=self.port,
                directory=directory,
                pam="yes" if _account_is_locked(self.user) else "no",
            )
            + "".join(f"{line}\n" for line in settings)
        )
        self.process = Process(
            "sshd",
            [sshd, "-D", "-e", "-f", config],
            directory,
            namespace=namespace,
        )
        self.process.wait_for_port(self.port)

    def authorize(self, line: str) -> None:
        """Let one more key in.

        :param line: the public key line.
        """
        with self._authorized.open("a") as file:
            file.write(line.strip() + "\n")


def _account_is_locked(user: str) -> bool:
    """Without PAM sshd lets nobody in whose password field begins with "!"."""
    try:
        lines = Path("/etc/shadow").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{user}:!") for line in lines)
