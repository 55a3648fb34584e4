"""Run trial over a group of our tests, or over what is asked for.

    python .ci/run_trial.py unit|interop|soak [TRIAL OPTION ...] [TEST ...]

Modules are looked for, not listed: trial cannot leave a package out, and a list kept by
hand would one day miss a new one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

INTEROP = Path("tests/interop")
#: These say how fast something is, or how long it may take, while others want as much
#: of the machine as they get: each has it for itself.
ALONE = [
    INTEROP / "test_fault_isolation.py",
    INTEROP / "test_limits_before_login.py",
    INTEROP / "test_limits_of_channels.py",
    INTEROP / "test_login_storm.py",
    INTEROP / "test_slow_channels.py",
    INTEROP / "test_ssh_audit.py",
    INTEROP / "test_strangers.py",
]

#: These take long, and the same in every Python: they run once, beside interop.
LONG = {
    Path("tests/cli/demo"),
    Path("tests/ssh/test_rekeying.py"),
    Path("tests/tap"),
    Path("tests/test_fuzz.py"),
}

#: These watch for as long as ``RTUNNEL_SOAK`` says.
SOAKING = [
    INTEROP / "test_slow_reader.py",
    INTEROP / "test_slow_channels.py",
    Path("tests/ssh/test_rekeying.py"),
]


def unit_tests() -> list[str]:
    """Name everything but ``tests/interop`` and what takes long."""
    packages = [path.parent for path in Path("tests").glob("*/__init__.py")]
    found = [path for path in packages if path != INTEROP]
    modules = Path("tests").glob("*/test_*.py")
    split = {path.parent for path in LONG} - {Path("tests")}
    parts = [path for path in modules if path.parent in split]
    whole = [path for path in found if path not in split]
    everything = {*whole, *parts, *Path("tests").glob("test_*.py")}
    return sorted(map(str, everything - LONG))


def long_tests() -> list[str]:
    """Name what takes long."""
    return sorted(map(str, LONG))


def interop_tests() -> list[str]:
    """Name the modules of ``tests/interop`` that mostly wait, for other processes."""
    return sorted(map(str, set(INTEROP.glob("test_*.py")) - set(ALONE)))


def alone_tests() -> list[str]:
    """Name the others."""
    return [str(path) for path in ALONE]


def soak_tests() -> list[str]:
    """Name what can watch for long."""
    return [str(path) for path in SOAKING]


#: For each group, what runs one after the other: tests, and how many at once.
GROUPS: dict[str, list[tuple[Callable[[], list[str]], int]]] = {
    "unit": [(unit_tests, 2)],
    "interop": [(interop_tests, 4), (alone_tests, 1), (long_tests, 2)],
    "soak": [(soak_tests, 4)],
}


def trial(arguments: list[str]) -> int:
    """Run trial once and return its exit code."""
    command = [sys.executable, "-Wall", "-b", "-m", "twisted.trial", *arguments]
    return subprocess.call(command)


def main(group: str, *arguments: str) -> int:
    """Run a group, or only the tests that are named; return 0 if all passed."""
    if any(not argument.startswith("-") for argument in arguments):
        return trial([*arguments])
    codes = []
    for tests, at_once in GROUPS[group]:
        jobs = [f"-j{at_once}"] if at_once > 1 else []
        codes.append(trial([*jobs, *arguments, *tests()]))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
