"""A minute of ``fuzz/`` in every run: what was found before, and some that is new.

No atheris is needed. An input that breaks a rule is shown with the seed of its run;
keep it as a test of what it broke.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from fuzz import corpus
from fuzz.harness import (
    MAX_LEFT,
    MAX_PEAK,
    MAX_SECONDS,
    Broken,
    CheckedHarness,
    Harness,
)
from fuzz.harnesses import HARNESSES
from fuzz.mutation import MAX_LENGTH, Mutator

#: New inputs for each harness, half of them the same in every run.
INPUTS = 3000

#: Seconds after which there are enough of one half.
SECONDS = 0.4

FIXED_SEED = 4253


class HarnessTests(SynchronousTestCase):
    """Every rule of :mod:`fuzz.harness` holds for every input."""

    def fuzz(self, harness: Harness) -> None:
        """Run what is kept, then mutants of it."""
        known = [*harness.seeds(), *corpus.load(harness.name)]
        run = CheckedHarness(harness)
        self.addCleanup(run.close)
        for data in known:
            self.run_input(run, data, None)
        run.measure_memory(known[0])
        for seed in (FIXED_SEED, Random().getrandbits(32)):
            mutator = Mutator(known, harness.tokens, Random(seed))
            enough = time.thread_time() + SECONDS
            for _ in range(INPUTS // 2):
                self.run_input(run, mutator.mutant(), seed)
                if time.thread_time() > enough:
                    break

    def run_input(self, run: CheckedHarness, data: bytes, seed: int | None) -> None:
        """Run one, and say which it was when it breaks a rule."""
        try:
            run(data)
        except Exception as error:
            error.add_note(f"input {data.hex()} of seed {seed}")
            raise


def _test(harness: Harness) -> Callable[[HarnessTests], None]:
    def test(self: HarnessTests) -> None:
        self.fuzz(harness)

    test.__doc__ = f"``{harness.name}`` keeps the rules, whatever comes."
    return test


for _name, _harness in HARNESSES.items():
    setattr(HarnessTests, f"test_{_name}", _test(_harness))


class RuleTests(SynchronousTestCase):
    """What breaks a rule is noticed."""

    def check(self, run: Callable[[bytes], None]) -> CheckedHarness:
        """A harness of ``run``, that may raise ValueError."""
        checked = CheckedHarness(Harness("it", run, lambda: [b""], (ValueError,)))
        self.addCleanup(checked.close)
        return checked

    def test_what_is_expected_may_be_raised_and_nothing_else(self) -> None:
        """Any other error comes out."""

        def run(data: bytes) -> None:
            raise (ValueError if data else KeyError)

        checked = self.check(run)
        checked(b"data")
        self.assertRaises(KeyError, checked, b"")

    def test_a_slow_input_is_noticed(self) -> None:
        """It is slow whenever it is run."""

        def run(data: bytes) -> None:
            enough = time.thread_time() + MAX_SECONDS * 1.1
            while data and time.thread_time() < enough:
                pass

        checked = self.check(run)
        checked(b"")
        self.assertRaises(Broken, checked, b"data")

    def test_a_large_input_is_noticed(self) -> None:
        """Even if all of its memory is given back."""
        checked = self.check(lambda data: bytearray(MAX_PEAK * len(data)).clear())
        checked.measure_memory(b"")
        self.assertRaises(Broken, checked.measure_memory, b"x")

    def test_what_an_input_leaves_behind_is_noticed(self) -> None:
        """So that many of them cannot fill the memory."""
        kept: list[bytes] = []
        checked = self.check(lambda data: kept.append(bytes(MAX_LEFT * len(data) * 2)))
        checked.measure_memory(b"")
        self.assertRaises(Broken, checked.measure_memory, b"x")

    def test_a_failure_in_the_log_is_noticed(self) -> None:
        """What code of ours caught and logged has not been raised."""
        log = Logger()

        def run(data: bytes) -> None:
            try:
                raise KeyError(data)
            except KeyError:
                log.failure("caught")

        self.assertRaises(Broken, self.check(run), b"")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class MutatorTests(SynchronousTestCase):
    """Mutants are new, bounded, and the same for the same seed."""

    def mutants(self, seed: int) -> list[bytes]:
        """Some."""
        mutator = Mutator([b"abc" * 10, b"x" * 3000], [b"token"], Random(seed))
        return [mutator.mutant() for _ in range(300)]

    def test_the_same_seed_gives_the_same(self) -> None:
        """So that a run can be repeated."""
        self.assertEqual(self.mutants(1), self.mutants(1))
        self.assertNotEqual(self.mutants(1), self.mutants(2))

    def test_mutants_differ_and_are_not_too_long(self) -> None:
        """Most are unlike all others."""
        mutants = self.mutants(1)
        self.assertGreater(len(set(mutants)), 250)
        self.assertLessEqual(max(map(len, mutants)), MAX_LENGTH)


class CorpusTests(SynchronousTestCase):
    """A corpus is small, and reads back as it was kept."""

    def test_reads_back(self) -> None:
        """Each once, the empty one too, the shortest first."""
        self.patch(corpus, "CORPUS", Path(self.mktemp()))
        corpus.save("it", [b"\xff\n", b"", b"a", b"a"])
        self.assertEqual(corpus.load("it"), [b"", b"a", b"\xff\n"])
        self.assertEqual(corpus.load("another"), [])

    def test_keeps_no_more_than_so_much(self) -> None:
        """Long ones and too many are left out."""
        self.patch(corpus, "CORPUS", Path(self.mktemp()))
        inputs = [b"%d" % number for number in range(corpus.MAX_INPUTS + 1)]
        self.assertEqual(corpus.save("it", inputs), corpus.MAX_INPUTS)
        self.assertEqual(corpus.save("it", [bytes(corpus.MAX_INPUT + 1)]), 0)
        large = [bytes([n]) * corpus.MAX_INPUT for n in range(200)]
        kept = corpus.save("it", large)
        self.assertEqual(kept, corpus.MAX_BYTES // corpus.MAX_INPUT)

    def test_every_file_is_of_a_harness(self) -> None:
        """What is kept is run."""
        names = {path.stem for path in corpus.CORPUS.glob("*")}
        self.assertEqual(names - set(HARNESSES), set())
