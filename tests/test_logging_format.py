"""Log events as lines."""

from __future__ import annotations

import io
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel, LogLevelFilterPredicate
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.logging_format import (
    MAX_ITEMS,
    MAX_MESSAGE,
    at_least,
    event_as_json,
    event_as_text,
    make_observer,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.binary() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def event(message: str = "dialling {host}", **fields: Any) -> dict[str, Any]:
    """An event as Logger makes it."""
    return {
        "log_time": 1767225600.5,
        "log_level": LogLevel.warn,
        "log_namespace": "rtunnel.agent.pool",
        "log_format": message,
        **fields,
    }


class Unshowable:
    """An object that cannot even be printed."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


def failure() -> Failure:
    """A failure with a traceback of several lines."""
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        return Failure()


class AtLeastTests(SynchronousTestCase):
    """:func:`at_least`."""

    def test_events_pass_from_a_level_on(self) -> None:
        """As Twisted's own predicate has it, also for events that have no level."""
        for least in LogLevel.iterconstants():
            ours, twisteds = at_least(least), LogLevelFilterPredicate(least)
            for level in (*LogLevel.iterconstants(), None):
                each = {**event(), "log_level": level}
                self.assertEqual(ours(each), twisteds(each), (least, level))


class TextTests(SynchronousTestCase):
    """``--log-format=text``."""

    def test_a_line_is_time_level_logger_message(self) -> None:
        """In this order, the time in UTC."""
        self.assertEqual(
            event_as_text(event(host="web1")),
            "2026-01-01T00:00:00.500Z warn rtunnel.agent.pool dialling web1\n",
        )

    def test_a_message_may_call_what_it_names(self) -> None:
        """As Twisted allows, and what is wrong with a message is said."""
        line = event_as_text(event("on {host()}: {port:05d}", host=lambda: 1, port=22))
        assert line is not None
        self.assertTrue(line.endswith(" on 1: 00022\n"), line)
        line = event_as_text(event("dialling {nobody}"))
        assert line is not None
        self.assertIn("Unable to format event", line)

    def test_a_traceback_stays_on_the_line(self) -> None:
        """Escaped, so that a collector sees one event."""
        line = event_as_text(event(host="web1", log_failure=failure()))
        assert line is not None
        self.assertEqual(line.count("\n"), 1)
        self.assertIn("dialling web1: Traceback", line)
        self.assertIn("ValueError: first\\nsecond", line)

    def test_an_event_that_says_nothing_is_no_line(self) -> None:
        """twisted.python.log makes such events."""
        self.assertIsNone(event_as_text(event("")))

    @settings(deadline=None, max_examples=100)
    @given(st.text())
    def test_nothing_begins_another_line(self, host: str) -> None:
        """Nor does it speak to the terminal."""
        line = event_as_text(event(host=host))
        assert line is not None
        self.assertTrue(line[:-1].isprintable())
        self.assertTrue(line.endswith("\n"))


class JsonTests(SynchronousTestCase):
    """``--log-format=json``."""

    def as_json(self, given: dict[str, Any]) -> dict[str, Any]:
        line = event_as_json(given)
        assert line is not None
        self.assertEqual((line.count("\n"), line[-1]), (1, "\n"))
        loaded: dict[str, Any] = json.loads(line)
        return loaded

    def test_fields_stand_beside_the_message(self) -> None:
        """Under their own names and of their own types."""
        self.assertEqual(
            self.as_json(event(host="web1", port=22, agent=b"\xff", rtt=0.5)),
            {
                "time": "2026-01-01T00:00:00.500Z",
                "level": "warn",
                "logger": "rtunnel.agent.pool",
                "message": "dialling web1",
                "host": "web1",
                "port": 22,
                "agent": "\\xff",
                "rtt": 0.5,
            },
        )

    def test_no_field_takes_the_place_of_ours(self) -> None:
        """A field called level does not change the level."""
        line = self.as_json(event(host="h", level="critical", time=0) | {"message": ()})
        self.assertEqual(line["level"], "warn")
        self.assertEqual(line["message"], "dialling h")

    def test_a_traceback_is_a_field(self) -> None:
        """With its lines."""
        line = self.as_json(event(host="h", log_failure=failure()))
        self.assertIn("\nbuiltins.ValueError: first\nsecond", line["traceback"])

    def test_what_cannot_be_shown_costs_no_line(self) -> None:
        """Not even an object whose repr fails."""
        line = self.as_json(event("hello", thing=Unshowable(), number=float("nan")))
        self.assertEqual(line["thing"], "<a Unshowable that cannot be shown>")
        self.assertEqual(line["number"], "nan")

    def test_long_fields_are_cut(self) -> None:
        """Texts and lists."""
        line = self.as_json(event("{text}", text="x" * 100000, many=list(range(1000))))
        self.assertEqual(len(line["text"]), MAX_MESSAGE + 3)
        self.assertEqual(len(line["message"]), MAX_MESSAGE + 3)
        self.assertEqual(len(line["many"]), MAX_ITEMS)

    @settings(deadline=None, max_examples=100)
    @given(VALUES)
    def test_any_value_makes_one_line_of_ascii(self, value: object) -> None:
        """Which is JSON that every reader takes."""
        line = event_as_json(event("hello", value=value))
        assert line is not None
        self.assertTrue(line[:-1].isascii())
        self.assertTrue(line[:-1].isprintable())
        json.loads(line, parse_constant=lambda name: self.fail(name))


class ObserverTests(SynchronousTestCase):
    """From a Logger to a stream."""

    def test_events_of_a_logger_reach_the_stream(self) -> None:
        """In the format that was asked for."""
        for log_format, expected in (
            ("text", " error rtunnel.x no web1\n"),
            ("json", '"level": "error"'),
        ):
            stream = io.StringIO()
            observer: Any = make_observer(log_format, stream)
            Logger("rtunnel.x", observer=observer).error("no {host}", host="web1")
            self.assertIn(expected, stream.getvalue())
