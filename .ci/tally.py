"""Run a command (tox), and add up the summaries of every trial in its output.

    python .ci/tally.py COMMAND [ARGUMENT ...]

The output passes through unchanged. The last line, ``N passed, N failed, N skipped``,
goes to standard output, or to the file that ``RTUNNEL_TALLY`` names. The exit code is
that of the command; it is 1 when the command says 0 but a test failed or none ran.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

#: ``PASSED (skips=1, successes=41)``, ``FAILED (errors=1)``, as trial ends.
SUMMARY = re.compile(r"^(?:PASSED|FAILED)(?: \((?P<counts>[a-zA-Z]+=\d+[^)]*)\))?\s*$")
#: ``  lint: FAIL code 1 (0.52=setup[0.03]+cmd[0.49] seconds)``, as tox ends.
BROKEN_ENVIRONMENT = re.compile(r"^\s+[\w.-]+: FAIL code \d+")

#: What trial counts, and what it is to us.
VERDICTS = {
    "successes": "passed",
    "failures": "failed",
    "errors": "failed",
    "unexpectedSuccesses": "failed",
    "skips": "skipped",
    "expectedFailures": "skipped",
}


def tally(lines: Iterable[str]) -> Counter[str]:
    """Count ``passed``, ``failed`` and ``skipped`` tests, and broken ``environments``.

    :param lines: the output of tox.
    """
    counts: Counter[str] = Counter()
    for line in lines:
        if summary := SUMMARY.match(line):
            for part in filter(None, (summary["counts"] or "").split(", ")):
                name, _, number = part.partition("=")
                counts[VERDICTS[name]] += int(number)
        elif BROKEN_ENVIRONMENT.match(line):
            counts["environments"] += 1
    return counts


def verdict(counts: Counter[str], exit_code: int) -> tuple[str, int]:
    """Return the line that ends a run, and its exit code.

    :param exit_code: what the command said. Where it failed and no test did (a lint, a
        crash before the first test) each broken environment counts as one failure.
    """
    failed = counts["failed"]
    if exit_code and not failed:
        failed = max(1, counts["environments"])
    if not exit_code and (failed or not counts["passed"]):
        exit_code = 1
    line = f"{counts['passed']} passed, {failed} failed, {counts['skipped']} skipped"
    return line, exit_code


def main(command: list[str]) -> int:
    """Run `command`, echo and count its output, tell the result."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, errors="replace", bufsize=1
    )
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        print(line, end="", flush=True)
        seen.append(line)
    line, exit_code = verdict(tally(seen), process.wait())
    if target := os.environ.get("RTUNNEL_TALLY"):
        Path(target).write_text(line + "\n")
    else:
        print(line, flush=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
