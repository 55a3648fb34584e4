"""Tests for :mod:`rtunnel.agent.trust`: authorities followed, proxies revoked."""

from __future__ import annotations

import attrs
from twisted.logger import LogLevel, capturedLogs

from rtunnel.discovery.trust_messages import Revoked, Trust
from rtunnel.errors import RequestFailed
from rtunnel.state_directory import load_trust_anchors
from rtunnel.trust.bundle import Phase
from rtunnel.trust.revocation import Revocation, RevocationKind
from rtunnel.trust.revoked_hosts import RevokedHosts, following
from rtunnel.trust.rotation import AuthorityState, step
from rtunnel.trust_files import load_revoked_hosts
from rtunnel.wire.keys import PrivateKey
from tests.agent.proxies import NOW, FakeProxy
from tests.agent.trusting import TrustTestCase


class RotationTests(TrustTestCase):
    """Another host authority."""

    def bundle(self, *signers: PrivateKey, new: PrivateKey | None = None) -> Trust:
        """The new key is trusted beside the present one."""
        state = AuthorityState.of("host", None, [self.host_ca.public])
        new = new or PrivateKey.generate()
        made = step(state, self.host_ca.public, Phase.TRUSTED, new.public)
        return Trust(made.signed(signers))

    async def test_a_bundle_of_the_authority_is_believed_and_stored(self) -> None:
        """Success says so; and a proxy of the new authority is accepted."""
        proxy = self.make_proxy()
        self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        trust = self.bundle(self.host_ca._key)
        control = proxy.sides[0].control
        assert control is not None
        await control.send(trust)
        self.assertEqual(load_trust_anchors(self.anchors), trust.bundle.trusted)
        await control.send(trust)

    async def test_a_bundle_of_anybody_else_is_refused(self) -> None:
        """With failure, a log line that says what to do, and no other consequence."""
        proxy = self.make_proxy()
        self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        stranger = PrivateKey.generate()
        control = proxy.sides[0].control
        assert control is not None
        for trust in (self.bundle(stranger, new=stranger), self.bundle()):
            with capturedLogs() as logs, self.assertRaises(RequestFailed):
                await control.send(trust)
            [said] = [e for e in logs if e["log_level"] is LogLevel.error]
            self.assertIn("copy host_ca.pub", said["reason"])
        self.assertEqual(load_trust_anchors(self.anchors), (self.host_ca.public,))
        self.assertIsNone(proxy.sides[0].lost)

    async def test_bundles_of_other_authorities_are_none_of_its_business(self) -> None:
        """An agent trusts proxies, and judges nobody else."""
        proxy = self.make_proxy()
        self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        control = proxy.sides[0].control
        assert control is not None
        bundle = self.bundle(self.host_ca._key).bundle
        wrong = attrs.evolve(bundle, role="user").signed([self.host_ca._key])
        with self.assertRaises(RequestFailed):
            await control.send(Trust(wrong))
        self.assertFalse((self.state / "user_ca.pub").exists())


class RevokedTests(TrustTestCase):
    """Proxies that the host authority has revoked."""

    def revoked(self, proxy: FakeProxy, *signers: PrivateKey) -> Revoked:
        """The next list, with one of them on it."""
        entry = Revocation.make(
            RevocationKind.KEY_ID, proxy.id, reason="stolen", created=NOW
        )
        known = load_revoked_hosts(self.state, [self.host_ca.public])
        return Revoked(following(known, NOW, add=entry).signed(signers))

    async def test_a_tunnel_to_it_is_closed_and_not_made_again(self) -> None:
        """Whoever says so, if the authority has signed it; and after a restart."""
        stolen, good = self.make_proxy(), self.make_proxy()
        service = self.start(stolen, good)
        await self.until(lambda: stolen.tunnels and good.tunnels)
        control = good.sides[0].control
        assert control is not None
        message = self.revoked(stolen, self.host_ca._key)
        await control.send(message)
        await self.until(lambda: stolen.sides[0].lost is not None)
        self.assertIsNone(good.sides[0].lost)
        # It is dialled again, and hung up on before the login.
        await self.until(lambda: stolen.connections > 2)
        self.assertEqual(len(stolen.sides), 1)
        # An older list does not count any more.
        empty = RevokedHosts(1).signed([self.host_ca._key])
        await control.send(Revoked(empty))
        self.assertEqual(
            load_revoked_hosts(self.state, [self.host_ca.public]), message.hosts
        )
        self.assertIsNotNone(service._credentials.present.revoked)

    async def test_a_list_that_the_authority_has_not_signed_is_refused(self) -> None:
        """A proxy that was stolen cannot have the others refused."""
        stolen, good = self.make_proxy(), self.make_proxy()
        self.start(stolen, good)
        await self.until(lambda: stolen.tunnels and good.tunnels)
        control = stolen.sides[0].control
        assert control is not None
        for signers in ((), (PrivateKey.generate(),)):
            with capturedLogs() as logs, self.assertRaises(RequestFailed):
                await control.send(self.revoked(good, *signers))
            [said] = [e for e in logs if e["log_level"] is LogLevel.error]
            self.assertIn("has signed", said["reason"])
        self.assertIsNone(good.sides[0].lost)
        self.assertIsNone(load_revoked_hosts(self.state, [self.host_ca.public]))
