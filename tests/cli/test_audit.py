"""``rtunnel audit verify``."""

from __future__ import annotations

import gzip
from pathlib import Path

from rtunnel.audit.events import ProxyStarted
from rtunnel.audit.log import AuditLog
from tests.cli.running import CommandTestCase


class VerifyTests(CommandTestCase):
    """The verb, with files as a proxy writes them."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "audit.jsonl"

    def write(self, count: int = 3, path: Path | None = None) -> None:
        audit = AuditLog(path or self.path, lambda: 0.0, "p-1")
        for number in range(count):
            audit.record(ProxyStarted(proxy=f"p-{number}"))
        audit.close()

    def head(self, *arguments: str | Path) -> str:
        out = self.assert_done("audit", "verify", *arguments)
        return out.splitlines()[-1].removeprefix("head: ")

    def test_a_good_file(self) -> None:
        """How many lines there are, and the head to be kept."""
        self.write()
        out = self.assert_done("audit", "verify", self.path)
        self.assertRegex(out, r"\AOK: 4 lines\nhead: [0-9a-f]{64}\n\Z")

    def test_the_file_of_the_state_directory(self) -> None:
        """Wherever the config file says that it is."""
        self.assert_done(
            *("init", "--state", self.state, "--cluster", "a"),
            *("--public", "lb.example.com:3023"),
            *("--set", 'audit.path="who.jsonl"'),
        )
        self.write(path=self.state / "who.jsonl")
        out = self.assert_done("audit", "verify", "--state", self.state)
        self.assertIn("OK: 4 lines", out)

    def test_a_changed_line(self) -> None:
        """Exit code 1, and one line that names it."""
        self.write()
        self.path.write_text(self.path.read_text().replace("p-1", "p-9"))
        said = self.assert_failed(1, "audit", "verify", self.path)
        self.assertIn(f"{self.path}: line 1 was changed", said)

    def test_a_head_that_was_kept(self) -> None:
        """Is found as long as nobody cuts the file off."""
        self.write()
        kept = self.head(self.path)
        self.write()
        self.assert_done("audit", "verify", "--expect", kept, self.path)
        lines = self.path.read_bytes().splitlines(keepends=True)
        self.path.write_bytes(b"".join(lines[:3]))
        self.assert_done("audit", "verify", self.path)
        said = self.assert_failed(1, "audit", "verify", "--expect", kept, self.path)
        self.assertIn("lines at the end were removed", said)

    def test_a_compressed_file(self) -> None:
        """As rotation leaves it; and one that is cut off."""
        self.write()
        packed = self.directory / "audit.jsonl.1.gz"
        packed.write_bytes(gzip.compress(self.path.read_bytes()))
        self.assertEqual(self.head(packed), self.head(self.path))
        packed.write_bytes(packed.read_bytes()[:-20])
        self.assertIn(str(packed), self.assert_failed(1, "audit", "verify", packed))

    def test_what_cannot_be_read(self) -> None:
        """A file that is not there, and a value that is none."""
        self.assertIn("No such file", self.assert_failed(1, "audit", "verify", "x"))
        said = self.assert_failed(2, "audit", "verify", "--expect", "abc", "x")
        self.assertIn("chain value", said)
