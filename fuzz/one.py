"""One harness in a process of its own.

    python -m fuzz.one HARNESS [LIBFUZZER OPTION ...] DIRECTORY
    python -m fuzz.one HARNESS INPUT

With a directory it is atheris that makes the inputs, from those in the directory, and
leaves there what reaches new code. With a file it runs that input, and says what comes
of it.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from twisted.logger import globalLogBeginner

#: Where the work of a run is, by the harness's name.
BUILD = Path("build/fuzz")


def _write_again(name: str) -> Path:
    """A program that does this again: libFuzzer starts itself to merge."""
    again = BUILD / name / "again"
    again.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, "-m", "fuzz.one", name])
    again.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    again.chmod(0o755)
    return again


def checked(name: str, *, instrument: bool) -> Callable[[bytes], None]:
    """The harness, its code instrumented or not."""
    if instrument:
        atheris = importlib.import_module("atheris")
        with atheris.instrument_imports(include=["rtunnel"]):
            harnesses = importlib.import_module("fuzz.harnesses")
    else:
        harnesses = importlib.import_module("fuzz.harnesses")
    harness = harnesses.HARNESSES[name]
    harness.prepare()
    checks = importlib.import_module("fuzz.harness")
    run: Callable[[bytes], None] = checks.CheckedHarness(harness)
    return run


def main(name: str, *arguments: str) -> None:
    """Run one input or fuzz, which never returns."""
    # Nobody reads the log, and until somebody does Twisted keeps all of it.
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    if len(arguments) == 1 and Path(arguments[0]).is_file():
        checked(name, instrument=False)(Path(arguments[0]).read_bytes())
        print("nothing is wrong with it")
        return
    run = checked(name, instrument=True)
    atheris = importlib.import_module("atheris")
    atheris.Setup([str(_write_again(name)), *arguments], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
