"""The phases of a rotation, one step at a time, forth and back. Pure.

.. code-block:: text

    steady → trusted → signs → retired → trusted (of the next rotation) → ...
           ←         ←       ←
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import attrs

from rtunnel.errors import RotationRefused
from rtunnel.trust.bundle import Phase, Role, TrustBundle
from rtunnel.wire.keys import PublicKey

FORTH: Final = {
    Phase.STEADY: Phase.TRUSTED,
    Phase.TRUSTED: Phase.SIGNS,
    Phase.SIGNS: Phase.RETIRED,
    Phase.RETIRED: Phase.TRUSTED,
}
BACK: Final = {
    Phase.TRUSTED: Phase.STEADY,
    Phase.SIGNS: Phase.TRUSTED,
    Phase.RETIRED: Phase.SIGNS,
}


@attrs.frozen
class AuthorityState:
    """Where an authority stands, with a bundle or, before its first rotation, without.

    :param generation: 0 without a bundle.
    :param other: see :class:`~rtunnel.trust.bundle.TrustBundle`.
    """

    role: Role
    generation: int
    phase: Phase
    trusted: tuple[PublicKey, ...]
    signs: PublicKey | None
    other: PublicKey | None = None

    @classmethod
    def of(
        cls, role: Role, bundle: TrustBundle | None, anchors: Collection[PublicKey]
    ) -> AuthorityState:
        """By the bundle; without one, by what is trusted.

        :param anchors: the keys of the role that are trusted now. The one key among
            them signs; of several, nobody can tell which does.
        """
        if bundle is None:
            keys = tuple(sorted(anchors, key=lambda key: key.blob))
            signs = keys[0] if len(keys) == 1 else None
            return cls(role, 0, Phase.STEADY, keys, signs)
        return cls(
            role,
            bundle.generation,
            bundle.phase,
            bundle.trusted,
            bundle.signs,
            bundle.other,
        )


def wanted_phase(now: Phase, to: Phase | None, back: bool) -> Phase:
    """The phase to go to.

    :param to: where the operator wants to be; None is one step further.
    :param back: go a step back instead.
    :return: the present phase when ``to`` is that.
    :raises RotationRefused: when that is no single step.
    """
    if back:
        if now not in BACK:
            raise RotationRefused(
                f"the phase is {now.value}: there is nothing to roll back"
            )
        if to not in (None, BACK[now]):
            raise RotationRefused(
                f"one step back from {now.value} is {BACK[now].value}"
            )
        return BACK[now]
    if to is None or to is now:
        return to or FORTH[now]
    if to not in (FORTH[now], BACK.get(now)):
        raise RotationRefused(
            f"the phase is {now.value}, so {FORTH[now].value} comes next; {to.value} "
            "is not one step away"
        )
    return to


def step(
    state: AuthorityState, signs: PublicKey, to: Phase, new: PublicKey | None = None
) -> TrustBundle:
    """The bundle of the next phase, not signed yet.

    :param signs: the key that signs now, for the time before the first bundle.
    :param to: from :func:`wanted_phase`, and another one than the present.
    :param new: the new key, for the first phase of a rotation.
    """
    old = state.signs or signs
    trusted: Sequence[PublicKey] = state.trusted
    other = state.other
    match state.phase, to:
        case ((Phase.STEADY | Phase.RETIRED), Phase.TRUSTED):
            assert new is not None
            keys, signing, other = (*trusted, new), old, new
        case Phase.TRUSTED, Phase.STEADY:
            keys = tuple(key for key in trusted if key != other)
            signing, other = old, None
        case (Phase.TRUSTED, Phase.SIGNS) | (Phase.SIGNS, Phase.TRUSTED):
            assert other is not None
            keys, signing, other = tuple(trusted), other, old
        case Phase.SIGNS, Phase.RETIRED:
            keys = tuple(key for key in trusted if key != other)
            signing = old
        case Phase.RETIRED, Phase.SIGNS:
            assert other is not None
            keys, signing = (*trusted, other), old
        case _:
            raise AssertionError(f"no step from {state.phase} to {to}")
    return TrustBundle(
        role=state.role,
        generation=state.generation + 1,
        phase=to,
        trusted=tuple(keys),
        signs=signing,
        other=other,
    )
