"""Trust bundles: what they may say, and who believes them."""

from __future__ import annotations

import json
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import MessageError
from rtunnel.trust.bundle import MAX_BUNDLE, Phase, TrustBundle
from rtunnel.wire.keys import ED25519, RSA
from tests.wire.examples import private_key

OLD, NEW, STRANGER = (private_key(ED25519, name) for name in ("old", "new", "other"))
BIG = private_key(RSA, "old")


def bundle(**changes: Any) -> TrustBundle:
    """The new key is trusted, the old one signs."""
    fields: dict[str, Any] = {
        "role": "host",
        "generation": 3,
        "phase": Phase.TRUSTED,
        "trusted": (OLD.public, NEW.public),
        "signs": OLD.public,
        "other": NEW.public,
    }
    return TrustBundle(**(fields | changes))


SIGNED = bundle().signed([OLD])


class BeliefTests(SynchronousTestCase):
    """A bundle counts for whoever trusts a key that has signed it."""

    def test_it_is_believed_by_who_trusts_a_signer(self) -> None:
        """One of several is enough."""
        both = bundle().signed([OLD, NEW])
        self.assertEqual(both.signer([OLD.public]), OLD.public)
        self.assertEqual(both.signer([NEW.public]), NEW.public)
        self.assertEqual(SIGNED.signer([STRANGER.public, OLD.public]), OLD.public)

    def test_it_is_not_believed_by_others(self) -> None:
        """Not even when it names a key that they trust."""
        self.assertIsNone(SIGNED.signer([NEW.public]))
        self.assertIsNone(bundle().signer([OLD.public]))
        self.assertIsNone(SIGNED.signer([]))

    def test_an_rsa_authority_can_sign(self) -> None:
        """With SHA-2."""
        signed = bundle(trusted=(BIG.public, NEW.public), signs=BIG.public).signed(
            [BIG]
        )
        self.assertEqual(signed.signer([BIG.public]), BIG.public)

    def test_every_field_is_signed(self) -> None:
        """Whatever is changed afterwards, the signature is none."""
        for changes in (
            {"role": "agent"},
            {"generation": 4},
            {"phase": Phase.SIGNS},
            {"trusted": (NEW.public, OLD.public)},
            {"trusted": (OLD.public, NEW.public, STRANGER.public)},
            {"signs": NEW.public, "other": OLD.public},
        ):
            changed = attrs.evolve(SIGNED, **changes)
            self.assertIsNone(changed.signer([OLD.public]), changes)

    @settings(deadline=None, max_examples=100)
    @given(st.integers(0, 82), st.integers(1, 255))
    def test_a_tampered_signature_is_none(self, index: int, flip: int) -> None:
        """Each byte of it counts."""
        signature = bytearray(SIGNED.signatures[0])
        signature[index % len(signature)] ^= flip
        changed = attrs.evolve(SIGNED, signatures=(bytes(signature),))
        self.assertIsNone(changed.signer([OLD.public]))


class FieldTests(SynchronousTestCase):
    """What a bundle cannot say."""

    def test_contradictions_are_refused(self) -> None:
        """A key that signs is trusted, and a phase has the keys that it needs."""
        for changes in (
            {"role": "guest"},
            {"generation": 0},
            {"generation": 2**53},
            {"trusted": ()},
            {"trusted": (NEW.public,)},
            {"trusted": (OLD.public, NEW.public, OLD.public)},
            {"other": None},
            {"other": OLD.public},
            {"other": STRANGER.public},
            {"phase": Phase.STEADY},
            {"phase": Phase.RETIRED},
            {"signatures": (b"",) * 5},
        ):
            with self.assertRaises(MessageError, msg=str(changes)):
                bundle(**changes)

    def test_a_retired_key_is_not_trusted(self) -> None:
        """It is only named, for the way back."""
        retired = bundle(
            phase=Phase.RETIRED,
            trusted=(NEW.public,),
            signs=NEW.public,
            other=OLD.public,
        )
        self.assertEqual(TrustBundle.from_json(retired.to_json()), retired)


class JsonTests(SynchronousTestCase):
    """As registry, files and messages hold it."""

    def test_it_reads_as_it_was_written(self) -> None:
        """With everything, and ignores what it does not know."""
        read = TrustBundle.from_json(SIGNED.to_json())
        self.assertEqual(read, SIGNED)
        fields = json.loads(SIGNED.to_json()) | {"news": 1}
        self.assertEqual(TrustBundle.from_fields(fields), SIGNED)

    def test_what_is_no_bundle_is_refused(self) -> None:
        """With an error of ours."""
        good = SIGNED.to_fields()
        wrong: tuple[dict[str, Any], ...] = (
            {"role": None},
            {"role": ["host"]},
            {"generation": "3"},
            {"generation": True},
            {"phase": "odd"},
            {"phase": []},
            {"trusted": "ssh-ed25519"},
            {"trusted": [1]},
            {"trusted": ["ssh-ed25519 AAAA"]},
            {"trusted": good["trusted"] * 9},
            {"signs": None},
            {"other": 4},
            {"signatures": ["?"]},
            {"signatures": ["\u1234"]},
            {"signatures": None},
        )
        for changes in wrong:
            with self.assertRaises(MessageError, msg=str(changes)):
                TrustBundle.from_fields(good | changes)
        for value in ("", "[]", "{", "[" * 40000, " " * (MAX_BUNDLE + 1)):
            self.assertRaises(MessageError, TrustBundle.from_json, value)

    @settings(deadline=None, max_examples=100)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=10,
        ),
        st.sampled_from(sorted(SIGNED.to_fields())),
    )
    def test_nothing_but_our_error_comes_of_nonsense(
        self, value: object, name: str
    ) -> None:
        """Whatever JSON holds in whichever field."""
        try:
            TrustBundle.from_fields(SIGNED.to_fields() | {name: value})
        except MessageError:
            return
