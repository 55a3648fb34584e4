"""The steps of a rotation."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import RotationRefused
from rtunnel.trust.bundle import Phase, TrustBundle
from rtunnel.trust.rotation import BACK, FORTH, AuthorityState, step, wanted_phase
from rtunnel.wire.keys import ED25519
from tests.wire.examples import private_key

OLD, NEW, THIRD = (private_key(ED25519, name).public for name in ("old", "new", "3"))


def take(bundle: TrustBundle | None, to: Phase) -> TrustBundle:
    """One step from a bundle, or from the beginning."""
    state = AuthorityState.of("host", bundle, [OLD])
    return step(state, OLD, to, THIRD if bundle and bundle.signs == NEW else NEW)


class StepTests(SynchronousTestCase):
    """Which keys each phase has."""

    def test_a_whole_rotation(self) -> None:
        """Trusted before it signs, and trusted until nothing needs it."""
        trusted = take(None, Phase.TRUSTED)
        self.assertEqual((trusted.trusted, trusted.signs), ((OLD, NEW), OLD))
        signs = take(trusted, Phase.SIGNS)
        self.assertEqual((signs.trusted, signs.signs), ((OLD, NEW), NEW))
        retired = take(signs, Phase.RETIRED)
        self.assertEqual((retired.trusted, retired.signs), ((NEW,), NEW))
        self.assertEqual(retired.other, OLD)
        again = take(retired, Phase.TRUSTED)
        self.assertEqual((again.trusted, again.signs), ((NEW, THIRD), NEW))
        self.assertEqual(again.generation, 4)

    def test_each_step_can_be_taken_back(self) -> None:
        """With the keys as they were, and a generation more."""
        trusted = take(None, Phase.TRUSTED)
        steady = take(trusted, Phase.STEADY)
        self.assertEqual((steady.trusted, steady.signs), ((OLD,), OLD))
        signs = take(trusted, Phase.SIGNS)
        back = take(signs, Phase.TRUSTED)
        self.assertEqual((back.trusted, back.signs), (trusted.trusted, OLD))
        self.assertEqual(back.other, NEW)
        retired = take(signs, Phase.RETIRED)
        back = take(retired, Phase.SIGNS)
        self.assertEqual((set(back.trusted), back.signs), ({OLD, NEW}, NEW))

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.booleans(), max_size=12))
    def test_at_each_step_both_generations_share_a_trusted_key(
        self, moves: list[bool]
    ) -> None:
        """What signs before a step is believed by who trusts what was trusted, and so
        nobody is left behind who follows each step."""
        bundle: TrustBundle | None = None
        trusted: set[object] = {OLD}
        signing = OLD
        for forth in moves:
            phase = Phase.STEADY if bundle is None else bundle.phase
            if not forth and phase not in BACK:
                continue
            bundle = take(bundle, (FORTH if forth else BACK)[phase])
            self.assertTrue(trusted & set(bundle.trusted))
            self.assertIn(bundle.signs, trusted, "signs before it was trusted")
            if bundle.signs != signing:
                self.assertIn(signing, bundle.trusted, "still used, but not trusted")
            trusted, signing = set(bundle.trusted), bundle.signs

    def test_other_keys_that_were_trusted_stay(self) -> None:
        """An authority may have more than the two that take part."""
        state = AuthorityState.of("user", None, [OLD, THIRD])
        self.assertIsNone(state.signs)
        trusted = step(state, OLD, Phase.TRUSTED, NEW)
        self.assertEqual(set(trusted.trusted), {OLD, NEW, THIRD})
        signs = take(trusted, Phase.SIGNS)
        self.assertEqual(set(take(signs, Phase.RETIRED).trusted), {NEW, THIRD})


class WantedPhaseTests(SynchronousTestCase):
    """What the operator asks for."""

    def test_without_a_wish_it_is_the_next(self) -> None:
        """Or the one before, going back."""
        self.assertEqual(wanted_phase(Phase.STEADY, None, False), Phase.TRUSTED)
        self.assertEqual(wanted_phase(Phase.RETIRED, None, False), Phase.TRUSTED)
        self.assertEqual(wanted_phase(Phase.SIGNS, None, True), Phase.TRUSTED)

    def test_where_one_is_already_is_no_step(self) -> None:
        """So that a script can ask twice."""
        self.assertEqual(wanted_phase(Phase.SIGNS, Phase.SIGNS, False), Phase.SIGNS)

    def test_more_than_one_step_is_refused(self) -> None:
        """And so is a step back from the beginning."""
        for now, to, back in (
            (Phase.STEADY, Phase.SIGNS, False),
            (Phase.STEADY, Phase.RETIRED, False),
            (Phase.STEADY, None, True),
            (Phase.RETIRED, Phase.STEADY, False),
            (Phase.SIGNS, Phase.STEADY, True),
        ):
            self.assertRaises(RotationRefused, wanted_phase, now, to, back)
