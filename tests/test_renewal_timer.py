"""The timer of renewals, in virtual time."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import SigningUnavailable
from rtunnel.renewal_timer import HASTY_WAIT, RenewalTimer
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import ED25519
from tests.wire.examples import private_key

NOW = 1_800_000_000.0
LIFE = 3600
KEY = private_key(ED25519, "key")


class RenewalTimerTests(SynchronousTestCase):
    """A certificate of an hour; chance never brings anything forward."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.shift = self.chance = 0.0
        self.present = self.certify()
        self.attempts: list[float] = []
        self.problem: str | None = None
        self.waiting: Deferred[None] | None = None
        self.timer = RenewalTimer(
            self.clock,
            now=self.now,
            chance=lambda: self.chance,
            certificate=lambda: self.present,
            renew=self.renew,
            what_to_do="call the operator",
        )
        self.addCleanup(self.timer.stop)

    def now(self) -> float:
        """The wall clock."""
        return NOW + self.clock.seconds() + self.shift

    def certify(self, seconds: float = LIFE) -> Certificate:
        """A new certificate."""
        return CertificateAuthority(KEY, now=self.now).sign_agent(
            KEY.public,
            cluster="b",
            instance="0b0e0ad2-5a4c-4d4e-9d5c-0f6a3c1c7d11",
            validity=seconds,
        )

    async def renew(self) -> None:
        """Get the next certificate."""
        self.attempts.append(self.clock.seconds())
        if self.waiting is not None:
            await self.waiting
        if self.problem is not None:
            raise SigningUnavailable(self.problem)
        self.present = self.certify()

    def run_for(self, seconds: float) -> None:
        """Let time pass, a second at a time."""
        for _ in range(int(seconds)):
            self.clock.advance(1)

    def test_each_certificate_is_renewed_at_two_thirds_of_its_life(self) -> None:
        """Again and again."""
        self.timer.start()
        self.run_for(4 * LIFE * 2 / 3 + 10)
        self.assertEqual(
            [round(t / LIFE, 2) for t in self.attempts], [0.67, 1.33, 2.0, 2.67]
        )

    def test_a_failure_is_tried_again_until_it_works(self) -> None:
        """Sooner and sooner, and once done all is as before."""
        self.problem = "nobody can sign"
        self.timer.start()
        self.run_for(LIFE * 0.9)
        self.assertGreater(len(self.attempts), 3)
        gaps = [b - a for a, b in zip(self.attempts, self.attempts[1:], strict=False)]
        self.assertEqual(gaps, sorted(gaps, reverse=True))
        self.problem = None
        self.run_for(LIFE * 0.1)
        count = len(self.attempts)
        self.run_for(LIFE / 2)
        self.assertEqual(len(self.attempts), count)

    def test_what_to_do_is_said_long_before_the_end(self) -> None:
        """With the end, the reason and a command; not at each attempt."""
        self.problem = "nobody can sign"
        with capturedLogs() as logs:
            self.timer.start()
            self.run_for(LIFE * 0.7)
            said = [each for each in logs if "what_to_do" in each]
            self.assertEqual(len(said), 1)
            self.assertEqual(said[0]["what_to_do"], "call the operator")
            self.assertIn("nobody can sign", said[0]["reason"])
            self.run_for(LIFE * 0.4)
        said = [each for each in logs if "what_to_do" in each]
        self.assertLess(len(said), len(self.attempts))
        self.assertEqual(said[-1]["ends"], "ended")

    def test_haste_brings_it_forward(self) -> None:
        """To within seconds; what fails then is not put off for long."""
        self.timer.start()
        self.problem = "the proxy has not followed yet"
        self.timer.hasten(5)
        self.run_for(6)
        self.assertEqual(len(self.attempts), 1)
        self.run_for(HASTY_WAIT * 3 + 3)
        self.assertGreaterEqual(len(self.attempts), 3)
        self.problem = None
        self.run_for(HASTY_WAIT + 1)
        count = len(self.attempts)
        self.run_for(LIFE / 2)
        self.assertEqual(len(self.attempts), count)

    def test_haste_for_one_certificate_is_not_for_the_next(self) -> None:
        """Being told again after it is done changes nothing; another one does."""
        self.chance = 0.5
        self.timer.start()
        for _ in range(3):
            self.timer.hasten(2)
        self.run_for(3)
        self.assertEqual(len(self.attempts), 1)
        self.timer.hasten(2)
        self.run_for(3)
        self.assertEqual(len(self.attempts), 2)

    def test_a_certificate_that_somebody_else_renewed_is_left_alone(self) -> None:
        """Until its own time has come."""
        self.timer.start()
        self.run_for(LIFE / 2)
        self.present = self.certify()
        self.timer.certificate_changed()
        self.run_for(LIFE / 2)
        self.assertEqual(self.attempts, [])
        self.run_for(LIFE / 4)
        self.assertEqual(len(self.attempts), 1)

    def test_a_clock_that_is_set_is_noticed(self) -> None:
        """Within a minute, whatever was planned before."""
        self.timer.start()
        self.run_for(10)
        self.shift = LIFE * 0.8
        self.run_for(61)
        self.assertEqual(len(self.attempts), 1)

    def test_a_signer_whose_clock_is_behind_does_not_keep_it_busy(self) -> None:
        """Every certificate that comes is old already."""
        self.timer._now = lambda: self.now() + 2 * LIFE
        self.timer.start()
        self.run_for(LIFE)
        self.assertLess(len(self.attempts), 12)
        self.assertGreater(len(self.attempts), 6)

    def test_there_is_one_attempt_at_a_time(self) -> None:
        """Whatever is heard meanwhile."""
        self.waiting = Deferred()
        self.timer.start()
        self.timer.hasten(0)
        self.run_for(1)
        self.timer.certificate_changed()
        self.timer.hasten(0)
        self.timer.try_now()
        self.run_for(120)
        self.assertEqual(len(self.attempts), 1)
        self.waiting.callback(None)
        self.assertEqual(len(self.attempts), 1)

    def test_what_was_wanting_may_be_there_now(self) -> None:
        """A tunnel, say: then the wait is over; but only if an attempt has failed."""
        self.timer.start()
        self.timer.try_now()
        self.run_for(1)
        self.assertEqual(self.attempts, [])
        self.problem = "no tunnel is in service"
        self.run_for(LIFE * 2 / 3)
        self.assertEqual(len(self.attempts), 1)
        self.problem = None
        self.timer.try_now()
        self.run_for(1)
        self.assertEqual(len(self.attempts), 2)

    def test_nothing_is_left_when_it_is_stopped(self) -> None:
        """Neither a call nor an attempt."""
        self.waiting = Deferred()
        self.timer.start()
        self.timer.hasten(0)
        self.run_for(1)
        self.timer.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.run_for(LIFE)
        self.assertEqual(len(self.attempts), 1)
