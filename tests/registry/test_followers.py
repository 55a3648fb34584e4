"""Who follows a rotation."""

from __future__ import annotations

import json
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import RegistryError
from rtunnel.registry.followers import Follower, lagging, merged
from rtunnel.trust.bundle import Phase, Role, TrustBundle
from rtunnel.wire.keys import ED25519
from tests.wire.examples import private_key

OLD, NEW = (private_key(ED25519, name).public for name in ("old", "new"))
AGENT = Follower(
    kind="agent",
    id="agent-1",
    name="b",
    by="proxy-1",
    certified_by=OLD.fingerprint,
    issued=100,
    valid_before=200,
    generations={"host": 2},
    seen=110.5,
)
PROXY = attrs.evolve(AGENT, kind="proxy", id="proxy-1", name="one")


def bundle(role: Role, generation: int = 2) -> TrustBundle:
    """The new key signs."""
    return TrustBundle(
        role=role,
        generation=generation,
        phase=Phase.SIGNS,
        trusted=(OLD, NEW),
        signs=NEW,
        other=OLD,
    )


class LaggingTests(SynchronousTestCase):
    """What is missing."""

    def test_an_agent_has_to_trust_the_host_authority(self) -> None:
        """It has no business with who signs for hosts."""
        self.assertEqual(lagging(AGENT, bundle("host")), ())
        [lack] = lagging(AGENT, bundle("host", 3))
        self.assertIn("generation 2", lack)

    def test_an_agent_has_to_use_the_key_that_signs_for_agents(self) -> None:
        """It need not trust that authority, and nobody asks it."""
        [lack] = lagging(AGENT, bundle("agent"))
        self.assertIn(OLD.fingerprint, lack)
        renewed = attrs.evolve(AGENT, certified_by=NEW.fingerprint)
        self.assertEqual(lagging(renewed, bundle("agent")), ())

    def test_a_proxy_has_to_trust_and_to_use(self) -> None:
        """All three authorities the one, that of hosts the other."""
        self.assertEqual(len(lagging(PROXY, bundle("host", 3))), 2)
        self.assertEqual(len(lagging(PROXY, bundle("agent"))), 1)
        self.assertEqual(len(lagging(PROXY, bundle("user"))), 1)
        followed = attrs.evolve(PROXY, generations={"user": 2})
        self.assertEqual(lagging(followed, bundle("user")), ())

    def test_agents_have_nothing_to_do_for_the_user_authority(self) -> None:
        """They do not know it."""
        self.assertEqual(lagging(AGENT, bundle("user")), ())


class MergedTests(SynchronousTestCase):
    """What several proxies have seen of one agent."""

    def test_the_newest_certificate_counts_and_every_generation(self) -> None:
        """Whoever has seen it."""
        newer = attrs.evolve(
            AGENT,
            by="proxy-2",
            certified_by=NEW.fingerprint,
            issued=150,
            valid_before=250,
            generations={},
            seen=90.0,
        )
        for records in ([AGENT, newer], [newer, AGENT]):
            [one] = merged(records)
            self.assertEqual(one.certified_by, NEW.fingerprint)
            self.assertEqual(one.generations, {"host": 2})
            self.assertEqual(one.seen, 110.5)

    def test_others_are_others(self) -> None:
        """In the order of kind and id."""
        other = attrs.evolve(AGENT, id="agent-2")
        self.assertEqual(merged([other, PROXY, AGENT]), (AGENT, other, PROXY))


class JsonTests(SynchronousTestCase):
    """As the registry holds it."""

    def test_it_reads_as_it_was_written(self) -> None:
        """And ignores what it does not know."""
        self.assertEqual(Follower.from_json(AGENT.to_json()), AGENT)
        more = json.dumps(json.loads(AGENT.to_json()) | {"news": 1})
        self.assertEqual(Follower.from_json(more), AGENT)

    @settings(deadline=None, max_examples=150)
    @given(
        st.sampled_from(sorted(json.loads(AGENT.to_json()))),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
    def test_nonsense_is_an_error_of_ours(self, name: str, value: Any) -> None:
        """Whatever lies in which field."""
        fields = json.loads(AGENT.to_json()) | {name: value}
        try:
            Follower.from_json(json.dumps(fields))
        except RegistryError:
            return

    def test_what_a_terminal_would_act_on_is_refused(self) -> None:
        """``rtunnel ca status`` shows it."""
        bad = attrs.evolve(AGENT, name="\x1b[2J").to_json()
        self.assertRaises(RegistryError, Follower.from_json, bad)

    def test_no_json_is_an_error_of_ours(self) -> None:
        """Nor what is no object."""
        for value in ("", "[]", "null", "[" * 40000):
            self.assertRaises(RegistryError, Follower.from_json, value)
