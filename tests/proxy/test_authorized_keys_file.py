"""Tests of :mod:`rtunnel.proxy.authorized_keys_file`."""

from __future__ import annotations

from pathlib import Path

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.proxy.authorized_keys_file import AuthorizedKeysFile


class AuthorizedKeysFileTests(SynchronousTestCase):
    """What is in the file, and why it cannot be used."""

    def test_why_it_cannot_be_read_is_said_once(self) -> None:
        """It names the file once, too, in plain words."""
        path = Path(self.mktemp())
        path.mkdir()
        file = AuthorizedKeysFile(path)
        with capturedLogs() as logs:
            file.read()
            file.read()
        self.assertEqual(
            [formatEvent(event) for event in logs],
            [f"{path} cannot be used, nobody in it can log in: Is a directory"],
        )
