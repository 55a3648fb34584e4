"""Files that root makes in the directory of somebody else."""

from __future__ import annotations

import os

from rtunnel.state_directory import PROXY_CONFIG, write_public
from tests.cli.running import CommandTestCase

NOBODY = 65534


class OwnershipTests(CommandTestCase):
    """Commands that are run as root for a proxy that is not."""

    if os.geteuid() != 0:
        skip = "only root can give files away"

    def setUp(self) -> None:
        super().setUp()
        self.init()

    def owners(self) -> dict[str, int]:
        """Of the files in the state directory."""
        return {each.name: each.stat().st_uid for each in self.state.iterdir()}

    def test_what_commands_make_belongs_to_the_directorys_owner(self) -> None:
        """Registry, audit file, and what is written in place of something else."""
        for path in (self.state, *self.state.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        self.assert_done("token", "add", "b", "--state", self.state)
        self.assert_done("revoke", "--serial", "42", "--state", self.state)
        write_public(self.state / PROXY_CONFIG, "# new\n", force=True)
        owners = self.owners()
        for name in ("registry.db", "audit.jsonl", "host_ca.revoked", PROXY_CONFIG):
            self.assertEqual(owners[name], NOBODY, name)
        self.assertEqual(set(owners.values()), {NOBODY}, owners)

    def test_in_its_own_directory_root_keeps_them(self) -> None:
        """Nothing is given to anybody."""
        self.assert_done("token", "add", "b", "--state", self.state)
        self.assertEqual(set(self.owners().values()), {0})

    def test_what_was_there_is_not_given_away(self) -> None:
        """Least of all what a link leads to."""
        victim = self.directory / "victim"
        victim.touch()
        (self.state / "audit.jsonl").symlink_to(victim)
        os.chown(self.state, NOBODY, NOBODY)
        self.assert_done("token", "add", "b", "--state", self.state)
        self.assertEqual(victim.stat().st_uid, 0)
