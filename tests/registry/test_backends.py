"""From a url to a registry."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from rtunnel.errors import ConfigError
from rtunnel.registry.backends import open_registry
from rtunnel.registry.interface import Registry


class OpenRegistryTests(TestCase):
    """The urls of ``[registry]``."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    async def opened(self, url: str) -> Registry:
        registry = open_registry(url, self.directory, reactor, lambda: 0.0)
        await registry.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(registry.close()))
        return registry

    async def test_memory_is_not_shared(self) -> None:
        """It is one proxy's own."""
        one, two = await self.opened("memory:"), await self.opened("memory:")
        await one.put("a", "1")
        self.assertIsNone(await two.get("a"))
        self.assertEqual(list(self.directory.iterdir()), [])

    async def test_a_path_is_relative_to_the_state_directory(self) -> None:
        """An absolute one is taken as it is."""
        one = await self.opened("sqlite:registry.db")
        path = (self.directory / "registry.db").absolute()
        self.assertTrue(path.exists())
        two = await self.opened(f"sqlite:{path}")
        entry = await one.put("a", "1")
        self.assertEqual(await two.get("a"), entry)

    def test_nothing_is_made_before_the_start(self) -> None:
        """A config file is checked without side effects."""
        open_registry("sqlite:registry.db", self.directory, reactor, lambda: 0.0)
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_an_unknown_url_is_a_config_error(self) -> None:
        """It says which there are."""
        for url in ("", "sqlite:", "memory:x", "postgres://x", "registry.db"):
            with self.assertRaises(ConfigError) as caught:
                open_registry(url, self.directory, reactor, lambda: 0.0)
            self.assertIn("memory: and sqlite:PATH", str(caught.exception))
