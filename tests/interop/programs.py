"""The programs of ours, as processes: run as users run them, and asked how they are."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cli.running import rtunnel as carry_out
from tests.interop.processes import Process, free_port, wait_until


def rtunnel(*arguments: str | Path) -> list[str | Path]:
    """Return the command line of the ``rtunnel`` command, installed or not."""
    script = "from rtunnel.cli.main import main; main()"
    return [sys.executable, "-c", script, *arguments]


_one_at_a_time = threading.Lock()


def rtunnel_here(*arguments: str | Path) -> str:
    """Carry out a command line of ``rtunnel`` in this process; what it printed.

    For what a test needs and does not look at: the start of a Python takes longer than
    what most commands do.

    :raises AssertionError: when it fails.
    """
    # Standard output is the process's: two threads would take each other's words.
    with _one_at_a_time:
        outcome = carry_out(*arguments)
    assert not outcome.code, f"rtunnel {' '.join(map(str, arguments))}: {outcome.err}"
    return outcome.out


def twistd(plugin: str, config: Path) -> list[str | Path]:
    """Return the command line that runs one of our plugins in the foreground."""
    program = Path(sys.executable).with_name("twistd")
    return [program, "-n", "--pidfile=", plugin, "--config", config]


def settings(values: Iterable[str]) -> list[str]:
    """Return ``KEY=VALUE`` strings as ``--set`` options."""
    return [word for value in values for word in ("--set", value)]


class Program:
    """A proxy or an agent: its state directory and its process.

    :ivar starts: every process that it was, the last one last.
    :ivar wrapper: words in front of its command from the next start on.
    :ivar environment: variables that it has from the next start on.
    :ivar options: of the plugin, from the next start on.
    """

    def __init__(self, name: str, directory: Path, namespace: str = "") -> None:
        self.name = name
        self.state = directory / name
        self.starts: list[Process] = []
        self.wrapper: Sequence[str | Path] = ()
        self.environment: Mapping[str, str] = {}
        self.options: Sequence[str] = ()
        self._namespace = namespace

    @property
    def process(self) -> Process:
        """The process, which has been started."""
        assert self.starts, f"{self.name} was never started"
        return self.starts[-1]

    def _start(self, plugin: str, config: str) -> None:
        self.starts.append(
            Process(
                self.name,
                [*self.wrapper, *twistd(plugin, self.state / config), *self.options],
                self.state.parent,
                namespace=self._namespace,
                extra_environment=self.environment,
            )
        )


class Agent(Program):
    """One agent of cluster b."""

    def start(self) -> None:
        """Start the process."""
        self._start("rtunnel-agent", "agent.toml")


class Proxy(Program):
    """One proxy, and the questions that it answers.

    :param address: where it listens.
    """

    def __init__(self, name: str, directory: Path, address: str) -> None:
        super().__init__(name, directory)
        self.address = address
        self.port = free_port()
        self.web_port = free_port()
        self.tls_port = free_port()

    def settings(self, *, advertise: bool, tls: Path | None = None) -> list[str]:
        """Return the ``KEY=VALUE`` strings that make its ``proxy.toml``.

        :param tls: where key and certificate for a TLS listener are; see
            :meth:`tests.interop.tls.TlsAuthority.sign`.
        """
        listen = [f"tcp:{self.port}:interface={self.address}"]
        if tls is not None:
            listen.append(
                f"ssl:{self.tls_port}:interface={self.address}:"
                f"privateKey={tls}.key:certKey={tls}.pem"
            )
        values = [
            f'name="{self.name}"',
            f"ssh.listen={json.dumps(listen)}",
            f'web.listen=["tcp:{self.web_port}:interface={self.address}"]',
            'allow=[{users=["ops"], clusters=["*"], targets=["*:*"]}]',
        ]
        if advertise:
            values.append(f'ssh.advertise=["{self.address}:{self.port}"]')
        return values

    def start(self) -> None:
        """Start the process; see :meth:`wait_ready`."""
        self._start("rtunnel-proxy", "proxy.toml")

    def wait_ready(self) -> None:
        """Wait until it accepts connections and answers questions."""
        self.process.wait_for_port(self.port)
        wait_until(
            lambda: self.admin_answers,
            10,
            lambda: f"status of {self.name}\n{self.process.tail()}",
        )

    @property
    def admin_answers(self) -> bool:
        """Whether the admin socket answers."""
        try:
            return "proxy" in self.status()
        except OSError:
            return False

    def status(self) -> dict[str, Any]:
        """Return the document that ``rtunnel status --json`` prints.

        Asked at the admin socket itself: a process for each question would take longer
        than much of what is measured here.

        :raises OSError: when nothing answers.
        """
        connection = http.client.HTTPConnection("admin", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(5)
        try:
            connection.sock.connect(str(self.state / "admin.sock"))
            connection.request("GET", "/v1/status")
            document: dict[str, Any] = json.loads(connection.getresponse().read())
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        return document

    @property
    def id(self) -> str:
        """Its UUID."""
        return str(self.status()["proxy"]["id"])

    def tunnels(self, cluster: str = "b") -> list[dict[str, Any]]:
        """Return the tunnels of a cluster that end at this very proxy."""
        document = self.status()
        return [
            tunnel
            for each in document["clusters"]
            if each["name"] == cluster
            for tunnel in each["tunnels"]
            if tunnel["proxy"] == document["proxy"]["id"]
        ]

    def audit(self) -> list[dict[str, Any]]:
        """Return the audit events, oldest first."""
        path = self.state / "audit.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]
