"""Certificates that end, and rules that change, while something is open."""

from __future__ import annotations

import time

from rtunnel.errors import OpenRefused
from tests.proxy.running import EVERYTHING, Peer, events
from tests.proxy.two_proxies import TwoProxiesTestCase


class OpenTestCase(TwoProxiesTestCase):
    """What the tests below have in common."""

    timeout = 60


class ExpiryTests(OpenTestCase):
    """Certificates of a few seconds."""

    async def test_persons_connections_end_with_the_certificate(self) -> None:
        """Here and at the peer; who has time left stays."""
        await self.agent_at_other()
        bob = await self.client("bob")
        _, bobs = await self.opened(bob)
        key, certificate = self.person("alice", ttl="5s")
        alice = Peer()
        connection = await self.connect(alice, key, certificate)
        _, alices = await self.opened(connection)
        self.assertIn("expired at", await alice.lost)
        self.assertGreaterEqual(time.time(), certificate.valid_before)
        await alices.ended
        self.assertFalse(bobs.ended.called)
        (ended,) = events(self.audit_text(), "login_ended")
        self.assertEqual((ended["user"], ended["outcome"]), ("alice", "refused"))
        (closed,) = events(self.audit_text(), "connection_closed")
        self.assertIn("expired", closed["reason"])
        await self.until(lambda: events(self.other_audit(), "connection_closed"))
        (closed,) = events(self.other_audit(), "connection_closed")
        self.assertEqual(closed["user"], "alice")

    async def test_line_of_authorized_keys_ends_likewise(self) -> None:
        """By its expiry-time, which is to the second."""
        key, _ = self.person("carol")
        end = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 5))
        line = f'expiry-time="{end}" {key.public.to_openssh("carol")}\n'
        (self.state / "authorized_keys").write_text(line)
        carol = Peer()
        await self.connect(carol, key, None)
        self.assertIn("expired at", await carol.lost)

    async def test_agents_tunnel_ends_with_its_certificate(self) -> None:
        """Its cluster is offline then."""
        state = self.directory / "agent"
        self.run_rtunnel(
            *("agent", "sign", "b", "--state", self.state),
            *("--out", state, "--ttl", "5s"),
        )
        agent = await self.agent(state)
        await agent.greet(self.reactor)
        self.assertIn("expired at", await agent.lost)
        client = await self.client("bob")
        with self.assertRaisesRegex(OpenRefused, "is offline"):
            await self.opened(client)
        (ended,) = events(self.audit_text(), "login_ended")
        self.assertEqual((ended["cluster"], ended["agent"]), ("b", agent.instance))


class OutliveTests(OpenTestCase):
    """Both proxies let open connections finish."""

    settings = (EVERYTHING, "limits.sessions_outlive_certificates=true")
    other_settings = settings

    async def test_open_connections_go_on_and_no_new_one_is_opened(self) -> None:
        """Until they end by themselves."""
        await self.agent_at_other()
        key, certificate = self.person("alice", ttl="5s")
        client = await self.connect(Peer(), key, certificate)
        channel, received = await self.opened(client)

        async def refused() -> bool:
            try:
                channel, _ = await self.opened(client)
            except OpenRefused as error:
                # On the very second it may be the peer that says no.
                return "has expired" in error.text
            channel.abort()
            return False

        while not await refused():
            pass
        self.assertGreaterEqual(time.time(), certificate.valid_before)
        channel.write(b"still here")
        await self.until(lambda: received.data == b"still here")
        channel.write_eof()
        await received.ended


class CloseOnChangeTests(OpenTestCase):
    """Rules that are read again."""

    settings = (
        "allow=[{users=['alice', 'bob'], clusters=['*'], targets=['web1:22']}]",
        "close_on_change=true",
    )
    other_settings = settings

    async def test_what_is_allowed_no_longer_is_closed(self) -> None:
        """At the proxy that reads other rules, whoever's client it is."""
        await self.agent_at_other("agent-1")
        for reloaded in (self.proxy, self.other):
            alice, bob = await self.client("alice"), await self.client("bob")
            (_, alices), (_, bobs) = await self.opened(alice), await self.opened(bob)
            state = self.state if reloaded is self.proxy else self.other_state
            path = state / "proxy.toml"
            before = path.read_text()
            path.write_text(before.replace('"alice", ', ""))
            reloaded.reload()
            await alices.ended
            self.assertFalse(bobs.ended.called)
            with self.assertRaises(OpenRefused):
                await self.opened(alice)
            audit = (state / "audit.jsonl").read_text()
            closed = events(audit, "connection_closed")[-1]
            self.assertEqual((closed["user"], closed["outcome"]), ("alice", "refused"))
            self.assertIn("no rule", closed["reason"])
            path.write_text(before)
            reloaded.reload()
            await self.opened(alice)

    async def test_without_the_setting_it_stays(self) -> None:
        """Rules are for new connections then; the setting itself is read again too."""
        await self.agent_in_service()
        alice = await self.client("alice")
        channel, received = await self.opened(alice)
        path = self.state / "proxy.toml"
        text = path.read_text().replace('"alice", ', "")
        path.write_text(
            text.replace("close_on_change = true", "close_on_change = false")
        )
        self.proxy.reload()
        with self.assertRaises(OpenRefused):
            await self.opened(alice)
        channel.write(b"still here")
        await self.until(lambda: received.data == b"still here")
        path.write_text(text)
        self.proxy.reload()
        await received.ended
