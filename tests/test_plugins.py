"""What ``twistd`` finds of ours."""

from __future__ import annotations

import subprocess
import sys

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.python.usage import Options
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.interop.processes import environment

NAMES = {"rtunnel-proxy", "rtunnel-agent"}


class PluginTests(SynchronousTestCase):
    """The two service makers."""

    def test_twisted_lists_both(self) -> None:
        """Under the names that everybody types."""
        makers = {each.tapname: each for each in getPlugins(IServiceMaker)}
        self.assertEqual({name for name in makers if name.startswith("rtunnel")}, NAMES)
        for name in NAMES:
            verifyObject(IServiceMaker, makers[name])
            self.assertIsInstance(makers[name].options(), Options)

    def test_twistd_describes_both(self) -> None:
        """And each has a help of its own."""
        twistd = [sys.executable, "-m", "twisted"]
        listed = self.run_command(*twistd, "--help")
        for name in NAMES:
            self.assertIn(name, listed)
            text = self.run_command(*twistd, name, "--help")
            self.assertIn("--config", text)
            self.assertIn("--log-format", text)

    def run_command(self, *command: str) -> str:
        """What a command prints."""
        return subprocess.run(
            command, env=environment(), capture_output=True, text=True, check=True
        ).stdout
