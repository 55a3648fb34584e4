"""State directories filled, or left as they were."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import KeyFileError
from rtunnel.filling import NewFile, check_fillable, fill, finish_filling
from tests.crashes import every_crash

FILES = [
    NewFile("key", b"secret", private=True),
    NewFile.public("key.pub", "open\n"),
    NewFile.public("config.toml", 'name = "ä"\n'),
]


class FillTests(SynchronousTestCase):
    """All files, or none."""

    def setUp(self) -> None:
        self.top = Path(self.mktemp())
        self.top.mkdir()
        self.directory = self.top / "deep" / "state"

    def content(self) -> dict[str, bytes]:
        """Every file there, hidden ones too."""
        return {path.name: path.read_bytes() for path in self.directory.iterdir()}

    def expected(self) -> dict[str, bytes]:
        """What should be there."""
        return {file.name: file.content for file in FILES}

    def test_a_directory_is_made_and_filled(self) -> None:
        """Nobody else may enter it, or read what is private."""
        fill(self.directory, FILES, force=False)
        self.assertEqual(self.content(), self.expected())
        modes = {p.name: p.stat().st_mode & 0o777 for p in self.directory.iterdir()}
        self.assertEqual(modes, {"key": 0o600, "key.pub": 0o644, "config.toml": 0o644})
        self.assertEqual(self.directory.stat().st_mode & 0o777, 0o700)

    def test_what_is_there_stays_unless_forced(self) -> None:
        """Every file in the way is named."""
        fill(self.directory, FILES[:2], force=False)
        with self.assertRaisesRegex(KeyFileError, "key.pub.*--force"):
            check_fillable(self.directory, ["key", "key.pub"], force=False)
        with self.assertRaises(KeyFileError):
            fill(self.directory, FILES, force=False)
        self.assertNotIn("config.toml", self.content())
        changed = [NewFile.public(file.name, "new\n") for file in FILES]
        fill(self.directory, changed, force=True)
        self.assertEqual(set(self.content().values()), {b"new\n"})
        self.assertEqual(len(self.content()), 3)

    def test_a_directory_that_is_not_ours_is_refused_beforehand(self) -> None:
        """Also when it would have to be made in one."""
        self.patch(os, "access", lambda path, mode: path != self.top.absolute())
        for directory in (self.top, self.directory):
            with self.assertRaisesRegex(KeyFileError, "another directory"):
                check_fillable(directory, ["key"], force=True)
        self.directory.mkdir(parents=True)
        check_fillable(self.directory, ["key"], force=True)

    def test_a_failure_at_any_step_leaves_all_as_it_was(self) -> None:
        """Of a directory that was not there, and of one with older files."""
        for older in ([], FILES[:2]):
            for step in range(20):
                self.setUp()
                before = {}
                if older:
                    fill(
                        self.directory,
                        [NewFile.public(each.name, "old\n") for each in older],
                        force=False,
                    )
                    before = self.content()
                if not self.fails_at(step):
                    self.assertGreater(step, 5)
                    self.assertEqual(self.content(), self.expected())
                    break
                if older:
                    self.assertEqual(self.content(), before, step)
                else:
                    self.assertEqual(list(self.top.iterdir()), [], step)
            else:
                self.fail("there is no end to the steps")

    def fails_at(self, step: int) -> bool:
        """Fill, and let the disk fail at one call."""
        left = [step]

        def failing(real: Any) -> Any:
            def call(*arguments: Any, **keywords: Any) -> Any:
                left[0] -= 1
                if left[0] == -1:
                    raise OSError(28, "No space left on device")
                return real(*arguments, **keywords)

            return call

        patches = [
            self.patch(os, name, failing(getattr(os, name)))
            for name in ("replace", "link", "fsync")
        ]
        try:
            fill(self.directory, FILES, force=True)
        except KeyFileError as error:
            self.assertIn("No space left", str(error))
            return True
        finally:
            for patch in patches:
                patch.restore()
        return False


class KilledTests(SynchronousTestCase):
    """What a process leaves that is killed in the middle."""

    def test_whoever_comes_first_finishes_it(self) -> None:
        """All files are the old ones, or all of them the new ones, and once they are
        new they stay."""
        for older in ([], FILES):
            directory = Path(self.mktemp())
            is_new = False
            for _ in self.crashes(directory, older):
                finish_filling(directory)
                found = {
                    path.name: path.read_bytes()
                    for path in directory.iterdir()
                    if not path.name.startswith(".")
                }
                if found == {file.name: b"new" for file in FILES}:
                    is_new = True
                    names = [path.name for path in directory.iterdir()]
                    self.assertEqual(sorted(names), sorted(found))
                else:
                    self.assertFalse(is_new)
                    self.assertEqual(found, {f.name: f.content for f in older})
            self.assertTrue(is_new)

    def crashes(self, directory: Path, older: list[NewFile]) -> Iterator[int]:
        """Fill a directory that has older files, and crash at each step."""

        def put_back() -> None:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            if older:
                fill(directory, older, force=False)

        changed = [NewFile.public(file.name, "new") for file in FILES]
        put_back()
        for number in every_crash(lambda: fill(directory, changed, force=True)):
            yield number
            put_back()

    def test_what_somebody_puts_in_place_now_is_left_to_them(self) -> None:
        """Whoever starts meanwhile takes nothing away."""
        directory = Path(self.mktemp())
        real = os.replace
        hidden = []

        def replace(source: Path, target: Path) -> None:
            if source.parent == directory and target.name in ("key", "config.toml"):
                finish_filling(directory)
                hidden.append(source.exists())
            real(source, target)

        self.patch(os, "replace", replace)
        fill(directory, FILES, force=False)
        self.assertEqual(hidden, [True, True])

    def test_the_next_leaves_nothing_of_it(self) -> None:
        """Neither what was to come nor what was to go: private keys are in both."""
        directory = Path(self.mktemp())
        fill(directory, FILES, force=False)
        names = {path.name for path in directory.iterdir()}
        before = directory.with_name("before")
        shutil.copytree(directory, before)
        seen = set()
        for _ in every_crash(lambda: fill(directory, FILES, force=True)):
            seen |= {path.name[-4:] for path in directory.iterdir()}
            fill(directory, FILES, force=True)
            self.assertEqual({path.name for path in directory.iterdir()}, names)
            shutil.rmtree(directory)
            shutil.copytree(before, directory)
        self.assertIn(".old", seen)
