"""The life of one tunnel: every state, every input."""

from __future__ import annotations

from collections.abc import Callable

from automat import NoTransition
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent.machine import (
    Deadlines,
    TunnelCore,
    TunnelLife,
    TunnelMachine,
    TunnelState,
)

DEADLINES = Deadlines(tcp=10, login=15, hello=5, close=4)
DRAIN = 30.0

Input = Callable[[TunnelLife], None]

INPUTS: dict[str, Input] = {
    "start": lambda life: life.start(),
    "connected": lambda life: life.connected(),
    "host_accepted": lambda life: life.host_accepted(),
    "authenticated": lambda life: life.authenticated(),
    "greeted": lambda life: life.greeted(),
    "drain_received": lambda life: life.drain_received(DRAIN),
    "drain_requested": lambda life: life.drain_requested(DRAIN),
    "drained": lambda life: life.drained(),
    "failed": lambda life: life.failed("broken"),
    "close": lambda life: life.close("enough"),
    "deadline_passed": lambda life: life.deadline_passed(),
    "lost": lambda life: life.lost("gone"),
}

#: How to get into each state.
WAY_UP = ["start", "connected", "host_accepted", "authenticated", "greeted"]
WAYS = {
    "IDLE": [],
    "CONNECTING": WAY_UP[:1],
    "HANDSHAKING": WAY_UP[:2],
    "AUTHENTICATING": WAY_UP[:3],
    "GREETING": WAY_UP[:4],
    "IN_SERVICE": WAY_UP,
    "DRAINING": [*WAY_UP, "drain_received"],
    "CLOSING": [*WAY_UP, "close"],
    "CLOSED": [*WAY_UP, "lost"],
}

#: state → input → the state after it. What is not listed cannot come there.
RISING = {
    "drain_requested": "CLOSING",
    "failed": "CLOSING",
    "close": "CLOSING",
    "deadline_passed": "CLOSING",
    "lost": "CLOSED",
}
LATE = dict.fromkeys(
    [
        "connected",
        "host_accepted",
        "authenticated",
        "greeted",
        "drain_received",
        "drain_requested",
        "drained",
        "failed",
        "close",
    ]
)
TABLE: dict[str, dict[str, str]] = {
    "IDLE": {"start": "CONNECTING", "close": "CLOSED", "drain_requested": "CLOSED"},
    "CONNECTING": {**RISING, "connected": "HANDSHAKING"},
    "HANDSHAKING": {**RISING, "host_accepted": "AUTHENTICATING"},
    "AUTHENTICATING": {**RISING, "authenticated": "GREETING"},
    "GREETING": {**RISING, "greeted": "IN_SERVICE", "drain_received": "CLOSING"},
    "IN_SERVICE": {
        "drain_received": "DRAINING",
        "drain_requested": "DRAINING",
        "failed": "CLOSING",
        "close": "CLOSING",
        "lost": "CLOSED",
    },
    "DRAINING": {
        "drain_received": "DRAINING",
        "drain_requested": "DRAINING",
        "drained": "CLOSING",
        "failed": "CLOSING",
        "close": "CLOSING",
        "deadline_passed": "CLOSING",
        "lost": "CLOSED",
    },
    "CLOSING": {
        **dict.fromkeys(LATE, "CLOSING"),
        "deadline_passed": "CLOSING",
        "lost": "CLOSED",
    },
    "CLOSED": {**dict.fromkeys(LATE, "CLOSED"), "lost": "CLOSED"},
}


class RecordingActions:
    """Keeps what the machine asks for."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def dial(self) -> None:
        """See ``TunnelActions``."""
        self.asked.append(("dial",))

    def greet(self) -> None:
        """See ``TunnelActions``."""
        self.asked.append(("greet",))

    def serve(self) -> None:
        """See ``TunnelActions``."""
        self.asked.append(("serve",))

    def refuse_new(self, by_proxy: bool) -> None:
        """See ``TunnelActions``."""
        self.asked.append(("refuse_new", by_proxy))

    def say_drain(self, seconds: float) -> None:
        """See ``TunnelActions``."""
        self.asked.append(("say_drain", seconds))

    def hang_up(self, reason: str) -> None:
        """See ``TunnelActions``."""
        self.asked.append(("hang_up", reason))

    def cut(self) -> None:
        """See ``TunnelActions``."""
        self.asked.append(("cut",))

    def ended(self, reason: str, by_us: bool) -> None:
        """See ``TunnelActions``."""
        self.asked.append(("ended", reason, by_us))


class Subject:
    """A machine, its clock, and what it asked for."""

    def __init__(self, *inputs: str) -> None:
        self.actions = RecordingActions()
        self.clock = Clock()
        self.core = TunnelCore(self.actions, self.clock, DEADLINES)
        self.life = TunnelMachine(self.core)
        for each in inputs:
            self.send(each)

    def send(self, name: str) -> list[tuple[object, ...]]:
        """Give an input; what was asked for because of it."""
        before = len(self.actions.asked)
        INPUTS[name](self.life)
        return self.actions.asked[before:]

    @property
    def state(self) -> str:
        """The state's name."""
        return self.core.state.name


class TransitionTests(SynchronousTestCase):
    """The table above, cell by cell."""

    def test_every_state_is_reached(self) -> None:
        """The ways lead where they say."""
        self.assertEqual(set(WAYS), {state.name for state in TunnelState})
        for state, way in WAYS.items():
            self.assertEqual(Subject(*way).state, state)

    def test_every_input_in_every_state(self) -> None:
        """Into the state that the table says; what it does not list is refused."""
        for state, way in WAYS.items():
            for name in INPUTS:
                subject = Subject(*way)
                after = TABLE[state].get(name)
                if after is None:
                    with self.assertRaises(NoTransition):
                        subject.send(name)
                else:
                    subject.send(name)
                    self.assertEqual(subject.state, after, f"{name} in {state}")

    def test_only_states_that_wait_have_a_deadline(self) -> None:
        """A tunnel in service may last for ever; a closed one leaves no timer."""
        for state, way in WAYS.items():
            timers = len(Subject(*way).clock.getDelayedCalls())
            expected = 0 if state in ("IDLE", "IN_SERVICE", "CLOSED") else 1
            self.assertEqual(timers, expected, state)


class ActionTests(SynchronousTestCase):
    """What the machine asks for, and when."""

    def test_way_up(self) -> None:
        """Dial, greet, serve."""
        subject = Subject(*WAY_UP)
        self.assertEqual(subject.actions.asked, [("dial",), ("greet",), ("serve",)])

    def test_deadlines_hang_up_with_a_sentence_each(self) -> None:
        """Which step took too long, and how long it had."""
        for state, seconds, sentence in (
            ("CONNECTING", 10, "no connection within 10 s"),
            ("HANDSHAKING", 15, "no SSH login within 15 s"),
            ("GREETING", 5, "no answer to hello within 5 s"),
        ):
            subject = Subject(*WAYS[state])
            subject.clock.advance(seconds - 0.1)
            self.assertEqual(subject.state, state)
            subject.clock.advance(0.1)
            self.assertEqual(subject.actions.asked[-1], ("hang_up", sentence))
            self.assertEqual(subject.send("lost"), [("ended", sentence, False)])

    def test_handshake_and_login_share_one_deadline(self) -> None:
        """A proxy cannot take the time twice."""
        subject = Subject("start", "connected")
        subject.clock.advance(10)
        subject.send("host_accepted")
        subject.clock.advance(5)
        self.assertEqual(
            subject.actions.asked[-1], ("hang_up", "no SSH login within 15 s")
        )

    def test_hanging_up_has_a_deadline_too(self) -> None:
        """After that the connection is cut."""
        subject = Subject(*WAYS["CLOSING"])
        subject.clock.advance(DEADLINES.close)
        self.assertEqual(subject.actions.asked[-1], ("cut",))
        self.assertEqual(subject.send("lost"), [("ended", "enough", True)])

    def test_first_reason_counts(self) -> None:
        """What comes of hanging up is not why we hung up."""
        subject = Subject(*WAY_UP)
        self.assertEqual(subject.send("failed"), [("hang_up", "broken")])
        self.assertEqual(subject.send("close"), [])
        self.assertEqual(subject.send("lost"), [("ended", "broken", False)])

    def test_end_is_told_once(self) -> None:
        """Whatever comes after it."""
        subject = Subject(*WAY_UP, "lost")
        self.assertEqual(subject.actions.asked[-1], ("ended", "gone", False))
        for name in TABLE["CLOSED"]:
            self.assertEqual(subject.send(name), [])

    def test_proxy_that_drains_is_not_told_so(self) -> None:
        """It has its seconds, and closes; we do if it does not."""
        subject = Subject(*WAY_UP)
        self.assertEqual(subject.send("drain_received"), [("refuse_new", True)])
        subject.clock.advance(DRAIN)
        self.assertEqual(subject.state, "DRAINING")
        subject.clock.advance(DEADLINES.close)
        self.assertEqual(subject.state, "CLOSING")
        self.assertTrue(subject.core.by_us)

    def test_our_own_drain_is_told(self) -> None:
        """First nothing new, then the word, then the wait."""
        subject = Subject(*WAY_UP)
        self.assertEqual(
            subject.send("drain_requested"),
            [("refuse_new", False), ("say_drain", DRAIN)],
        )
        subject.clock.advance(DRAIN)
        self.assertEqual(subject.state, "CLOSING")

    def test_drained_tunnel_is_closed_by_us(self) -> None:
        """Nobody is to blame."""
        subject = Subject(*WAYS["DRAINING"])
        self.assertEqual(subject.send("drained"), [("hang_up", "drained")])
        self.assertEqual(subject.send("lost"), [("ended", "drained", True)])

    def test_second_drain_shortens_the_wait_and_never_prolongs_it(self) -> None:
        """An agent that stops while a proxy drains keeps to its own time."""
        subject = Subject(*WAY_UP)
        subject.life.drain_received(100.0)
        subject.life.drain_requested(10.0)
        subject.life.drain_requested(60.0)
        subject.clock.advance(10)
        self.assertEqual(subject.state, "CLOSING")

    def test_proxy_that_drains_before_it_answered_hello_is_left(self) -> None:
        """It is no use to us."""
        subject = Subject(*WAYS["GREETING"])
        self.assertEqual(
            subject.send("drain_received"), [("hang_up", "the proxy is draining")]
        )

    def test_connection_that_ends_while_it_is_hung_up_is_ended_once(self) -> None:
        """The connection may be gone before the call to end it returns."""
        subject = Subject(*WAY_UP)

        def hang_up(reason: str) -> None:
            subject.life.lost("closed")

        subject.actions.hang_up = hang_up  # type: ignore[method-assign]
        subject.send("failed")
        self.assertEqual(subject.state, "CLOSED")
        self.assertEqual(subject.actions.asked[-1], ("ended", "broken", False))

    def test_dial_that_fails_at_once_ends_at_once(self) -> None:
        """The same on the way up."""
        subject = Subject()
        subject.actions.dial = lambda: subject.life.lost("no")  # type: ignore[method-assign]
        subject.send("start")
        self.assertEqual(subject.actions.asked, [("ended", "no", False)])


class LifeMachine(RuleBasedStateMachine):
    """Inputs that can come, in any order, with time passing between them."""

    @initialize()
    def begin(self) -> None:
        """A tunnel is made."""
        self.subject = Subject()

    @invariant()
    def ended_exactly_when_closed(self) -> None:
        """Once, and as the last thing."""
        asked = [each[0] for each in self.subject.actions.asked]
        closed = self.subject.state == "CLOSED"
        assert asked.count("ended") == closed
        assert not closed or asked[-1] == "ended"

    @invariant()
    def closed_leaves_no_timer(self) -> None:
        """Nor does a tunnel in service have one."""
        if self.subject.state in ("CLOSED", "IN_SERVICE"):
            assert not self.subject.clock.getDelayedCalls()

    @rule()
    def time_passes(self) -> None:
        """Some of a deadline, or the rest of it."""
        self.subject.clock.advance(3)


def _rule_for(name: str) -> Callable[[LifeMachine], None]:
    def give(self: LifeMachine) -> None:
        if name in TABLE[self.subject.state]:
            self.subject.send(name)

    give.__name__ = name
    return give


for _name in INPUTS:
    if _name != "deadline_passed":
        setattr(LifeMachine, f"input_{_name}", rule()(_rule_for(_name)))


class AnyOrderTests(SynchronousTestCase):
    """The machine under everything that can happen to it."""

    def test_rules_hold_whatever_happens(self) -> None:
        """See :class:`LifeMachine`."""
        run_state_machine_as_test(
            LifeMachine,
            settings=settings(deadline=None, max_examples=100, stateful_step_count=25),
        )
