"""Fuzz with atheris: every harness in turn, and keep what was found.

    python -m fuzz [--inputs N] [--machine-inputs N] [--seconds N] [HARNESS ...]

Each harness runs until it has had so many inputs or the seconds are over. What reaches
new code goes into ``fuzz/corpus``, so that the next run goes on from there. An input
for which a rule does not hold is left in ``build/fuzz``, the exit code is 1 then, and
``python -m fuzz.one HARNESS INPUT`` shows it again.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from fuzz import corpus
from fuzz.harness import Harness
from fuzz.harnesses import HARNESSES
from fuzz.one import BUILD

#: Megabytes that a process may have, what libFuzzer itself remembers counted.
_MAX_MEGABYTES = 1024

#: Seconds after which libFuzzer gives up an input that does not end.
_TIMEOUT = 5

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


def fuzz(harness: Harness, inputs: int, seconds: int) -> bool:
    """Run one harness, keep what it found, and say how it went.

    :param inputs: to stop after.
    :param seconds: to stop after; 0 for as long as it takes.
    :return: whether all rules held for all inputs.
    """
    work = BUILD / harness.name
    found = work / "found"
    _write_inputs(found, [*harness.seeds(), *corpus.load(harness.name)])
    dictionary = []
    if harness.tokens:
        _write_tokens(work / "tokens", harness.tokens)
        dictionary.append(f"-dict={work / 'tokens'}")
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
    (work / "log").write_text(said)
    counted = _COUNT.search(said)
    count = int(counted[1]) if counted else 0
    if code:
        print(f"{harness.name}: after {count} inputs, see {work}:")
        lines = [line for line in said.splitlines() if "Instrumenting" not in line]
        print("\n".join(lines[:60]), flush=True)
        return False
    least = work / "least"
    _write_inputs(least, [])
    code, said = _atheris(harness, "-merge=1", least, found)
    kept = "what was found could not be merged"
    if not code:
        inputs_kept = [path.read_bytes() for path in least.iterdir()]
        kept = f"{corpus.save(harness.name, inputs_kept)} of them kept"
    print(f"{harness.name}: {count} inputs, {kept}", flush=True)
    return True


def main() -> int:
    """Run what is asked for; 0 if all rules held for all inputs."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10**6, help="for each parser")
    parser.add_argument(
        "--machine-inputs", type=int, default=10**5, help="for each state machine"
    )
    parser.add_argument("--seconds", type=int, default=0, help="for each harness")
    parser.add_argument("harness", nargs="*", default=list(HARNESSES))
    options = parser.parse_args()
    unknown = set(options.harness) - set(HARNESSES)
    if unknown:
        parser.error(f"no harness {sorted(unknown)}; there are {', '.join(HARNESSES)}")
    results = [
        fuzz(
            harness,
            options.machine_inputs if harness.is_machine else options.inputs,
            options.seconds,
        )
        for name, harness in HARNESSES.items()
        if name in options.harness
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
