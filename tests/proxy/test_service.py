"""Tests of the proxy as a whole: :mod:`rtunnel.proxy.service` and what it wires."""

from __future__ import annotations

import json
import os
import time

from twisted.internet.defer import Deferred

from rtunnel.discovery.messages import DiscoveryRequest, Drain
from rtunnel.errors import AuthenticationFailed, OpenRefused, RequestFailed
from rtunnel.proxy.service import ProxyService
from rtunnel.wire.data_types import string
from rtunnel.wire.keys import PrivateKey
from tests.proxy.running import EVERYTHING, Peer, ProxyTestCase, Received


class StartTests(ProxyTestCase):
    """What a proxy finds in its state directory."""

    def test_private_keys_that_a_crash_left_are_removed(self) -> None:
        """Files that were being written."""
        left = self.state / ".host_ca.next.0123456789abcdef"
        left.write_text("a private key")
        ProxyService(self.config, self.reactor, now=time.time)
        self.assertFalse(left.exists())


class PolicyTests(ProxyTestCase):
    """Who may reach what."""

    settings = ("allow=[{users=['ops'], clusters=['b'], targets=['*:22']}]",)

    async def test_the_rules_hold_and_are_read_again_on_reload(self) -> None:
        """A file with an error changes nothing."""
        await self.agent_in_service()
        ops = await self.client("alice", "ops")
        other = await self.client("bob")
        await self.open_target(ops, "web1.b")
        for client, port in ((ops, 23), (other, 22)):
            with self.assertRaises(OpenRefused) as caught:
                await self.open_target(client, "web1.b", port)
            self.assertEqual(caught.exception.reason_code, 1)
        path = self.state / "proxy.toml"
        before = path.read_text()
        path.write_text(before.replace('"ops"', '"bob"'))
        self.proxy.reload()
        await self.open_target(other, "web1.b")
        with self.assertRaises(OpenRefused):
            await self.open_target(ops, "web1.b")
        path.write_text("cluster = 1")
        self.proxy.reload()
        await self.open_target(other, "web1.b")

    async def test_a_user_without_any_rule_is_told_no_cluster_names(self) -> None:
        """Neither by "did you mean" nor by ls."""
        await self.agent_in_service()
        bob = await self.client("bob")
        with self.assertRaises(OpenRefused) as caught:
            await self.open_target(bob, "web1.bb")
        self.assertNotIn("mean", caught.exception.text)


class DrainTests(ProxyTestCase):
    """SIGTERM, as far as the service goes."""

    async def test_a_session_that_was_open_before_leads_nowhere_new(self) -> None:
        """It has asked for nothing yet."""
        await self.agent_in_service()
        client = await self.client()
        _, received = await self.opened(client, "web1.b")
        session = await client.open_channel(b"session")
        session.start(Received())
        stopped = Deferred.fromCoroutine(self.stop_only())
        await self.until(lambda: self.proxy.not_ready() == "draining")
        with self.assertRaises(RequestFailed):
            await session.send_request(b"subsystem", string(b"proxy:web1:22@b"))
        await stopped
        await received.ended

    async def test_open_connections_finish_while_nothing_new_is_taken(self) -> None:
        """Agents are told; the stop waits for the connection, and no longer."""
        agent = await self.agent_in_service()
        client = await self.client()
        channel, received = await self.opened(client, "web1.b")
        stopped = Deferred.fromCoroutine(self.stop_only())
        await self.until(lambda: self.proxy.not_ready() == "draining")
        with self.assertRaises(OpenRefused) as caught:
            await self.open_target(client, "web1.b")
        self.assertIn("shutting down", caught.exception.text)
        await self.until(lambda: any(isinstance(m, Drain) for m in agent.heard))
        states = [
            p.state
            for m in agent.heard
            if isinstance(m, DiscoveryRequest)
            for p in m.proxies
        ]
        self.assertEqual(states[-1], "draining")
        self.assertFalse(stopped.called)
        channel.write(b"last words")
        channel.write_eof()
        await received.ended
        self.assertEqual(received.data, b"last words")
        await stopped

    async def stop_only(self) -> None:
        """Stop the proxy, and nothing else."""
        await self.proxy.stopService()

    async def test_what_stays_open_is_cut_after_the_timeout(self) -> None:
        """The timeout of this test's config is 2 seconds."""
        await self.agent_in_service()
        client = await self.client()
        _, received = await self.opened(client, "web1.b")
        before = self.reactor.seconds()
        await self.proxy.stopService()
        self.assertGreaterEqual(self.reactor.seconds() - before, 1.9)
        await received.ended

    async def test_an_idle_proxy_stops_at_once(self) -> None:
        """Tunnels without connections are no reason to wait."""
        await self.agent_in_service()
        before = self.reactor.seconds()
        await self.proxy.stopService()
        self.assertLess(self.reactor.seconds() - before, 1.5)


class GraceTests(ProxyTestCase):
    """The time in which balancers find out that a proxy leaves."""

    settings = (EVERYTHING, "drain.grace=1")

    async def test_everybody_is_served_while_balancers_find_out(self) -> None:
        """Not ready, but newcomers log in and reach targets; and then not any more."""
        await self.agent_in_service()
        before = self.reactor.seconds()
        stopped = Deferred.fromCoroutine(self.proxy_stops())
        self.assertEqual(self.proxy.not_ready(), "draining")
        client = await self.client()
        received = Received()
        channel = await self.open_target(client, "web1.b")
        channel.start(received)
        channel.write(b"last words")
        channel.write_eof()
        await received.ended
        self.assertEqual(received.data, b"last words")
        await self.until(lambda: not self.proxy.status()["proxy"]["listen"])
        self.assertGreaterEqual(self.reactor.seconds() - before, 0.9)
        await stopped

    async def test_it_counts_towards_the_timeout(self) -> None:
        """Two seconds are all there is in these tests."""
        await self.agent_in_service()
        client = await self.client()
        received = Received()
        (await self.open_target(client, "web1.b")).start(received)
        before = self.reactor.seconds()
        await self.proxy_stops()
        self.assertGreaterEqual(self.reactor.seconds() - before, 1.9)
        self.assertLess(self.reactor.seconds() - before, 2.9)
        await received.ended

    async def proxy_stops(self) -> None:
        """Stop the proxy, and nothing else."""
        await self.proxy.stopService()


class LoginTests(ProxyTestCase):
    """Who gets in, by the audit file."""

    settings = (EVERYTHING, "limits.login_grace=1")

    async def test_logins_are_audited(self) -> None:
        """Clients and agents, with who they proved to be."""
        agent = await self.agent_in_service()
        await self.client("alice")
        events = [json.loads(line) for line in self.audit_text().splitlines()]
        accepted = [e for e in events if e["event"] == "login_accepted"]
        self.assertEqual(
            [(e["user"], e["agent"], e["cluster"]) for e in accepted],
            [(None, agent.instance, "b"), ("alice", None, None)],
        )

    async def test_authorized_keys_are_read_anew(self) -> None:
        """A key that is added lets its owner in without a restart."""
        key = PrivateKey.generate()
        with self.assertRaises(AuthenticationFailed):
            await self.connect(Peer(), key, None)
        path = self.state / "authorized_keys"
        path.write_text(path.read_text() + key.public.to_openssh("carol") + "\n")
        os.utime(path, (1, 1))
        await self.connect(Peer(), key, None)
        self.assertIn('"user": "carol"', self.audit_text())
