"""Tests for :mod:`rtunnel.wire.window`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ProtocolError
from rtunnel.wire.window import (
    MAX_WINDOW,
    ReceiveWindow,
    SendWindow,
    WindowBudget,
    WindowExceeded,
)

KIB = 1024
MIB = 1024 * KIB


class SendWindowTests(SynchronousTestCase):
    """What the peer lets us send."""

    def test_takes_no_more_than_remains(self) -> None:
        """A window of 10 bytes gives 10 of 25 bytes, then none."""
        window = SendWindow(10)
        self.assertEqual(window.take(25), 10)
        self.assertEqual(window.take(25), 0)

    def test_adjustment_adds(self) -> None:
        """Adjustments add to what remains."""
        window = SendWindow(10)
        window.adjusted(5)
        self.assertEqual(window.remaining, 15)

    def test_may_reach_the_maximum(self) -> None:
        """RFC 4254 section 5.2 allows a window of exactly 2^32-1 bytes."""
        window = SendWindow(1)
        window.adjusted(MAX_WINDOW - 1)
        self.assertEqual(window.remaining, MAX_WINDOW)

    def test_may_not_pass_the_maximum(self) -> None:
        """One byte more than 2^32-1 is a protocol error."""
        window = SendWindow(1)
        with self.assertRaises(ProtocolError):
            window.adjusted(MAX_WINDOW)
        self.assertEqual(window.remaining, 1)


class ReceiveWindowTests(SynchronousTestCase):
    """What we let the peer send."""

    def make(self, total: int = 48 * MIB) -> ReceiveWindow:
        """A window of 256 KiB that may grow to 2 MiB."""
        budget = WindowBudget(total)
        return ReceiveWindow(budget, 256 * KIB, 2 * MIB, 32 * KIB, 0.0)

    def use_up(self, window: ReceiveWindow, now: float, lasting: list[float]) -> None:
        """Receive all that it takes, once for each of these times in seconds."""
        for seconds in lasting:
            used = window.remaining
            window.received(used)
            window.consumed(used)
            now += seconds
            window.credit(now)

    def test_credit_is_due_at_half(self) -> None:
        """Nothing goes back before half of the window was consumed."""
        window = self.make()
        window.received(128 * KIB - 1)
        window.consumed(128 * KIB - 1)
        self.assertEqual(window.credit(0.1), 0)
        window.received(1)
        window.consumed(1)
        self.assertGreaterEqual(window.credit(0.1), 128 * KIB)

    def test_no_credit_for_what_is_held(self) -> None:
        """Data that nobody consumed gives no credit, however much of it there is."""
        window = self.make()
        window.received(256 * KIB)
        self.assertEqual(window.credit(0.1), 0)
        self.assertEqual(window.remaining, 0)

    def test_more_than_the_window_is_refused(self) -> None:
        """Data past the window raises, and is not counted."""
        window = self.make()
        with self.assertRaises(WindowExceeded):
            window.received(256 * KIB + 1)
        self.assertEqual(window.remaining, 256 * KIB)

    def test_grows_to_its_maximum_while_busy(self) -> None:
        """A window used up quickly doubles until it is as large as it may be. What
        counts is how long it lasted, not how old the channel is."""
        for began in (0.0, 100.0):
            window = self.make()
            self.use_up(window, began, [0.1] * 12)
            self.assertEqual(window.remaining, 2 * MIB)

    def test_grows_in_steps_until_much_has_been_taken(self) -> None:
        """To 512 KiB, to 768 when 1 MiB is through, to all of it after 4 MiB."""
        window = self.make()
        sizes = []
        for turn in range(9):
            sizes.append(window.remaining // KIB)
            self.use_up(window, turn / 10, [0.1])
        self.assertEqual(sizes, [256, 512, 512] + [768] * 4 + [1536, 2048])

    def test_shrinks_when_it_lasts(self) -> None:
        """A large window that lasts for long goes back to its first size."""
        window = self.make()
        self.use_up(window, 0.0, [0.1] * 10 + [100.0] * 10)
        self.assertEqual(window.remaining, 256 * KIB)

    def test_release_gives_everything_back(self) -> None:
        """After release the budget has what the window had, also when repeated."""
        budget = WindowBudget(16 * MIB)
        window = ReceiveWindow(budget, 64 * KIB, MIB, 32 * KIB, 0.0)
        window.received(100)
        window.release()
        window.release()
        self.assertEqual(budget.granted, 0)


class WindowBudgetTests(SynchronousTestCase):
    """All the channels of one connection together."""

    def make(self, budget: WindowBudget) -> ReceiveWindow:
        """A window as every channel has it."""
        return ReceiveWindow(budget, 256 * KIB, 2 * MIB, 16 * KIB, 0.0)

    def work(self, window: ReceiveWindow, turn: int) -> None:
        """Use a window up, consume it all and get credit, in a tenth of a second."""
        used = window.remaining
        window.received(used)
        window.consumed(used)
        window.credit(turn / 10)

    def test_bounds_a_thousand_stalled_channels(self) -> None:
        """64 MiB hold what they can make us hold, idle at first or busy till then."""
        for busy in (0, 20):
            budget = WindowBudget(48 * MIB)
            windows = [self.make(budget) for _ in range(1000)]
            for turn in range(busy):
                for window in windows:
                    self.work(window, turn)
            for window in windows:
                window.received(window.remaining)
                window.credit(busy / 10)
            held = sum(window.held + window.remaining for window in windows)
            self.assertEqual(held, budget.granted)
            self.assertLess(held, 60 * MIB)

    def stop(self, windows: list[ReceiveWindow], turns: int) -> None:
        """Let them work, and then nobody take what comes."""
        for turn in range(turns):
            for window in windows:
                self.work(window, turn)
        for window in windows:
            window.received(window.remaining)
            window.credit(turns / 10)

    def test_two_hundred_that_stopped_leave_one_that_moves_its_window(self) -> None:
        """They had moved as much as the buffers of their targets hold."""
        budget = WindowBudget(48 * MIB)
        stopped = [self.make(budget) for _ in range(200)]
        self.stop(stopped, 30)
        self.assertGreater(sum(window.held for window in stopped), 24 * MIB)
        moving = self.make(budget)
        for turn in range(30, 800):
            self.work(moving, turn)
        self.assertGreater(moving.remaining, 7 * MIB // 4)

    def test_two_hundred_that_stopped_early_leave_one_that_begins_its_window(
        self,
    ) -> None:
        """Its window grows as soon as it is no longer new, as they are."""
        budget = WindowBudget(48 * MIB)
        stopped = [self.make(budget) for _ in range(200)]
        self.stop(stopped, 2)
        moving = self.make(budget)
        moved, turn = 0, 2
        while moved < 3 * MIB:
            moved += moving.remaining
            self.work(moving, turn)
            turn += 1
        self.assertGreaterEqual(moving.remaining, 256 * KIB)

    def test_two_hundred_that_stopped_late_leave_as_much_as_each_has(self) -> None:
        """After they had moved hundreds of MiB."""
        budget = WindowBudget(48 * MIB)
        stopped = [self.make(budget) for _ in range(200)]
        self.stop(stopped, 1000)
        moving = self.make(budget)
        for turn in range(1000, 3000):
            self.work(moving, turn)
        self.assertGreater(moving.remaining, 192 * KIB)

    def test_idle_channels_leave_a_busy_one_its_window(self) -> None:
        """Two hundred do not matter, and beside a thousand it starts with 256 KiB."""
        for idle, least in ((10, 2 * MIB), (200, 2 * MIB), (1000, 256 * KIB)):
            budget = WindowBudget(48 * MIB)
            for _ in range(idle):
                self.make(budget)
            moving = self.make(budget)
            for turn in range(100):
                self.work(moving, turn)
            self.assertGreaterEqual(moving.remaining, least, idle)

    def test_a_used_up_budget_still_moves_every_channel(self) -> None:
        """With nothing left, a channel goes on with its least window."""
        budget = WindowBudget(MIB)
        for _ in range(100):
            hog = ReceiveWindow(budget, 256 * KIB, 2 * MIB, 32 * KIB, 0.0)
            hog.received(hog.remaining)
        window = ReceiveWindow(budget, 256 * KIB, 2 * MIB, 32 * KIB, 0.0)
        for turn in range(10):
            self.assertGreaterEqual(window.remaining, 32 * KIB)
            used = window.remaining
            window.received(used)
            window.consumed(used)
            self.assertGreater(window.credit(turn / 10), 0)

    def test_one_channel_gets_a_ninth(self) -> None:
        """One busy channel cannot take the whole budget."""
        budget = WindowBudget(4 * MIB)
        window = ReceiveWindow(budget, 256 * KIB, 1024 * MIB, 32 * KIB, 0.0)
        for turn in range(100):
            used = window.remaining
            window.received(used)
            window.consumed(used)
            window.credit(turn / 100)
        self.assertEqual(window.remaining, 4 * MIB // 9)

    @settings(max_examples=200, deadline=None)
    @given(
        steps=st.lists(
            st.tuples(
                st.integers(0, 3),
                st.sampled_from(["receive", "consume", "credit", "release"]),
                st.integers(0, 300 * KIB),
                st.floats(0, 20),
            ),
            max_size=60,
        )
    )
    def test_account_always_balances(
        self, steps: list[tuple[int, str, int, float]]
    ) -> None:
        """Whatever happens, the budget's account is the sum of its windows."""
        budget = WindowBudget(MIB)
        windows = [
            ReceiveWindow(budget, 256 * KIB, MIB, 32 * KIB, 0.0) for _ in range(4)
        ]
        now = 0.0
        for index, action, count, seconds in steps:
            window = windows[index]
            now += seconds
            if action == "receive":
                window.received(min(count, window.remaining))
            elif action == "consume":
                window.consumed(min(count, window.held))
            elif action == "credit":
                window.credit(now)
                if not window.held:
                    self.assertGreater(window.remaining, 0)
            else:
                window.release()
            self.assertEqual(budget.granted, sum(w.remaining + w.held for w in windows))
            self.assertLessEqual(budget.granted, MIB + 4 * 32 * KIB)
