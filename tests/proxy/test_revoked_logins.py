"""Revoked while connected: two proxies that share a registry, and everybody at them."""

from __future__ import annotations

import time
from pathlib import Path

from twisted.internet.defer import Deferred

from rtunnel.errors import AuthenticationFailed, ConfigError, OpenRefused
from rtunnel.proxy.live_logins import REVOKED
from rtunnel.proxy.service import ProxyService
from rtunnel.ssh.connection import Connection
from rtunnel.state_directory import load_agent_credentials, load_public_key
from rtunnel.trust.revocation import Revocation, RevocationKind
from rtunnel.wire.keys import PrivateKey
from tests.proxy.running import EVERYTHING, Peer, events
from tests.proxy.test_krl_file import krl
from tests.proxy.two_proxies import TwoProxiesTestCase

#: Seconds within which every proxy has to act.
WITHIN = 10.0


class RevokedTestCase(TwoProxiesTestCase):
    """Who is revoked, and how it is noticed."""

    timeout = 60

    async def revoke(self, kind: RevocationKind, value: str) -> Revocation:
        """By way of the first proxy."""
        record = Revocation.make(kind, value, reason="laptop lost", created=time.time())
        await self.proxy.revoking.add(record)
        self.began = time.monotonic()
        return record

    async def ended(self, peer: Peer) -> str:
        """Wait for a connection's end, which has to come in time.

        :return: what the far end was told.
        """
        reason: str = await peer.lost
        self.assertLess(time.monotonic() - self.began, WITHIN)
        return reason

    def peer_of(self, connection: Connection) -> Peer:
        """What serves the far end of a connection that the test has made."""
        return next(p for p in self.peers if p.connection is connection)


class RevokedTests(RevokedTestCase):
    """Logins and connections at both proxies."""

    async def test_person_is_disconnected_everywhere(self) -> None:
        """At both proxies, in mid-connection; nobody else is."""
        agent = await self.agent_in_service()
        there = await self.agent_at_other("agent-2")
        alice = await self.client("alice")
        also_alice = await self.client("alice", port=self.other_port)
        bob = await self.client("bob")
        connections = [await self.opened(each) for each in (alice, also_alice, bob)]
        far_ends = [self.peer_of(each) for each in (alice, also_alice, bob)]
        await self.revoke(RevocationKind.USER, "alice")
        for far_end in far_ends[:2]:
            self.assertIn(REVOKED, await self.ended(far_end))
        for _, received in connections[:2]:
            await received.ended
        with self.assertRaises(AuthenticationFailed):
            await self.client("alice")
        with self.assertRaises(AuthenticationFailed):
            await self.client("alice", port=self.other_port)
        channel, received = connections[2]
        channel.write(b"still here")
        await self.until(lambda: received.data == b"still here")
        for each in (far_ends[2], agent, there):
            self.assertFalse(each.lost.called)
        for audit in (self.audit_text(), self.other_audit()):
            (login,) = events(audit, "login_ended")
            self.assertEqual((login["user"], login["outcome"]), ("alice", "refused"))
            self.assertEqual(login["reason"], "user alice is revoked: laptop lost")
            (closed,) = events(audit, "connection_closed")
            self.assertEqual((closed["user"], closed["outcome"]), ("alice", "refused"))
            self.assertIn("laptop lost", closed["reason"])
        (revoked,) = events(self.audit_text(), "revoked")
        self.assertEqual(revoked["target"], "user:alice")
        self.assertEqual(revoked["reason"], "laptop lost")

    async def test_what_is_trusted_again_can_log_in(self) -> None:
        """At both proxies."""
        record = await self.revoke(RevocationKind.USER, "alice")
        for let_in in (False, True):
            for port in (self.port, self.other_port):
                while await self.lets_in(port) is not let_in:
                    pass
            if not let_in:
                await self.proxy.revoking.remove(record.id)
        (removed,) = events(self.audit_text(), "revocation_removed")
        self.assertEqual(removed["target"], "user:alice")

    async def lets_in(self, port: int) -> bool:
        """Whether Alice can log in."""
        try:
            connection = await self.client("alice", port=port)
        except AuthenticationFailed:
            return False
        connection.close("only a look")
        return True

    async def test_connection_through_a_peer_is_closed_by_the_peer_too(self) -> None:
        """The proxy with the tunnel acts by itself: the first one need not tell it."""
        await self.agent_at_other()
        alice, bob = await self.client("alice"), await self.client("bob")
        (_, alices), (_, bobs) = await self.opened(alice), await self.opened(bob)
        # The first proxy does not hear of it.
        self.proxy.parts.revocations.stop()
        await self.revoke(RevocationKind.USER, "alice")
        await alices.ended
        self.assertLess(time.monotonic() - self.began, WITHIN)
        (closed,) = events(self.other_audit(), "connection_closed")
        self.assertEqual((closed["user"], closed["outcome"]), ("alice", "refused"))
        self.assertFalse(self.peer_of(alice).lost.called)
        with self.assertRaisesRegex(OpenRefused, "does not accept your key"):
            await self.opened(alice)
        self.assertFalse(bobs.ended.called)
        await self.opened(bob)

    async def test_agent_loses_its_tunnels(self) -> None:
        """At both proxies, and cannot come back; another one of the cluster stays."""
        state = self.make_agent()
        credentials = load_agent_credentials(state, "b", time.time())
        here = await self.agent(state)
        there = await self.agent(state, port=self.other_port)
        for agent in (here, there):
            await agent.greet(self.reactor)
        other = await self.agent_in_service("other")
        await self.revoke(RevocationKind.AGENT, credentials.instance)
        for agent in (here, there):
            self.assertIn(REVOKED, await self.ended(agent))
        for port in (self.port, self.other_port):
            with self.assertRaises(AuthenticationFailed):
                await self.agent(state, port=port)
        self.assertFalse(other.lost.called)

    async def test_agent_that_has_not_greeted_yet_is_ended_too(self) -> None:
        """It is logged in, though it has no tunnel."""
        agent = await self.agent(self.make_agent())
        await self.revoke(RevocationKind.CLUSTER, "b")
        self.assertIn(REVOKED, await self.ended(agent))

    async def test_cluster_goes_offline(self) -> None:
        """All of its agents, and no other's."""
        agents = [await self.agent_in_service(name) for name in ("one", "two")]
        other = await self.agent_in_service("three", cluster="c")
        await self.revoke(RevocationKind.CLUSTER, "b")
        for agent in agents:
            self.assertIn(REVOKED, await self.ended(agent))
        client = await self.client("bob")
        with self.assertRaisesRegex(OpenRefused, "is offline"):
            await self.open_target(client, "web1.b")
        await self.open_target(client, "web1.c")
        self.assertFalse(other.lost.called)

    async def test_certificates_are_revoked_one_by_one(self) -> None:
        """By serial, by key, by key id: who has another one may stay."""
        for kind, value in (
            (RevocationKind.SERIAL, lambda c: str(c.serial)),
            (RevocationKind.KEY, lambda c: c.key.fingerprint),
        ):
            ends = []
            for key, certificate in (self.person("alice"), self.person("alice")):
                ends.append(Peer())
                await self.connect(ends[-1], key, certificate)
            await self.revoke(kind, value(certificate))
            self.assertIn(REVOKED, await self.ended(ends[1]))
            with self.assertRaises(AuthenticationFailed):
                await self.connect(Peer(), key, certificate)
            self.assertFalse(ends[0].lost.called)
        await self.revoke(RevocationKind.KEY_ID, "alice")
        self.assertIn(REVOKED, await self.ended(ends[0]))

    async def test_listed_key_is_revoked_without_touching_the_file(self) -> None:
        """By its fingerprint, or by the person's name."""
        for kind in (RevocationKind.KEY, RevocationKind.USER):
            key, far_end = PrivateKey.generate(), Peer()
            line = key.public.to_openssh("carol")
            (self.state / "authorized_keys").write_text(line + "\n")
            await self.connect(far_end, key, None)
            by_key = kind is RevocationKind.KEY
            await self.revoke(kind, key.public.fingerprint if by_key else "carol")
            self.assertIn(REVOKED, await self.ended(far_end))
            with self.assertRaises(AuthenticationFailed):
                await self.connect(Peer(), key, None)

    async def test_revoked_authority_takes_everybody_with_it(self) -> None:
        """Whom it has signed, at once; others' logins stay."""
        agent = await self.agent_in_service()
        alice = await self.client("alice")
        far_end = self.peer_of(alice)
        authority, _ = load_public_key(self.state / "user_ca.pub")
        await self.revoke(RevocationKind.KEY, authority.fingerprint)
        self.assertIn(REVOKED, await self.ended(far_end))
        with self.assertRaises(AuthenticationFailed):
            await self.client("bob")
        self.assertFalse(agent.lost.called)

    async def test_revoked_proxy_is_cut_off(self) -> None:
        """Its login at the other one ends, and the link to it as well."""
        await self.agent_at_other()
        await self.opened(await self.client("bob"))
        self.assertEqual(len(self.links()), 1)
        as_first = await self.as_peer()
        far_end = self.peer_of(as_first)
        await self.revoke(RevocationKind.KEY_ID, self.proxy.status()["proxy"]["id"])
        self.assertIn(REVOKED, await self.ended(far_end))
        await self.until(lambda: not self.links())
        with self.assertRaises(AuthenticationFailed):
            await self.as_peer()

    async def test_link_to_a_revoked_proxy_is_closed(self) -> None:
        """By who made it; and none is made again."""
        await self.agent_at_other()
        client = await self.client("bob")
        _, received = await self.opened(client)
        # The other one, being compromised, acts on nothing.
        self.other.parts.revocations.stop()
        await self.revoke(RevocationKind.KEY_ID, self.other.status()["proxy"]["id"])
        await received.ended
        self.assertLess(time.monotonic() - self.began, WITHIN)
        await self.until(lambda: not self.links())
        with self.assertRaisesRegex(OpenRefused, "is revoked"):
            await self.opened(client)


class RevocationListTests(RevokedTestCase):
    """An OpenSSH list at one proxy; the other would have it as well."""

    other_settings = ("revocation.krl=[]",)

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        """With an empty list to begin with."""
        self.list = Path(self.mktemp()).absolute()
        self.list.write_bytes(krl())
        self.settings = (EVERYTHING, f"revocation.krl=['{self.list}']")
        return super().setUp()

    async def test_list_is_read_when_it_changes(self) -> None:
        """Who comes to be on it is disconnected; who goes from it may come back."""
        key, certificate = self.person("alice")
        alice, bob = Peer(), Peer()
        await self.connect(alice, key, certificate)
        await self.connect(bob, *self.person("bob"))
        self.began = time.monotonic()
        self.list.write_bytes(krl(key.public.blob))
        self.assertIn(REVOKED, await self.ended(alice))
        self.assertFalse(bob.lost.called)
        with self.assertRaises(AuthenticationFailed):
            await self.connect(Peer(), key, certificate)
        (ended,) = events(self.audit_text(), "login_ended")
        self.assertIn(f"is on the list {self.list}", ended["reason"])
        # The other proxy has no such list.
        await self.connect(Peer(), key, certificate, self.other_port)
        # Half a list takes nothing back.
        self.list.write_bytes(krl()[:-1])
        self.proxy.reload()
        self.assertIsNotNone(self.proxy.status()["revocation"]["problem"])
        with self.assertRaises(AuthenticationFailed):
            await self.connect(Peer(), key, certificate)
        self.list.write_bytes(krl(version=2))
        self.proxy.reload()
        await self.connect(Peer(), key, certificate)

    def test_list_that_is_missing_at_start_is_an_error(self) -> None:
        """Which names the file."""
        self.list.unlink()
        with self.assertRaisesRegex(ConfigError, str(self.list)):
            ProxyService(self.config, self.reactor, now=time.time)
