"""A real HTTP proxy, as companies have them."""

from __future__ import annotations

from pathlib import Path

from tests.interop.peers import require_peer
from tests.interop.processes import LOOPBACK, Process, free_port

_CONFIG = """\
Port {port}
Listen {address}
Timeout 600
MaxClients 100
Allow {address}
BasicAuth {user} {password}
LogLevel Connect
"""


class Tinyproxy:
    """tinyproxy on 127.0.0.1, for those who know the password.

    :param directory: where its files go; made if need be.
    :param hosts: instead of ``/etc/hosts``; see :func:`with_hosts`.
    """

    user, password = "agent", "s3cret"

    def __init__(self, directory: Path, hosts: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        config = directory / "tinyproxy.conf"
        config.write_text(
            _CONFIG.format(
                port=self.port,
                address=LOOPBACK,
                user=self.user,
                password=self.password,
            )
        )
        self.process = Process(
            "tinyproxy",
            [*with_hosts(hosts), require_peer("tinyproxy"), "-d", "-c", config],
            directory,
        )
        self.process.wait_for_port(self.port)

    @property
    def url(self) -> str:
        """For ``HTTPS_PROXY``."""
        return f"http://{self.user}:{self.password}@{LOOPBACK}:{self.port}"

    def requests(self) -> list[str]:
        """What it was asked for so far, as ``CONNECT lb.example.com:443 HTTP/1.1``."""
        return [
            line.partition("): ")[2]
            for line in self.process.output().splitlines()
            if "Request (" in line
        ]


def with_hosts(hosts: Path) -> list[str | Path]:
    """Words in front of a command that let it find names in another ``/etc/hosts``.

    Needs :func:`~tests.interop.peers.require_mount_namespaces`.
    """
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return [
        *(require_peer("unshare"), "--mount", require_peer("sh"), "-c"),
        *(script, hosts),
    ]
