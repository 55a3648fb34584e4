"""Tunnels whose proxy would not be believed any longer."""

from __future__ import annotations

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent import host_watch
from rtunnel.agent.host_watch import (
    AHEAD,
    FINISH,
    GRACE,
    LOOK_INTERVAL,
    HostWatch,
)
from rtunnel.discovery.messages import Drain
from rtunnel.discovery.trust_messages import Trust
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.bundle import Phase
from rtunnel.trust.revocation import (
    NO_REVOCATIONS,
    Revocation,
    RevocationKind,
    Revocations,
)
from rtunnel.trust.rotation import AuthorityState, step
from rtunnel.wire.certificate import FOREVER, Certificate
from rtunnel.wire.keys import PrivateKey
from tests.agent.trusting import TrustTestCase

NOW = 1_000_000.0
WEEK = 7 * 86400.0
PROXY = "7923810a-bece-430a-93bb-fb467082192a"


@attrs.define
class Held:
    """A tunnel in service."""

    host_certificate: Certificate | None
    proxy_id: str | None = PROXY
    drained: float | None = None
    closed: str | None = None

    def drain(self, seconds: float) -> None:
        """Keep how long it has."""
        self.drained = seconds

    def close(self, reason: str) -> None:
        """Keep what the proxy is told."""
        self.closed = reason


class HostWatchTests(SynchronousTestCase):
    """By the clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.authority = CertificateAuthority(PrivateKey.generate(), now=lambda: NOW)
        self.trusted = [self.authority.public]
        self.tunnel = Held(self.certificate())
        self.anew: list[str] = []
        self.revoked = NO_REVOCATIONS
        self.watch = HostWatch(
            clock=self.clock,
            now=lambda: NOW + self.clock.seconds(),
            trusted=lambda: self.trusted,
            tunnels=lambda: [self.tunnel] if self.tunnel.drained is None else [],
            revocations=lambda: self.revoked,
            every=lambda: [self.tunnel],
            make_anew=self.anew.append,
        )
        self.watch.start()
        self.addCleanup(self.watch.stop)

    def certificate(self) -> Certificate:
        """A proxy's, for a week from now on."""
        return CertificateAuthority(
            self.authority._key, now=lambda: NOW + self.clock.seconds()
        ).sign_host(
            PrivateKey.generate().public,
            proxy_id=PROXY,
            cluster="a",
            public_names=[],
            validity=WEEK,
        )

    def after(self, seconds: float) -> None:
        """Time passes, with a look at its end."""
        self.clock.advance(seconds)

    def test_a_good_one_is_left_alone(self) -> None:
        """For most of the life of its certificate."""
        self.after((1 - AHEAD) * WEEK - LOOK_INTERVAL)
        self.assertEqual((self.anew, self.tunnel.drained), ([], None))

    def test_it_is_made_anew_before_the_certificate_ends(self) -> None:
        """Once; the next one stands on the certificate that was renewed."""
        self.after((1 - AHEAD) * WEEK + LOOK_INTERVAL)
        self.after(LOOK_INTERVAL)
        self.assertEqual(self.anew, [PROXY])
        self.tunnel = Held(self.certificate())
        self.after(AHEAD * WEEK)
        self.assertEqual((self.anew, self.tunnel.drained), ([PROXY], None))

    def test_it_does_not_outlive_the_certificate(self) -> None:
        """Nothing new is served then; what is open has some time."""
        self.after(WEEK - LOOK_INTERVAL)
        self.assertIsNone(self.tunnel.drained)
        self.after(GRACE + 2 * LOOK_INTERVAL)
        self.assertEqual((self.anew, self.tunnel.drained), ([PROXY], FINISH))

    def test_it_does_not_outlive_the_authority(self) -> None:
        """Once that is trusted no longer it has a while to be replaced."""
        self.trusted.clear()
        self.after(LOOK_INTERVAL)
        self.assertEqual((self.anew, self.tunnel.drained), ([PROXY], None))
        self.after(GRACE)
        self.assertEqual((self.anew, self.tunnel.drained), ([PROXY], FINISH))

    def test_revoked_it_is_closed(self) -> None:
        """Within 10 seconds, also while it is let go; nothing is asked for anew."""
        self.assertLess(LOOK_INTERVAL, 10)
        for drained in (None, FINISH):
            self.tunnel = Held(self.certificate(), drained=drained)
            self.after(LOOK_INTERVAL)
            self.assertIsNone(self.tunnel.closed)
            self.revoked = Revocations(
                [
                    Revocation.make(
                        RevocationKind.KEY_ID, PROXY, reason="stolen", created=NOW
                    )
                ]
            )
            self.after(LOOK_INTERVAL)
            self.assertIn("revoked", self.tunnel.closed or "")
            self.assertEqual((self.anew, self.tunnel.drained), ([], drained))
            self.revoked = NO_REVOCATIONS

    def test_trusted_again_it_stays(self) -> None:
        """A rotation was rolled back."""
        self.trusted.clear()
        self.after(LOOK_INTERVAL)
        self.trusted.append(self.authority.public)
        self.after(GRACE)
        self.assertIsNone(self.tunnel.drained)

    def test_a_certificate_without_an_end_is_good(self) -> None:
        """As some make them by hand."""
        endless = attrs.evolve(self.certificate(), valid_before=FOREVER)
        self.tunnel.host_certificate = endless
        self.after(10 * WEEK)
        self.assertEqual((self.anew, self.tunnel.drained), ([], None))

    def test_a_connection_that_is_gone_is_passed_over(self) -> None:
        """It has shown nothing any more."""
        self.tunnel.host_certificate = None
        self.after(10 * WEEK)
        self.assertEqual((self.anew, self.tunnel.drained), ([], None))


class RunningTests(TrustTestCase):
    """An agent, and a proxy that does not follow a rotation."""

    async def test_a_proxy_of_a_retired_authority_is_left(self) -> None:
        """Though it goes on answering, and nobody else is there."""
        self.patch(host_watch, "LOOK_INTERVAL", 0.05)
        self.patch(host_watch, "GRACE", 0.2)
        proxy = self.make_proxy()
        self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        [side] = proxy.sides
        old, new = self.host_ca, PrivateKey.generate()
        state = AuthorityState.of("host", None, [old.public])
        for phase in (Phase.TRUSTED, Phase.SIGNS, Phase.RETIRED):
            bundle = step(state, old.public, phase, new.public).signed([old._key, new])
            state = AuthorityState.of("host", bundle, ())
            assert side.control is not None
            await side.control.send(Trust(bundle))
        await self.until(lambda: side.lost)
        self.assertTrue(any(isinstance(m, Drain) for m in side.received))
        self.assertEqual(len(proxy.sides), 1)
