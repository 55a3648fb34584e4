"""Config files for tests, written to a directory and loaded."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.config import load_agent, load_proxy
from rtunnel.errors import ConfigError

PROXY = """
cluster = "a"
name = "proxy-1"
state = "var"
close_on_change = true

[ssh]
listen = ["tcp:3023", "unix:/run/rtunnel/ssh"]
public = ["lb.example.com", "tls:lb.example.com:443"]
advertise = ["[2001:DB8::1]:2022"]
authorized_keys = "/etc/rtunnel/people"

[web]
listen = []

[registry]
url = "sqlite:/var/lib/rtunnel/registry.db"

[peer]
listen = ["tcp:3024"]
advertise = ["10.0.0.1:3024"]

[tunnel]
heartbeat = 2.5
missed = 4

[limits]
login_grace = 10
unauthenticated = 50
unauthenticated_per_source = 5
penalties = false
penalties_exempt = ["10.0.0.0/8", "2001:db8::1"]
channels_per_connection = 20
sessions_outlive_certificates = true

[drain]
timeout = 0

[local]
allow = ["*.lan:22"]

[revocation]
krl = ["revoked.krl", "/etc/ssh/revoked"]

[audit]
path = "log/audit.jsonl"

[[allow]]
users = ["ops", "team-*"]
clusters = ["b"]
targets = ["*:22", "10.0.0.0/8:8000-8100"]
times = ["mon-fri 08:00-18:00", "sat 22:00-06:00 Europe/Berlin"]

[[allow]]
users = ["*"]
clusters = ["*"]
targets = []
"""


class LoadingTestCase(SynchronousTestCase):
    """A directory to put config files in."""

    def setUp(self) -> None:
        """Make the directory."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def write(self, content: str | bytes, name: str = "some.toml") -> Path:
        """Write a file and return where it is."""
        path = self.directory / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def problems(self, content: str | bytes, agent: bool = False) -> list[str]:
        """Load a file that is wrong; its problems, without the name of the file."""
        path = self.write(content)
        load = load_agent if agent else load_proxy
        error = self.assertRaises(ConfigError, load, path)
        for problem in error.problems:
            self.assertTrue(problem.startswith(f"{path}: "), problem)
            self.assertTrue(problem.isprintable(), problem)
        self.assertEqual(str(error), "\n".join(error.problems))
        return [problem.removeprefix(f"{path}: ") for problem in error.problems]
