"""How CI counts tests: ``.ci/tally.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TALLY = Path(__file__).resolve().parent.parent / ".ci" / "tally.py"


def run_tally(output: str, exit_code: int) -> tuple[str, int]:
    """Return the last line and the exit code for a run that prints `output`."""
    script = f"import sys; print({output!r}); sys.exit({exit_code})"
    done = subprocess.run(
        [sys.executable, str(TALLY), sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={},
    )
    return done.stdout.splitlines()[-1], done.returncode


class TallyTests(SynchronousTestCase):
    """The line that closes a CI run, and its exit code."""

    def test_summaries_of_all_environments_are_added_up(self) -> None:
        """Each environment ran trial once; errors count as failures."""
        output = (
            "PASSED (skips=1, successes=41)\n"
            "FAILED (failures=1, errors=2, successes=7)\n"
            "PASSED (successes=2)"
        )
        self.assertEqual(run_tally(output, 1), ("50 passed, 3 failed, 1 skipped", 1))

    def test_run_without_a_failure_exits_with_0(self) -> None:
        """Skips alone are no failure."""
        output = "PASSED (skips=1, expectedFailures=1, successes=3)"
        self.assertEqual(run_tally(output, 0), ("3 passed, 0 failed, 2 skipped", 0))

    def test_failure_that_the_command_hides_is_a_failure(self) -> None:
        """A failed test fails CI whatever the command's own exit code says."""
        line, exit_code = run_tally("FAILED (failures=1, successes=3)", 0)
        self.assertEqual((line, exit_code), ("3 passed, 1 failed, 0 skipped", 1))

    def test_run_of_no_tests_fails(self) -> None:
        """A run in which nothing was tested is no success."""
        for output in ("PASSED", "PASSED (skips=2)", "nothing to do"):
            self.assertEqual(run_tally(output, 0)[1], 1, output)

    def test_environment_that_breaks_outside_trial_is_a_failure(self) -> None:
        """A style error is in no summary of trial."""
        output = (
            "PASSED (successes=3)\n"
            "  py311: OK (1.00 seconds)\n"
            "  lint: FAIL code 1 (0.52=setup[0.03]+cmd[0.49] seconds)\n"
            "  evaluation failed :( (2.00 seconds)"
        )
        self.assertEqual(run_tally(output, 1), ("3 passed, 1 failed, 0 skipped", 1))

    def test_words_of_a_test_are_no_summary(self) -> None:
        """Only a whole line in the form of trial's summary counts."""
        output = "it PASSED (successes=9)\nPASSED (of course)\nPASSED (successes=1)"
        self.assertEqual(run_tally(output, 0), ("1 passed, 0 failed, 0 skipped", 0))
