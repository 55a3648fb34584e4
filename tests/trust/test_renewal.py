"""The schedule of renewals, in virtual time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.trust.authority import BACKDATE, CertificateAuthority
from rtunnel.trust.renewal import (
    AGENT_VALIDITY,
    ENDED_WAIT,
    MAX_WAIT,
    MIN_WAIT,
    Warnings,
    lifetime,
    renewal_due,
    retry_wait,
)
from rtunnel.wire.certificate import (
    FOREVER,
    Certificate,
    CertificateKind,
    sign_certificate,
)
from rtunnel.wire.keys import ED25519
from tests.wire.examples import private_key

NOW = 1_800_000_000.0
KEY = private_key(ED25519, "key")


def certificate(seconds: float) -> Certificate:
    """One that is valid for that long from now."""
    return CertificateAuthority(KEY, now=lambda: NOW).sign_agent(
        KEY.public,
        cluster="b",
        instance="0b0e0ad2-5a4c-4d4e-9d5c-0f6a3c1c7d11",
        validity=seconds,
    )


class DueTests(SynchronousTestCase):
    """When the next certificate is asked for."""

    def test_two_thirds_of_the_life(self) -> None:
        """Without chance; of seconds as well as of days."""
        for seconds in (9, 60, AGENT_VALIDITY):
            due = renewal_due(certificate(seconds), lambda: 0.0)
            assert due is not None
            self.assertAlmostEqual((due - NOW) / seconds, 2 / 3, places=6)

    def test_chance_only_brings_it_forward(self) -> None:
        """By a tenth of the life at most, so that not all ask at once."""
        due = renewal_due(certificate(1000), lambda: 0.999)
        assert due is not None
        self.assertTrue(566 < due - NOW < 568, due - NOW)

    def test_a_certificate_without_end_is_not_renewed(self) -> None:
        """There is nothing to renew it for."""
        endless = sign_certificate(
            KEY,
            KEY.public,
            kind=CertificateKind.USER,
            key_id="x",
            principals=["b"],
            valid_after=0,
            valid_before=FOREVER,
            serial=1,
        )
        self.assertIsNone(renewal_due(endless, lambda: 0.5))

    def test_a_certificate_of_less_than_the_backdating_has_a_life(self) -> None:
        """Made by others, who date back differently."""
        short = sign_certificate(
            KEY,
            KEY.public,
            kind=CertificateKind.USER,
            key_id="x",
            principals=["b"],
            valid_after=int(NOW),
            valid_before=int(NOW) + BACKDATE // 2,
            serial=1,
        )
        self.assertEqual(lifetime(short), BACKDATE // 2)


class RetryTests(SynchronousTestCase):
    """After an attempt that failed."""

    @settings(deadline=None, max_examples=100)
    @given(
        st.floats(10, 30 * 86400),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
    )
    def test_there_are_attempts_until_the_end(
        self, life: float, first: float, chance: float
    ) -> None:
        """Several, in any life, and never one at the heels of the other."""
        renewed = certificate(life)
        now = renewal_due(renewed, lambda: first)
        assert now is not None
        attempts = 0
        while now < renewed.valid_before:
            wait = retry_wait(renewed, now, lambda: chance)
            self.assertTrue(MIN_WAIT <= wait <= MAX_WAIT)
            now += wait
            attempts += 1
        self.assertGreaterEqual(attempts, 3)
        self.assertLess(attempts, 1500)

    def test_after_the_end_it_is_tried_now_and_then(self) -> None:
        """The tunnel may have outlived the certificate."""
        wait = retry_wait(certificate(10), NOW + 11, lambda: 0.5)
        self.assertEqual(wait, ENDED_WAIT)


class WarningsTests(SynchronousTestCase):
    """What the log says of a certificate that nobody renews."""

    def test_it_is_said_more_often_towards_the_end(self) -> None:
        """At once, each time that half has passed, and once when it has ended."""
        warnings, subject = Warnings(), certificate(1024)
        said = [t for t in range(1300) if warnings.due(subject, NOW + t)]
        self.assertEqual(
            said, [0, 512, 768, 896, 960, 992, 1008, 1016, 1020, 1022, 1023, 1024]
        )

    def test_the_next_certificate_begins_anew(self) -> None:
        """What was said of another one does not count."""
        warnings = Warnings()
        self.assertTrue(warnings.due(certificate(100), NOW))
        self.assertTrue(warnings.due(certificate(200), NOW + 2))
        self.assertTrue(warnings.due(certificate(100), NOW + 3))
