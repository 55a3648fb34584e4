"""Heartbeats, and what their absence says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.discovery.liveness import Liveness
from rtunnel.discovery.messages import Heartbeat


def run(liveness: Liveness, last_received: float, start: float = 0.0) -> float:
    """Tick at every interval until the peer is dead; when that was."""
    now = start
    while liveness.tick(now, last_received) is not None:
        now += liveness.interval
    return now


class LivenessTests(SynchronousTestCase):
    """One end of a tunnel."""

    def test_heartbeats_are_numbered(self) -> None:
        """From 0, one by one."""
        liveness = Liveness()
        beats = [liveness.tick(now, now) for now in (0.0, 5.0, 10.0)]
        self.assertEqual(beats, [Heartbeat(0), Heartbeat(1), Heartbeat(2)])

    def test_silent_peer_is_dead_after_three_missed(self) -> None:
        """Silent from the start: 15 s after the first heartbeat."""
        self.assertEqual(run(Liveness(), last_received=-1.0), 15.0)

    @settings(deadline=None, max_examples=200)
    @given(
        st.floats(0, 100),
        st.floats(0.01, 60),
        st.integers(1, 10),
    )
    def test_dead_within_missed_and_one_intervals(
        self, last: float, interval: float, missed: int
    ) -> None:
        """Whenever the last byte came: never early, never later than promised."""
        liveness = Liveness(interval, missed)
        now = 0.0
        while now <= last:
            self.assertIsNotNone(liveness.tick(now, now))
            now += interval
        dead = run(liveness, last, now)
        tolerance = 1e-6 * (1 + dead)
        self.assertLessEqual(dead - last, interval * (missed + 1) + tolerance)
        self.assertGreaterEqual(dead - last, interval * missed - tolerance)

    def test_any_byte_is_life(self) -> None:
        """A peer that never answers but sends something stays alive."""
        liveness = Liveness()
        for beat in range(100):
            now = beat * 5.0
            self.assertIsNotNone(liveness.tick(now, now - 2.0))
        self.assertFalse(liveness.dead)

    def test_suspect_after_one_missed_until_the_next_byte(self) -> None:
        """A tunnel that is not answering takes no dials, and takes them again."""
        liveness = Liveness()
        liveness.tick(0.0, 0.0)
        liveness.tick(5.0, 1.0)
        self.assertFalse(liveness.suspect(1.0))
        liveness.tick(10.0, 1.0)
        self.assertTrue(liveness.suspect(1.0))
        self.assertFalse(liveness.suspect(10.5))
        liveness.tick(15.0, 10.5)
        self.assertFalse(liveness.suspect(10.5))

    def test_dead_is_final(self) -> None:
        """A byte after the end changes nothing: the tunnel is being closed."""
        liveness = Liveness()
        run(liveness, -1.0)
        self.assertIsNone(liveness.tick(20.0, 19.0))
        self.assertTrue(liveness.dead)
        self.assertTrue(liveness.suspect(19.0))

    def test_own_absence_is_not_the_peers(self) -> None:
        """After an hour of sleep the peer gets its heartbeats as before."""
        liveness = Liveness()
        liveness.tick(0.0, -1.0)
        for now in (3600.0, 3605.0):
            self.assertIsNotNone(liveness.tick(now, -1.0))
        self.assertIsNone(liveness.tick(3610.0, -1.0))

    def test_round_trip_is_smoothed(self) -> None:
        """The first as it is, each further one with a weight of one eighth."""
        liveness = Liveness()
        self.assertIsNone(liveness.rtt)
        liveness.tick(0.0, 0.0)
        liveness.answered(0, 0.080)
        self.assertEqual(liveness.rtt, 0.080)
        liveness.tick(5.0, 0.1)
        liveness.answered(1, 5.160)
        self.assertAlmostEqual(liveness.rtt or 0, 0.090)

    def test_answers_that_nobody_waits_for_are_passed_over(self) -> None:
        """Made up, or a second time."""
        liveness = Liveness()
        liveness.tick(0.0, 0.0)
        liveness.answered(7, 1.0)
        self.assertIsNone(liveness.rtt)
        liveness.answered(0, 1.0)
        liveness.answered(0, 3.0)
        self.assertEqual(liveness.rtt, 1.0)

    def test_nonsense_is_refused(self) -> None:
        """An interval of nothing would be a busy loop."""
        self.assertRaises(ValueError, Liveness, 0.0, 3)
        self.assertRaises(ValueError, Liveness, 5.0, 0)
