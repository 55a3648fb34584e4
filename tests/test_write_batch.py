"""Tests for :mod:`rtunnel.write_batch`."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.write_batch import WriteBatch


class Output:
    """Notes when it is flushed."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self.flush = flush


class WriteBatchTests(SynchronousTestCase):
    """:class:`WriteBatch`."""

    def setUp(self) -> None:
        """A batch."""
        self.batch = WriteBatch()
        self.flushed: list[str] = []

    def output(self, name: str) -> Output:
        """Something that collects."""
        return Output(lambda: self.flushed.append(name))

    def test_outputs_are_flushed_when_the_outermost_block_ends(self) -> None:
        """Not before, and once."""
        with self.batch:
            with self.batch:
                self.batch.add(self.output("one"))
            self.assertEqual(self.flushed, [])
            self.assertTrue(self.batch.is_open)
        self.assertEqual(self.flushed, ["one"])
        self.assertFalse(self.batch.is_open)
        with self.batch:
            pass
        self.assertEqual(self.flushed, ["one"])

    def test_what_a_flush_causes_is_flushed_too(self) -> None:
        """A flush may end a connection, which sends a last packet."""
        second = self.output("second")
        with self.batch:
            self.batch.add(Output(lambda: self.batch.add(second)))
        self.assertEqual(self.flushed, ["second"])

    def test_an_error_in_the_block_flushes_all_the_same(self) -> None:
        """What was sent before it was sent."""

        def fail_in_block() -> None:
            with self.batch:
                self.batch.add(self.output("one"))
                raise ValueError

        self.assertRaises(ValueError, fail_in_block)
        self.assertEqual(self.flushed, ["one"])

    def test_an_output_that_fails_does_not_hold_the_others_back(self) -> None:
        """Neither those that wait beside it nor any that come later."""

        def fail() -> None:
            raise ValueError

        def fail_at_the_end() -> None:
            with self.batch:
                self.batch.add(self.output("beside it"))
                self.batch.add(Output(fail))

        self.assertRaises(ValueError, fail_at_the_end)
        self.assertFalse(self.batch.is_open)
        with self.batch:
            self.batch.add(self.output("later"))
        self.assertEqual(self.flushed, ["later", "beside it"])
