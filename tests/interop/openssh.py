"""The stock OpenSSH programs, with a configuration of their own.

Nothing of the current user's ``~/.ssh`` is read or written.
"""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.interop.peers import require_peer
from tests.interop.processes import environment

_HOSTS = """\
{jumps}
Host b *.b *.a
    ProxyJump lb
    User {user}
    Port {target_port}
Host plain
    HostName 127.0.0.1
    User {user}
    Port {target_port}
"""

#: How the tests log in and whom they believe, whatever the hosts.
_GENERAL = """\
Host *
    IdentityFile {directory}/id
    {certificate}
    IdentitiesOnly yes
    BatchMode yes
    StrictHostKeyChecking yes
    UserKnownHostsFile {directory}/known_hosts
    GlobalKnownHostsFile /dev/null
    ConnectTimeout 15
"""

_JUMP = """\
Host {name}
    HostName {address}
    Port {port}
    User anybody
"""


class OpenSSH:
    """ssh, scp, sftp and rsync as one person uses them.

    Hosts of the clusters ``a`` and ``b`` are reached through ``lb``; ``plain`` is the
    target's own sshd, with nothing of ours in between.

    :param directory: holds ``id``, its certificate and ``known_hosts``.
    :param jumps: name and port of the load balancer (``lb``) and of each proxy.
    :param user: account at the target.
    :param target_port: the port of sshd at the target.
    :param certificate: file of the user certificate, None to show the bare key.
    :param address: where balancer and proxies listen.
    """

    def __init__(
        self,
        directory: Path,
        *,
        jumps: Mapping[str, int],
        user: str,
        target_port: int,
        certificate: Path | None,
        address: str,
    ) -> None:
        self.directory = directory
        self._programs: Path | None = None
        self._config = directory / f"config-{'certificate' if certificate else 'key'}"
        self._general = _GENERAL.format(
            directory=directory,
            certificate=f"CertificateFile {certificate}" if certificate else "",
        )
        hosts = _HOSTS.format(
            jumps="".join(
                _JUMP.format(name=name, address=address, port=port)
                for name, port in jumps.items()
            ),
            user=user,
            target_port=target_port,
        )
        self._config.write_text(hosts + self._general)

    def of(self, programs: Path | None) -> OpenSSH:
        """Return the same person with the ssh of another directory.

        :param programs: the directory; None is the system's ssh.
        """
        other = copy.copy(self)
        other._programs = programs
        return other

    def use_hosts(self, hosts: str) -> None:
        """Replace the ``Host`` blocks of the configuration.

        :param hosts: for instance what ``rtunnel ssh-config`` prints.
        """
        self._config.write_text(hosts + "\n" + self._general)

    def command(self, program: str, *arguments: str | Path) -> list[str]:
        """Return the command line of ssh, scp, sftp or rsync with our configuration."""
        own = self._programs
        path = str(own / program) if own is not None else require_peer(program)
        if program == "rsync":
            remote_shell = f"{require_peer('ssh')} -F {self._config}"
            options = ["-e", remote_shell]
        else:
            options = ["-F", str(self._config)]
        return [path, *options, *map(str, arguments)]

    def run(
        self,
        program: str,
        *arguments: str | Path,
        data: bytes = b"",
        timeout: float = 30,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end.

        :param data: standard input, whole.
        :param timeout: seconds.
        """
        return subprocess.run(
            self.command(program, *arguments),
            input=data,
            capture_output=True,
            timeout=timeout,
            env=environment(),
            cwd=self.directory,
        )

    def output(
        self, *arguments: str | Path, data: bytes = b"", timeout: float = 30
    ) -> str:
        """Return what ssh prints.

        :raises AssertionError: when its exit code is not 0.
        """
        done = self.run("ssh", *arguments, data=data, timeout=timeout)
        if done.returncode:
            raise AssertionError(
                f"ssh {' '.join(map(str, arguments))}: exit code {done.returncode}: "
                f"{done.stderr.decode(errors='replace')}"
            )
        return done.stdout.decode()

    def start(
        self,
        *arguments: str | Path,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start ssh and return at once; the caller ends it."""
        with (self.directory / "ssh.log").open("ab") as log:
            return subprocess.Popen(
                self.command("ssh", *arguments),
                stdin=stdin,
                stdout=stdout,
                stderr=log,
                env=environment(),
                cwd=self.directory,
            )
