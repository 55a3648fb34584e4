"""What a harness is, and what has to hold for every input.

- Nothing is raised but the errors that the harness names, nothing is logged as a
  failure.
- No input takes more than :data:`MAX_SECONDS` of CPU time.
- No input needs more than :data:`MAX_PEAK` bytes of memory at a time, and what it
  leaves behind when it is run again is less than :data:`MAX_LEFT` bytes.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import cast

import attrs
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure

#: Seconds of CPU time that an input may take.
MAX_SECONDS = 0.1

#: Bytes that an input may need at a time.
MAX_PEAK = 8 * 1024 * 1024

#: Bytes that may be left of an input that has been run before.
MAX_LEFT = 64 * 1024

#: Memory is measured once in so many inputs, as it makes them slow.
_MEASURE_EVERY = 2048

#: Inputs after which all that is built once has been built.
_WARM = 256


@attrs.frozen
class Harness:
    """One parser or state machine.

    :param name: of the harness, and of its corpus.
    :param run: takes an input; raises nothing but ``expected``.
    :param seeds: inputs to begin with, good ones for the most part.
    :param expected: what may be raised.
    :param tokens: what a mutation may put in.
    :param is_machine: whether it is a state machine, of which an input is a script.
    :param prepare: makes it faster in a process that does nothing else; called once.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    expected: tuple[type[Exception], ...] = ()
    tokens: tuple[bytes, ...] = ()
    is_machine: bool = False
    prepare: Callable[[], None] = lambda: None


class Broken(AssertionError):
    """An input for which one of the rules does not hold."""


class CheckedHarness:
    """A harness with its rules; call it with inputs, from one thread.

    ``inputs`` counts them, ``refused`` how often what is expected was raised. To be
    closed when done.
    """

    def __init__(self, harness: Harness) -> None:
        self.inputs = 0
        self.refused = 0
        self._run = harness.run
        self._expected = harness.expected
        self._failures: list[str] = []
        self._observer = cast(ILogObserver, self._logged)
        globalLogPublisher.addObserver(self._observer)

    def close(self) -> None:
        """Listen to the log no more."""
        globalLogPublisher.removeObserver(self._observer)

    def __call__(self, data: bytes) -> None:
        """Run one input.

        :raises Broken: when it takes too long, too much memory, or logs a failure.
        """
        self.inputs += 1
        seconds = self._timed(data)
        if seconds > MAX_SECONDS:
            # Something else may have come between, such as a garbage collection.
            seconds = min(self._timed(data) for _ in range(3))
            if seconds > MAX_SECONDS:
                raise Broken(f"took {seconds:.3f} seconds")
        if self.inputs % _MEASURE_EVERY == _WARM:
            self.measure_memory(data)
        if self._failures:
            failures = "\n".join(self._failures)
            self._failures.clear()
            raise Broken(f"logged a failure: {failures}")

    def _timed(self, data: bytes) -> float:
        started = time.thread_time()
        try:
            self._run(data)
        except self._expected:
            self.refused += 1
        return time.thread_time() - started

    def measure_memory(self, data: bytes) -> None:
        """Run an input with an eye on memory.

        :raises Broken: when it needs too much, or leaves too much behind.
        """
        self._timed(data)
        gc.collect()
        tracemalloc.start()
        try:
            self._timed(data)
            _, peak = tracemalloc.get_traced_memory()
            gc.collect()
            left, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        if peak > MAX_PEAK:
            raise Broken(f"needed {peak} bytes of memory")
        if left > MAX_LEFT:
            raise Broken(f"left {left} bytes of memory behind")

    def _logged(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if isinstance(failure, Failure):
            self._failures.append(failure.getTraceback())
        elif event.get("log_level") in (LogLevel.error, LogLevel.critical):
            self._failures.append(str(event.get("log_format")))
