"""Paths of Unix sockets that may be longer than the system takes."""

from __future__ import annotations

import socket
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.socket_path import MAX_SOCKET_PATH, reachable


class ReachableTests(SynchronousTestCase):
    """Another name only where one is needed."""

    def test_a_short_path_is_its_own_name(self) -> None:
        """Up to the limit, in bytes."""
        path = Path("/" + "x" * (MAX_SOCKET_PATH - 1))
        with reachable(path) as name:
            self.assertEqual(name, str(path))

    def test_a_long_path_gets_a_name_that_can_be_bound(self) -> None:
        """The socket lies where the path says."""
        if not Path("/proc/self/fd").is_dir():
            raise SkipTest("this system has no other name for a long path")
        directory = Path(self.mktemp()).absolute() / ("d" * MAX_SOCKET_PATH)
        directory.mkdir(parents=True)
        with reachable(directory / "s") as name, socket.socket(socket.AF_UNIX) as bound:
            self.assertLessEqual(len(name), MAX_SOCKET_PATH)
            bound.bind(name)
        self.assertTrue((directory / "s").is_socket())

    def test_a_long_path_in_no_directory_is_an_os_error(self) -> None:
        """As it would be for a short one."""
        with (
            self.assertRaises(FileNotFoundError),
            reachable(Path("/none") / ("x" * MAX_SOCKET_PATH)),
        ):
            self.fail("there is no such directory")
