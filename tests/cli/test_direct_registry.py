"""The registry without a proxy."""

from __future__ import annotations

from rtunnel.cli.direct_registry import use_registry
from rtunnel.config import load_proxy
from rtunnel.errors import RegistryError
from rtunnel.registry.interface import Entry, Registry
from tests.cli.running import CommandTestCase


class DirectRegistryTests(CommandTestCase):
    """What a command does with the SQLite file of a proxy that is not running."""

    def test_everything_of_a_registry_but_watching(self) -> None:
        """Written once, it is there the next time."""
        self.init()
        config = load_proxy(self.state / "proxy.toml")

        async def write(registry: Registry) -> Entry:
            await registry.start()
            self.assertIsNone(await registry.compare_and_swap("b", "2", 7))
            first = await registry.compare_and_swap("b", "2", None)
            assert first is not None
            await registry.put("a", "1")
            self.assertTrue(await registry.delete("b", first.revision))
            with self.assertRaises(RegistryError):
                registry.watch("a", lambda: None)
            return await registry.put("c", "3", 60.0)

        entry = use_registry(config, write)

        async def read(registry: Registry) -> tuple[Entry | None, list[str]]:
            entries = await registry.list("")
            return await registry.get("c"), [each.key for each in entries]

        self.assertEqual(use_registry(config, read), (entry, ["a", "c"]))

    def test_memory_of_a_proxy_that_is_not_running_is_no_registry(self) -> None:
        """Which is said, instead of writing to nowhere."""
        self.init("--set", "registry.url='memory:'")
        line = self.assert_refused("revoke", "--user", "bob", "--state", self.state)
        self.assertIn("start the proxy first", line)
