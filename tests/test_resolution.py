"""Names to addresses, once."""

from __future__ import annotations

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IHostnameResolver,
    IReactorPluggableNameResolver,
)
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rtunnel.resolution import LOOPBACK, MAX_ADDRESSES, interleaved, resolve
from tests.agent.reactors import FakeResolver


@implementer(IReactorPluggableNameResolver)
@attrs.define
class FakeReactor:
    """Has a name resolver and nothing else."""

    nameResolver: FakeResolver

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """See ``IReactorPluggableNameResolver``."""
        raise NotImplementedError


class ResolveTests(SynchronousTestCase):
    """What a host stands for."""

    def setUp(self) -> None:
        """A resolver that knows one name."""
        table = {"web1": ["10.0.0.5", "fd00::5", "10.0.0.5", "10.0.0.6"]}
        self.resolver = FakeResolver(table)

    def resolve(self, host: str) -> Deferred[tuple[str, ...]]:
        """Begin to resolve."""
        return Deferred.fromCoroutine(resolve(FakeReactor(self.resolver), host))

    def test_addresses_come_in_order_and_once(self) -> None:
        """As the system prefers them."""
        resolving = self.resolve("web1")
        self.assertNoResult(resolving)
        self.resolver.answer()
        self.assertEqual(
            self.successResultOf(resolving), ("10.0.0.5", "fd00::5", "10.0.0.6")
        )

    def test_unknown_name_has_none(self) -> None:
        """It is for the caller to say so in its own words."""
        resolving = self.resolve("nowhere")
        self.resolver.answer()
        self.assertEqual(self.successResultOf(resolving), ())

    def test_addresses_stand_for_themselves(self) -> None:
        """Nobody is asked."""
        for address in ("192.0.2.1", "fd00::5"):
            self.assertEqual(self.successResultOf(self.resolve(address)), (address,))
        self.assertEqual(self.resolver.asked, [])

    def test_localhost_is_never_asked_for(self) -> None:
        """A resolver may say anything about it (RFC 6761 section 6.3)."""
        for name in ("localhost", "LOCALHOST.", "db.localhost"):
            self.assertEqual(self.successResultOf(self.resolve(name)), LOOPBACK)
        self.assertEqual(self.resolver.asked, [])

    def test_32_addresses_are_looked_at(self) -> None:
        """A name that has thousands does not occupy us for ever."""
        self.resolver.table = {"many": [f"10.0.{n}.1" for n in range(200)]}
        resolving = self.resolve("many")
        self.resolver.answer()
        self.assertEqual(len(self.successResultOf(resolving)), MAX_ADDRESSES)

    def test_what_is_no_ip_address_is_passed_over(self) -> None:
        """A resolver plugin can give anything."""
        resolving = self.resolve("odd")
        self.resolver.waiting[0].addressResolved(UNIXAddress("/run/odd"))
        self.resolver.answer()
        self.assertEqual(self.successResultOf(resolving), ())

    def test_answer_after_nobody_waits_is_dropped(self) -> None:
        """A resolver in a thread cannot be stopped."""
        resolving = self.resolve("web1")
        resolving.cancel()
        self.failureResultOf(resolving, CancelledError)
        self.resolver.answer()


ADDRESSES = ("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "10.0.0.3")


class InterleavedTests(SynchronousTestCase):
    """The order in which addresses are tried."""

    def test_families_take_turns(self) -> None:
        """RFC 8305 section 4: a family that does not work costs one attempt in two."""
        self.assertEqual(
            interleaved(ADDRESSES),
            ("10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2", "10.0.0.3"),
        )

    def test_rotation_begins_with_another_address(self) -> None:
        """In the family of that one."""
        self.assertEqual(interleaved(ADDRESSES, 1)[0], "10.0.0.2")
        self.assertEqual(interleaved(ADDRESSES, 2)[:2], ("fd00::1", "10.0.0.3"))
        self.assertEqual(interleaved(ADDRESSES, 5), interleaved(ADDRESSES))

    def test_nothing_stays_nothing(self) -> None:
        """Whatever the rotation."""
        self.assertEqual(interleaved((), 3), ())

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.sampled_from(ADDRESSES), unique=True), st.integers(0, 20))
    def test_every_address_is_tried_once(self, some: list[str], rotation: int) -> None:
        """And each comes first in its turn."""
        self.assertEqual(sorted(interleaved(some, rotation)), sorted(some))
        firsts = {interleaved(some, n)[0] for n in range(len(some)) if some}
        self.assertEqual(firsts, set(some))
