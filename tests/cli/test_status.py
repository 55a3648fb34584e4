"""``rtunnel ls``, ``rtunnel status`` and ``rtunnel drain``."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer

from rtunnel.cli import status as status_module
from rtunnel.cli.main import run
from rtunnel.state_directory import ADMIN_SOCKET
from tests.cli.running import CommandTestCase

STATUS = {
    "proxy": {"id": "p-1", "name": "proxy-1", "state": "active"},
    "proxies": [{"id": "p-1", "name": "proxy-1", "state": "active"}],
    "clusters": [
        {
            "name": "b",
            "online": True,
            "tunnels": [
                {
                    "proxy": "p-1",
                    "agent": "0123456789abcdef" * 2,
                    "since": "2026-01-01T00:00:00Z",
                    "rtt_seconds": 0.001,
                    "channels": 3,
                }
            ],
        },
        {"name": "c", "online": False, "tunnels": []},
    ],
}


class AdminSocket(UnixStreamServer):
    """Answers as a proxy does, and remembers what it was asked."""

    def __init__(self, path: Path, document: object) -> None:
        self.document = document
        #: What a POST is answered with.
        self.answer: object = {}
        self.asked: list[str] = []
        super().__init__(str(path), _Answer)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the socket."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    server: AdminSocket

    def do_GET(self) -> None:
        """The status."""
        self.server.asked.append(f"GET {self.path}")
        self._send(self.server.document)

    def do_POST(self) -> None:
        """The drain."""
        # What is left unread would turn the end of the connection into a reset.
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.asked.append(f"POST {self.path}")
        self._send(self.server.answer)

    def do_DELETE(self) -> None:
        """As a POST."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.asked.append(f"DELETE {self.path}")
        self._send(self.server.answer)

    def _send(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


class AdminTestCase(CommandTestCase):
    """A test with a running proxy, as far as its admin socket goes."""

    def setUp(self) -> None:
        super().setUp()
        self.state.mkdir()
        # A socket's path may have some hundred bytes only.
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.state)
        self.proxy = AdminSocket(Path(ADMIN_SOCKET), STATUS)
        self.addCleanup(self.proxy.stop)


class LsTests(AdminTestCase):
    """The clusters that can be reached."""

    def test_shows_each_cluster_and_whether_it_is_online(self) -> None:
        """One line for each."""
        out = self.assert_done("ls", "--state", self.state)
        self.assertRegex(out, r"\nb +online +1\n")
        self.assertRegex(out, r"\nc +offline +0\n")

    def test_json_is_the_status_document(self) -> None:
        """Whole, for programs."""
        out = self.assert_done("ls", "--json", "--state", self.state)
        self.assertEqual(json.loads(out), STATUS)


class StatusTests(AdminTestCase):
    """Proxies, clusters and tunnels."""

    def test_shows_each_tunnel(self) -> None:
        """With its proxy's name and its round trip time."""
        out = self.assert_done("status", "--state", self.state)
        self.assertRegex(out, r"proxy-1 \(this\) +active")
        self.assertRegex(out, r"\nb +proxy-1 +0123.* 1\.0 ms +3\n")

    def test_shows_when_the_proxys_own_certificate_ends(self) -> None:
        """Of the proxy that was asked."""
        certificate = {"valid_before": "2027-01-02T03:04:05.000Z"}
        proxy = STATUS["proxy"] | {"certificate": certificate}  # type: ignore[operator]
        self.proxy.document = STATUS | {"proxy": proxy}
        out = self.assert_done("status", "--state", self.state)
        self.assertIn("certificate ends 2027-01-02T03:04:05.000Z\n", out)

    def test_json_is_the_status_document(self) -> None:
        """Whole, for programs."""
        out = self.assert_done("status", "--json", "--state", self.state)
        self.assertEqual(json.loads(out), STATUS)

    def test_a_table_fits_the_terminal(self) -> None:
        """Lines are cut, not wrapped; without a terminal they are whole."""
        self.patch(shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
        whole = self.assert_done("status", "--state", self.state)
        terminal = Terminal()
        self.patch(sys, "stdout", terminal)
        self.assertEqual(run(["status", "--state", str(self.state)]), 0)
        shown = terminal.getvalue().splitlines()
        self.assertEqual(shown, [line[:40] for line in whole.splitlines()])
        self.assertGreater(max(map(len, whole.splitlines())), 40)

    def test_watch_looks_again_until_interrupted(self) -> None:
        """Leaving is no failure; with --json each look is one line."""
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                raise KeyboardInterrupt

        self.patch(time, "sleep", sleep)
        out = self.assert_done("status", "--watch", "--json", "--state", self.state)
        self.assertEqual([json.loads(line) for line in out.splitlines()], [STATUS] * 3)
        self.assertEqual(waits, [status_module.WATCH_INTERVAL] * 3)

    def test_watch_starts_at_the_top_of_a_terminal(self) -> None:
        """Where there is none, nothing but text is written."""

        def sleep(seconds: float) -> None:
            raise KeyboardInterrupt

        self.patch(time, "sleep", sleep)
        out = self.assert_done("status", "--watch", "--state", self.state)
        self.assertNotIn("\x1b", out)
        terminal = Terminal()
        self.patch(sys, "stdout", terminal)
        self.assertEqual(run(["status", "--watch", "--state", str(self.state)]), 0)
        self.assertTrue(terminal.getvalue().startswith("\x1b[2J\x1b[H"))


class DrainTests(AdminTestCase):
    """A proxy that is to leave."""

    def test_tells_the_proxy(self) -> None:
        """Once, through its admin socket."""
        self.assertIn("draining", self.assert_done("drain", "--state", self.state))
        self.assertEqual(self.proxy.asked, ["POST /v1/drain"])


class NotRunningTests(CommandTestCase):
    """No proxy runs."""

    def test_is_one_line(self) -> None:
        """It names the socket."""
        for verb in ("ls", "status", "drain"):
            err = self.assert_refused(verb, "--state", self.directory)
            self.assertIn(str(self.directory / ADMIN_SOCKET), err)
