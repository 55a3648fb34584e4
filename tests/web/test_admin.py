"""The admin socket, and the client of the command line."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from rtunnel.admin_client import get_status, post_drain
from rtunnel.errors import RtunnelError
from rtunnel.web.admin import listen_admin

T = TypeVar("T")

DOCUMENT = {"proxy": {"id": "p-1"}, "clusters": [{"name": "b"}]}

#: A process that ends without removing its socket.
DIES = "import socket, sys; s = socket.socket(1); s.bind(sys.argv[1]); s.listen()"


class AdminCase(TestCase):
    """A directory, and what listens in it."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / "admin.sock"
        self.drains = 0

    def listen(self, status: Callable[[], Any] = lambda: DOCUMENT) -> IListeningPort:
        port = listen_admin(reactor, self.path, status=status, drain=self.drain)
        self.addCleanup(port.stopListening)
        return port

    def drain(self) -> None:
        self.drains += 1

    async def ask(self, function: Callable[[Path], T]) -> T:
        answer: T = await deferToThread(function, self.path)
        return answer

    async def refusal(self, function: Callable[[Path], object]) -> str:
        try:
            await self.ask(function)
        except RtunnelError as error:
            return str(error)
        raise self.failureException("nothing was raised")


class AdminTests(AdminCase):
    """Question and answer."""

    async def test_status_is_handed_through(self) -> None:
        """The document as the proxy made it."""
        self.listen()
        self.assertEqual(await self.ask(get_status), DOCUMENT)

    async def test_drain_is_asked_for(self) -> None:
        """Once for each request, and not by looking."""
        self.listen()
        await self.ask(post_drain)
        self.assertEqual(self.drains, 1)
        await self.ask(get_status)
        self.assertEqual(self.drains, 1)

    async def test_a_large_document_arrives_whole(self) -> None:
        """Thousands of tunnels."""
        document = {"tunnels": [{"agent": "a" * 36}] * 20000}
        self.listen(lambda: document)
        self.assertEqual(await self.ask(get_status), document)

    async def test_an_error_of_the_proxy_is_told(self) -> None:
        """In its own words when they are meant for the one who asks."""

        def status() -> None:
            raise RtunnelError("not yet")

        self.listen(status)
        self.assertEqual(await self.refusal(get_status), "the proxy refuses: not yet")


class SocketTests(AdminCase):
    """The file that is a socket."""

    async def test_only_the_owner_can_open_it(self) -> None:
        """Whatever the umask is."""
        umask = os.umask(0)
        self.addCleanup(os.umask, umask)
        self.listen()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        self.assertEqual(os.umask(0), 0)

    async def test_the_socket_of_a_dead_process_is_replaced(self) -> None:
        """A crash leaves it behind."""
        subprocess.run([sys.executable, "-c", DIES, str(self.path)], check=True)
        self.assertTrue(self.path.is_socket())
        self.listen()
        self.assertEqual(await self.ask(get_status), DOCUMENT)

    async def test_the_socket_of_a_living_process_is_not(self) -> None:
        """The first one goes on answering."""
        self.listen()
        with self.assertRaises(RtunnelError) as caught:
            self.listen(dict)
        self.assertIn("is running in this state directory", str(caught.exception))
        self.assertEqual(await self.ask(get_status), DOCUMENT)

    def test_a_living_process_with_a_full_backlog_is_alive(self) -> None:
        """It is too busy to accept, and neither waited for nor replaced."""
        busy = socket.socket(socket.AF_UNIX)
        self.addCleanup(busy.close)
        busy.bind(str(self.path))
        busy.listen(0)
        for _ in range(3):
            waiting = socket.socket(socket.AF_UNIX)
            self.addCleanup(waiting.close)
            waiting.setblocking(False)
            waiting.connect_ex(str(self.path))
        with self.assertRaises(RtunnelError) as caught:
            self.listen()
        self.assertIn("is running in this state directory", str(caught.exception))

    def test_a_file_that_is_no_socket_is_left_alone(self) -> None:
        """Nobody's file is removed for its name."""
        self.path.write_text("mine")
        with self.assertRaises(RtunnelError) as caught:
            self.listen()
        self.assertIn("this is no socket", str(caught.exception))
        self.assertEqual(self.path.read_text(), "mine")

    async def test_the_socket_goes_with_the_listener(self) -> None:
        """A drained proxy leaves nothing behind."""
        await self.listen().stopListening()  # type: ignore[misc]  # object, in Twisted
        self.assertEqual(list(self.directory.iterdir()), [])

    async def test_the_socket_of_a_successor_stays(self) -> None:
        """Whoever ends removes only what is its own."""
        first = self.listen()
        self.path.unlink()
        self.listen(lambda: {"second": True})
        await first.stopListening()  # type: ignore[misc]
        self.assertEqual(await self.ask(get_status), {"second": True})

    async def test_a_long_path_works(self) -> None:
        """Longer than the name of a socket can be."""
        if not Path("/proc/self/fd").is_dir():
            self.skipTest("this system has no other name for a long path")
        deep = self.directory / ("d" * 120)
        deep.mkdir()
        self.path = deep / "admin.sock"
        port = self.listen()
        self.assertEqual(await self.ask(get_status), DOCUMENT)
        await port.stopListening()  # type: ignore[misc]
        self.assertEqual(list(deep.iterdir()), [])

    def test_a_missing_directory_is_an_error_of_one_sentence(self) -> None:
        """It names the socket."""
        self.path = self.directory / "none" / "admin.sock"
        with self.assertRaises(RtunnelError) as caught:
            self.listen()
        self.assertIn(str(self.path), str(caught.exception))


class ClientTests(AdminCase):
    """What the command line says when no proxy answers."""

    def test_no_socket(self) -> None:
        """The usual case: the proxy does not run."""
        with self.assertRaises(RtunnelError) as caught:
            get_status(self.path)
        self.assertEqual(
            str(caught.exception),
            f"is the proxy running? no admin socket at {self.path}; start it, or name "
            "its directory with --state",
        )

    def test_a_socket_that_nobody_listens_on(self) -> None:
        """The proxy crashed."""
        subprocess.run([sys.executable, "-c", DIES, str(self.path)], check=True)
        with self.assertRaises(RtunnelError) as caught:
            get_status(self.path)
        self.assertIn("is the proxy running?", str(caught.exception))

    async def test_an_answer_that_is_not_from_a_proxy(self) -> None:
        """Anything but an object is none."""
        self.listen(lambda: ["a", "list"])
        self.assertIn("not what a proxy says", await self.refusal(get_status))

    async def test_a_peer_that_does_not_speak_http(self) -> None:
        """One sentence, no traceback."""
        other = socket.socket(socket.AF_UNIX)
        self.addCleanup(other.close)
        other.bind(str(self.path))
        other.listen()

        def answer_nonsense() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-x\r\n")

        answering = deferToThread(answer_nonsense)
        self.assertIn("hung up", await self.refusal(get_status))
        await answering
