"""What all systems share: a directory, keys, the target, an sshd beside it."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.interop.peers import require_sshd
from tests.interop.processes import Process, free_port, run

#: Both ends of everything that is compared use it.
CIPHER = "aes128-gcm@openssh.com"

_SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {authorized}
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 2000:30:4000
MaxSessions 1000
LoginGraceTime 120
Ciphers {cipher}
"""

#: For every ssh that is started: nobody's own configuration takes part.
_SSH = """\
Host *
    User {user}
    IdentityFile {directory}/id
    IdentitiesOnly yes
    BatchMode yes
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    GlobalKnownHostsFile /dev/null
    LogLevel ERROR
    Ciphers {cipher}
    ExitOnForwardFailure yes
"""


class Place:
    """The directory of a run, and every process in it.

    :ivar user: who logs in at every sshd.
    :ivar key: what with.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rtunnel-bench-"))
        self.user = getpass.getuser()
        self.key = self.make_key("id")
        self._processes: list[Process] = []
        try:
            self.target_port = free_port()
            self.start(
                "target", [sys.executable, "-m", "benchmarks.target", self.target_port]
            ).wait_for_port(self.target_port)
            self.inner_port = self.start_sshd("inner-sshd")[0]
        except BaseException:
            self.close()
            raise

    def make_key(self, name: str) -> Path:
        """An Ed25519 key pair."""
        path = self.directory / name
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path])
        return path

    def start(self, name: str, command: Sequence[object]) -> Process:
        """Start a process that :meth:`close` will end."""
        words = [str(word) for word in command]
        words[0] = shutil.which(words[0]) or words[0]
        process = Process(name, words, self.directory)
        self._processes.append(process)
        return process

    def start_sshd(self, name: str) -> tuple[int, Process]:
        """An sshd of our own, and its port."""
        directory = self.directory / name
        directory.mkdir()
        self.make_key(f"{name}/host_key")
        port = free_port()
        config = directory / "sshd_config"
        config.write_text(
            _SSHD.format(
                port=port,
                directory=directory,
                authorized=self.key.with_suffix(".pub"),
                cipher=CIPHER,
            )
        )
        command: list[str | Path] = [require_sshd(), "-D", "-e", "-f", config]
        # OpenSSH 9.8 and later; one address makes every connection here.
        penalties = ["-o", "PerSourcePenalties=no"]
        if subprocess.run([*command, *penalties, "-t"], capture_output=True).returncode:
            penalties = []
        process = self.start(name, [*command, *penalties])
        process.wait_for_port(port)
        return port, process

    def ssh(self, hosts: str, name: str = "config") -> list[str]:
        """The start of an ssh command line.

        :param hosts: ``Host`` blocks of its configuration.
        :param name: file name for that.
        """
        config = self.directory / name
        general = _SSH.format(user=self.user, directory=self.directory, cipher=CIPHER)
        config.write_text(hosts + general)
        return ["ssh", "-F", str(config)]

    def forward(self, name: str, command: Sequence[object], port: int) -> Process:
        """Start an ssh that listens on ``port``, and wait until it leads somewhere."""
        process = self.start(name, command)
        process.wait_for_port(port)
        return process

    def close(self) -> None:
        """End every process and remove every file."""
        for process in reversed(self._processes):
            process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
