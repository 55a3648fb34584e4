"""The audit events as lines of JSON."""

from __future__ import annotations

import json
from typing import get_args

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.events import (
    ConnectionClosed,
    ConnectionRefused,
    Event,
    LoginRefused,
    ProxyStarted,
    TunnelDown,
    event_line,
)
from rtunnel.audit.fields import EVENT_FIELDS
from rtunnel.naming import MAX_PRINTED

CLOSED = ConnectionClosed(
    connection_id="c-1",
    user="alice",
    key_id="alice",
    source="192.0.2.7",
    cluster="b",
    target="web1.b:22",
    proxy="p-1",
    agent="a-1",
    bytes_in=10,
    bytes_out=20,
    seconds=1.23456,
)


class EventLineTests(SynchronousTestCase):
    """One line for each event."""

    def test_a_closed_connection_says_everything(self) -> None:
        """Every field of docs/operations.md, by its name."""
        self.assertEqual(
            json.loads(event_line(CLOSED, 1767225600.5)),
            {
                "time": "2026-01-01T00:00:00.500Z",
                "event": "connection_closed",
                "connection_id": "c-1",
                "user": "alice",
                "key_id": "alice",
                "source": "192.0.2.7",
                "cluster": "b",
                "target": "web1.b:22",
                "proxy": "p-1",
                "agent": "a-1",
                "outcome": "ok",
                "bytes_in": 10,
                "bytes_out": 20,
                "seconds": 1.235,
                "reason": "",
            },
        )

    def test_every_line_has_every_field(self) -> None:
        """What an event does not speak of is null, and the order never changes."""
        line = json.loads(event_line(ProxyStarted(proxy="p-1"), 0))
        self.assertEqual(tuple(line), EVENT_FIELDS)
        self.assertIsNone(line["user"])

    def test_events_have_only_known_fields_and_names_of_their_own(self) -> None:
        """The set is closed: a new field would have to be a field of every line."""
        kinds = get_args(Event)
        self.assertEqual(len({kind.event for kind in kinds}), len(kinds))
        for kind in kinds:
            names = {field.name for field in attrs.fields(kind)}
            self.assertLessEqual(names, set(EVENT_FIELDS), kind)
            self.assertIn("outcome", names, kind)

    def test_the_outcome_of_a_closed_connection_goes_by_its_reason(self) -> None:
        """One that broke is not ok."""
        broken = attrs.evolve(CLOSED, reason="connection reset", outcome="failed")
        fields = attrs.asdict(CLOSED) | {"reason": "connection reset"}
        del fields["outcome"]
        self.assertEqual(ConnectionClosed(**fields), broken)

    def test_a_refusal_by_rule_and_one_by_network_differ(self) -> None:
        """The default is the rule."""
        fields = {
            name: value
            for name, value in attrs.asdict(CLOSED).items()
            if name not in ("bytes_in", "bytes_out", "seconds", "outcome")
        }
        self.assertEqual(ConnectionRefused(**fields).outcome, "refused")

    def test_a_clock_that_was_set_back_gives_no_negative_duration(self) -> None:
        """Wall clocks jump."""
        event = TunnelDown(
            proxy="p", source="s", cluster="b", agent="a", seconds=-5, reason=""
        )
        self.assertEqual(json.loads(event_line(event, 0))["seconds"], 0)

    @settings(deadline=None, max_examples=100)
    @given(st.text(max_size=2 * MAX_PRINTED))
    def test_nothing_a_peer_says_leaves_its_field(self, text: str) -> None:
        """One line, printable, cut, and the other fields as they were."""
        event = LoginRefused(proxy="p", source="192.0.2.7", user=text, reason="no")
        line = event_line(event, 0)
        self.assertTrue(line[:-1].isprintable())
        self.assertEqual(line[-1], "\n")
        loaded = json.loads(line)
        self.assertEqual(loaded["event"], "login_refused")
        self.assertEqual(loaded["reason"], "no")
        # Each kept character takes ten at most: \Unnnnnnnn.
        self.assertLessEqual(len(loaded["user"]), 10 * MAX_PRINTED + 3)
