"""Fuzz with atheris: every harness in turn, and keep what was found.

    python -m fuzz [--inputs N] [--machine-inputs N] [--seconds N] [--jobs N]
                   [HARNESS ...]

Each harness runs until it has had so many inputs or the seconds are over. What reaches
new code goes into ``fuzz/corpus``, so that the next run goes on from there. An input
for which a rule does not hold is left in ``build/fuzz``, and
``python -m fuzz.one HARNESS INPUT`` shows it again. In the end a table says of each
harness whether it had its inputs. The exit code is 0 if all rules held, and if all
inputs were had where no ``--seconds`` stopped them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from fuzz import corpus
from fuzz.harness import Harness
from fuzz.harnesses import HARNESSES
from fuzz.one import BUILD

#: Megabytes that a process may have, what libFuzzer itself remembers counted.
_MAX_MEGABYTES = 1024

#: Seconds after which libFuzzer gives up an input that does not end. It goes by the
#: wall clock and the machine may be busy; what is slow is found by its CPU time.
_TIMEOUT = 300

#: Lines of what a broken run said that are shown; all are in its log.
_SHOWN = 40

_COUNT = re.compile(r"stat::number_of_executed_units:\s+(\d+)")


def _write_inputs(directory: Path, inputs: Iterable[bytes]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for data in inputs:
        (directory / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def _write_tokens(path: Path, tokens: Iterable[bytes]) -> None:
    """A dictionary as libFuzzer reads it; a token has 64 bytes at most."""
    lines = [
        '"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n'
        for token in tokens
        if len(token) <= 64
    ]
    path.write_text("".join(lines))


def _atheris(harness: Harness, *arguments: str | Path) -> tuple[int, str]:
    """Exit code, and all that it said."""
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.one", harness.name, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@attrs.frozen
class Result:
    """How a harness went.

    :param wanted: inputs that it was to have.
    :param inputs: those that it had.
    :param seconds: that they took.
    :param kept: inputs in its corpus now; None when nothing was kept.
    :param finding: what broke a rule, "" if nothing did.
    """

    harness: Harness
    wanted: int
    inputs: int
    seconds: float
    kept: int | None = None
    finding: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether it had all its inputs."""
        return self.inputs >= self.wanted

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.finding:
            return f"BROKEN, see {BUILD / self.harness.name}"
        count = "reached" if self.is_complete else "NOT REACHED"
        return count if self.kept is not None else f"{count}, corpus not merged"


def fuzz(harness: Harness, inputs: int, seconds: int) -> Result:
    """Run one harness, and keep what it found.

    :param inputs: to stop after.
    :param seconds: to stop after; 0 for as long as it takes.
    """
    work = BUILD / harness.name
    found = work / "found"
    _write_inputs(found, [*harness.seeds(), *corpus.load(harness.name)])
    dictionary = []
    if harness.tokens:
        _write_tokens(work / "tokens", harness.tokens)
        dictionary.append(f"-dict={work / 'tokens'}")
    started = time.monotonic()
    code, said = _atheris(
        harness,
        f"-runs={inputs}",
        f"-max_total_time={seconds}",
        *dictionary,
        f"-artifact_prefix={work}/",
        f"-rss_limit_mb={_MAX_MEGABYTES}",
        f"-timeout={_TIMEOUT}",
        f"-max_len={corpus.MAX_INPUT}",
        "-print_final_stats=1",
        found,
    )
    took = time.monotonic() - started
    (work / "log").write_text(said)
    counted = _COUNT.search(said)
    count = int(counted[1]) if counted else 0
    if code:
        lines = [
            line
            for line in said.splitlines()
            if not line.startswith(("#", "INFO:", "WARNING:"))
        ]
        finding = "\n".join(lines[-_SHOWN:])
        return Result(harness, inputs, count, took, finding=finding)
    least = work / "least"
    _write_inputs(least, [])
    code, said = _atheris(harness, "-merge=1", least, found)
    kept = None
    if not code:
        inputs_kept = [path.read_bytes() for path in least.iterdir()]
        kept = corpus.save(harness.name, inputs_kept)
    return Result(harness, inputs, count, took, kept)


def table(results: Sequence[Result]) -> str:
    """How all went, a line for each harness."""
    lines = [
        f"{'harness':22} {'inputs':>9} {'wanted':>9} {'seconds':>8} {'per s':>7} "
        f"{'corpus':>6}  findings  count"
    ]
    for result in results:
        rate = result.inputs / result.seconds
        lines.append(
            f"{result.harness.name:22} {result.inputs:9} {result.wanted:9} "
            f"{result.seconds:8.0f} {rate:7.0f} "
            f"{'' if result.kept is None else result.kept:>6} "
            f"{int(bool(result.finding)):9}  {result.verdict}"
        )
    complete = sum(result.is_complete for result in results)
    broken = sum(bool(result.finding) for result in results)
    lines.append(
        f"{sum(result.inputs for result in results)} inputs; {complete} of "
        f"{len(results)} harnesses reached their count; {broken} broke a rule"
    )
    return "\n".join(lines)


def main() -> int:
    """Run what is asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10**6, help="for each parser")
    parser.add_argument(
        "--machine-inputs", type=int, default=10**5, help="for each state machine"
    )
    parser.add_argument("--seconds", type=int, default=0, help="for each harness")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="harnesses at a time"
    )
    parser.add_argument("harness", nargs="*", default=list(HARNESSES))
    options = parser.parse_args()
    unknown = set(options.harness) - set(HARNESSES)
    if unknown:
        parser.error(f"no harness {sorted(unknown)}; there are {', '.join(HARNESSES)}")

    def run(harness: Harness) -> Result:
        wanted = options.machine_inputs if harness.is_machine else options.inputs
        result = fuzz(harness, wanted, options.seconds)
        print(
            f"{harness.name}: {result.inputs} inputs in {result.seconds:.0f} s, "
            f"{result.verdict}",
            *filter(None, [result.finding]),
            sep="\n",
            flush=True,
        )
        return result

    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(run, [HARNESSES[name] for name in options.harness]))
    print(table(results), flush=True)
    has_failed = any(
        result.finding or not (options.seconds or result.is_complete)
        for result in results
    )
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
