"""The ``rtunnel`` command, run in this process."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.cli.main import run


@attrs.frozen
class Outcome:
    """What one command line did."""

    code: int
    out: str
    err: str


def rtunnel(*arguments: str | Path) -> Outcome:
    """Carry out one command line."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        code = run([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


class CommandTestCase(SynchronousTestCase):
    """A test with an empty directory to work in, and no ``$RTUNNEL_STATE``."""

    def setUp(self) -> None:
        self.patch(
            os,
            "environ",
            {k: v for k, v in os.environ.items() if k != "RTUNNEL_STATE"},
        )
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.state = self.directory / "state"

    def assert_done(self, *arguments: str | Path) -> str:
        """The command line succeeds and says nothing on standard error.

        :return: what it printed.
        """
        outcome = rtunnel(*arguments)
        self.assertEqual((outcome.err, outcome.code), ("", 0))
        return outcome.out

    def assert_failed(self, code: int, *arguments: str | Path) -> str:
        """The command line fails with one line on standard error, and nothing else.

        :return: that line.
        """
        outcome = rtunnel(*arguments)
        self.assertEqual((outcome.code, outcome.out), (code, ""))
        self.assertEqual(outcome.err.count("\n"), 1, outcome.err)
        self.assertTrue(outcome.err.startswith("rtunnel: "), outcome.err)
        return outcome.err

    def assert_refused(self, *arguments: str | Path) -> str:
        """The command line is understood and refused: exit code 1, one line."""
        return self.assert_failed(1, *arguments)

    def assert_wrong_usage(self, *arguments: str | Path) -> str:
        """The command line is not understood: exit code 2, one line."""
        return self.assert_failed(2, *arguments)

    def init(self, *more: str | Path) -> None:
        """Make a cluster ``a`` in :attr:`state`."""
        self.assert_done(
            *("init", "--state", self.state, "--cluster", "a"),
            *("--public", "lb.example.com:3023", *more),
        )

    def snapshot(self, directory: Path) -> dict[str, tuple[bytes, int]]:
        """Every file of a directory: its content and its mode."""
        return {
            path.name: (path.read_bytes(), path.stat().st_mode & 0o777)
            for path in directory.iterdir()
        }
