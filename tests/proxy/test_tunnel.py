"""Tests for :mod:`rtunnel.proxy.tunnel`, in a proxy that runs."""

from __future__ import annotations

from twisted.logger import capturedLogs

from rtunnel.control import MAX_UNKNOWN_LOGGED
from rtunnel.discovery.messages import DiscoveryRequest, Drain
from rtunnel.errors import ConnectionClosed, OpenRefused, RequestFailed
from rtunnel.ssh.channel import Channel
from tests.proxy.running import ProxyTestCase


class TunnelTests(ProxyTestCase):
    """What agents may do, and what they are told."""

    async def test_a_greeted_tunnel_is_in_service_and_hears_of_the_proxies(
        self,
    ) -> None:
        """The discovery request lists this proxy; the status lists the tunnel."""
        agent = await self.agent_in_service()
        request = await agent.discovered
        status = self.proxy.status()
        self.assertEqual([p.id for p in request.proxies], [status["proxy"]["id"]])
        (cluster,) = status["clusters"]
        self.assertEqual((cluster["name"], cluster["online"]), ("b", True))
        (tunnel,) = cluster["tunnels"]
        self.assertEqual(tunnel["agent"], agent.instance)
        self.assertIn("tunnel_up", self.audit_text())

    async def test_agents_are_not_told_of_each_others_tunnels(self) -> None:
        """That would be as many messages for each as there are others."""
        first = await self.agent_in_service("agent-1")
        for number in range(2, 5):
            await self.agent_in_service(f"agent-{number}")
        membership = self.proxy.parts.membership
        await self.until(lambda: len(membership.tunnels()) == 4)
        heard = [m for m in first.heard if isinstance(m, DiscoveryRequest)]
        self.assertEqual(len(heard), 1)

    async def test_an_agent_that_is_gone_leaves_its_cluster_offline(self) -> None:
        """At once, and with an audit line."""
        agent = await self.agent_in_service()
        assert agent.connection is not None
        agent.connection.close("going")
        await agent.lost
        await self.until(lambda: not self.proxy.status()["clusters"][0]["online"])
        self.assertIn("tunnel_down", self.audit_text())

    async def test_a_hello_of_another_instance_is_refused(self) -> None:
        """The name comes from the certificate, whatever the agent says."""
        agent = await self.agent(self.make_agent())
        other = "00000000-0000-4000-8000-000000000000"
        with self.assertRaises((RequestFailed, ConnectionClosed)):
            await agent.greet(self.reactor, instance=other)
        self.assertIn("another instance", await agent.lost)
        self.assertEqual(self.proxy.status()["clusters"], [])

    async def test_a_second_agent_of_one_instance_does_not_unseat_the_first(
        self,
    ) -> None:
        """The first one's tunnel is live, so it stays."""
        state = self.make_agent()
        first = await self.agent(state)
        await first.greet(self.reactor)
        second = await self.agent(state)
        with self.assertRaises((RequestFailed, ConnectionClosed)):
            await second.greet(self.reactor)
        self.assertIn("another live tunnel", await second.lost)
        self.assertFalse(first.lost.called)
        client = await self.client()
        await self.open_target(client, "web1.b")

    async def test_malformed_json_ends_that_tunnel_with_a_reason(self) -> None:
        """Another tunnel is not disturbed."""
        good = await self.agent_in_service("agent-1")
        bad = await self.agent(self.make_agent("b", "agent-2"))
        assert bad.connection is not None
        channel = await bad.connection.open_channel(b"control@rtunnel")
        channel.send_request(b"hello", b"{nonsense").addErrback(lambda f: None)
        self.assertIn("not JSON", await bad.lost)
        self.assertFalse(good.lost.called)

    async def test_unknown_messages_are_refused_and_nothing_more(self) -> None:
        """A newer agent may try one."""
        agent = await self.agent_in_service()
        assert agent.control is not None
        channel: Channel = agent.control._channel
        with self.assertRaises(RequestFailed):
            await channel.send_request(b"teleport", b"{}")
        self.assertFalse(agent.lost.called)

    async def test_leaving_is_told_once_however_often_it_is_said(self) -> None:
        """Else an agent could fill the disk, a short message for each long line."""
        agent = await self.agent_in_service()
        assert agent.control is not None
        with capturedLogs() as logs:
            for _ in range(10):
                await agent.control.send(Drain("moving house", 1.0))
        said = [e for e in logs if "is leaving" in (e.get("log_format") or "")]
        self.assertEqual(len(said), 1)

    async def test_what_an_agent_does_in_a_loop_is_not_logged_each_time(self) -> None:
        """Channels that it may not open, messages that nobody knows, and a control
        channel once more: each is refused, and the log stays short."""
        agent = await self.agent_in_service()
        assert agent.connection is not None and agent.control is not None
        channel: Channel = agent.control._channel
        before = len(self.audit_text())
        with capturedLogs() as logged:
            for _ in range(100):
                for kind in (b"control@rtunnel", b"transport@rtunnel", b"session"):
                    with self.assertRaises(OpenRefused):
                        await agent.connection.open_channel(kind)
                with self.assertRaises(RequestFailed):
                    await channel.send_request(b"nonsense", b"{}")
        self.assertLessEqual(len(logged), MAX_UNKNOWN_LOGGED)
        self.assertEqual(len(self.audit_text()), before)
        self.assertFalse(agent.lost.called)

    async def test_a_control_channel_is_opened_once(self) -> None:
        """Its end is that of the tunnel, so that it cannot be opened over and over."""
        agent = await self.agent_in_service()
        assert agent.control is not None
        agent.control._channel.close()
        self.assertIn("control channel was closed", await agent.lost)

    async def test_an_agent_opens_nothing_but_its_control_channel(self) -> None:
        """It is no client."""
        agent = await self.agent_in_service()
        assert agent.connection is not None
        for kind in (b"session", b"direct-tcpip", b"control@rtunnel"):
            with self.assertRaises(OpenRefused):
                await agent.connection.open_channel(kind)

    async def test_a_client_opens_no_control_channel(self) -> None:
        """It is no agent."""
        client = await self.client()
        with self.assertRaises(OpenRefused) as caught:
            await client.open_channel(b"control@rtunnel")
        self.assertEqual(caught.exception.reason_code, 3)
