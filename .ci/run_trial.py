"""Run trial over a group of our tests, or over what is asked for.

    python .ci/run_trial.py unit|interop|alone|soak [TRIAL OPTION ...] [TEST ...]

Modules are looked for, not listed: trial cannot leave a package out, and a list kept by
hand would one day miss a new one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

INTEROP = Path("tests/interop")

#: These take longest, so they begin first.
FIRST = [
    INTEROP / "test_discovery.py",
    INTEROP / "test_rotation.py",
    INTEROP / "test_failures.py",
    INTEROP / "test_slow_reader.py",
    INTEROP / "test_pinned_balancer.py",
    INTEROP / "test_join.py",
    INTEROP / "test_firewalls.py",
    INTEROP / "test_bad_input.py",
    INTEROP / "test_algorithms.py",
]

#: These say how fast something is, or how long it may take, while others want as much
#: of the machine as they get: each has it for itself, when all others have ended.
ALONE = [
    INTEROP / "test_login_storm.py",
    INTEROP / "test_refusals.py",
    INTEROP / "test_slow_channels.py",
    INTEROP / "test_ssh_audit.py",
    INTEROP / "test_strangers.py",
]

#: These take long, and the same in every Python: they run once, beside interop.
LONG = {
    Path("tests/cli/demo"),
    Path("tests/proxy/test_expiry.py"),
    Path("tests/ssh/test_channel_machine.py"),
    Path("tests/ssh/test_connection_machine.py"),
    Path("tests/ssh/test_rekeying.py"),
    Path("tests/ssh/test_transport_machine.py"),
    Path("tests/tap"),
    Path("tests/test_fuzz.py"),
    Path("tests/wire/test_bit_flips.py"),
    Path("tests/wire/test_window.py"),
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


def interop_tests() -> list[str]:
    """Name the modules that mostly wait for other processes, and what takes long."""
    found = {*INTEROP.glob("test_*.py"), *LONG} - {*FIRST, *ALONE}
    return [str(path) for path in (*FIRST, *sorted(found))]


def alone_tests() -> list[str]:
    """Name the others."""
    return [str(path) for path in ALONE]


def soak_tests() -> list[str]:
    """Name what can watch for long."""
    return [str(path) for path in SOAKING]


def trial(arguments: Sequence[str]) -> int:
    """Run trial once and return its exit code."""
    return subprocess.call([*TRIAL, *arguments])


#: How trial begins.
TRIAL = (sys.executable, "-Wall", "-b", "-m", "twisted.trial")

#: Runs some tests with some options of trial; 0 if all passed.
Run = Callable[[Sequence[str], Sequence[str]], int]


def in_jobs(jobs: int) -> Run:
    """One trial that hands out its tests to so many processes."""

    def run(options: Sequence[str], tests: Sequence[str]) -> int:
        return trial([*([f"-j{jobs}"] if jobs > 1 else []), *options, *tests])

    return run


def side_by_side(at_once: int) -> Run:
    """A trial for each module, so many at once; what its tests share is made once.

    The output of each comes when it has ended.
    """

    def run(options: Sequence[str], tests: Sequence[str]) -> int:
        def one(test: str) -> int:
            own = [
                f"{option}-{Path(test).stem}"
                if option.startswith("--temp-directory=")
                else option
                for option in options
            ]
            done = subprocess.run(
                [*TRIAL, *own, test], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            sys.stdout.write(done.stdout.decode(errors="replace"))
            sys.stdout.flush()
            return done.returncode

        with ThreadPoolExecutor(at_once) as pool:
            return max(pool.map(one, tests))

    return run


#: For each group, its tests, and how they run.
GROUPS: dict[str, tuple[Callable[[], list[str]], Run]] = {
    "unit": (unit_tests, in_jobs(2)),
    "interop": (interop_tests, side_by_side(4)),
    "alone": (alone_tests, in_jobs(1)),
    "soak": (soak_tests, in_jobs(4)),
}


def main(group: str, *arguments: str) -> int:
    """Run a group, or only the tests that are named; return 0 if all passed."""
    if any(not argument.startswith("-") for argument in arguments):
        return trial([*arguments])
    tests, run = GROUPS[group]
    return run(arguments, tests())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
