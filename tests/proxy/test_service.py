"""Tests of the proxy as a whole: :mod:`rtunnel.proxy.service` and what it wires."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from rtunnel.discovery.messages import DiscoveryRequest, Drain
from rtunnel.errors import (
    AuthenticationFailed,
    ConnectionClosed,
    OpenRefused,
    RequestFailed,
)
from rtunnel.proxy.client import MAX_SESSIONS
from rtunnel.proxy.service import ProxyService
from rtunnel.ssh.channel import Channel
from rtunnel.wire.data_types import string, text, uint32
from rtunnel.wire.keys import PrivateKey
from tests.proxy.running import EVERYTHING, Peer, ProxyTestCase, Received


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


class StartTests(ProxyTestCase):
    """What a proxy finds in its state directory."""

    def test_private_keys_that_a_crash_left_are_removed(self) -> None:
        """Files that were being written."""
        left = self.state / ".host_ca.next.0123456789abcdef"
        left.write_text("a private key")
        ProxyService(self.config, self.reactor, now=time.time)
        self.assertFalse(left.exists())


class DialTests(ProxyTestCase):
    """From a client through a tunnel."""

    async def test_bytes_pass_both_ways_and_are_counted(self) -> None:
        """The audit line has user, target, agent and bytes."""
        agent = await self.agent_in_service()
        client = await self.client("alice", "ops")
        channel, received = await self.opened(client, "web1.b", 2222)
        channel.write(b"hello")
        channel.write_eof()
        await received.ended
        self.assertEqual((received.data, received.eof), (b"hello", True))
        await self.until(lambda: "connection_closed" in self.audit_text())
        line = json.loads(self.audit_text().splitlines()[-1])
        self.assertEqual(
            {k: line[k] for k in ("user", "target", "agent", "outcome")},
            {
                "user": "alice",
                "target": "web1.b:2222",
                "agent": agent.instance,
                "outcome": "ok",
            },
        )
        self.assertEqual((line["bytes_in"], line["bytes_out"]), (5, 5))

    async def test_a_client_that_hangs_up_on_end_of_data_ended_in_order(self) -> None:
        """``ssh -W`` does not wait for the last CLOSE."""
        await self.agent_in_service()
        client = await self.client()
        channel, received = await self.opened(client, "web1.b")
        channel.write_eof()
        await received.eof_seen
        client.close("done")
        await self.until(lambda: "connection_closed" in self.audit_text())
        line = json.loads(self.audit_text().splitlines()[-1])
        self.assertEqual((line["outcome"], line["reason"]), ("ok", ""))

    async def test_a_client_that_says_goodbye_ended_in_order(self) -> None:
        """``ssh -J`` leaves so when the inner ssh is done."""
        await self.agent_in_service()
        client = await self.client()
        await self.open_target(client, "web1.b")
        client.close("disconnected by user")
        await self.until(lambda: "connection_closed" in self.audit_text())
        line = json.loads(self.audit_text().splitlines()[-1])
        self.assertEqual(line["outcome"], "ok")
        self.assertIn("disconnected by user", line["reason"])

    async def refusal(self, client: Any, host: str, port: int = 22) -> OpenRefused:
        """What a client hears of a target that cannot be reached."""
        with self.assertRaises(OpenRefused) as caught:
            await self.open_target(client, host, port)
        refused: OpenRefused = caught.exception
        return refused

    async def test_every_way_to_fail_has_its_code_and_sentence(self) -> None:
        """RFC 4254 section 5.1: 1 prohibited, 2 connect failed."""
        agent = await self.agent_in_service()
        agent.refusal = "connection to web1:22 refused"
        client = await self.client()
        for host, code, sentence in (
            ("web1.b", 2, "connection to web1:22 refused"),
            ("web1.bb", 1, "did you mean 'b'"),
            ("web1.a", 1, "[local] allow"),
            ("web1.b-", 1, "HOST.CLUSTER"),
            ("we b1.b", 1, "HOST.CLUSTER"),
            ("127.1.b", 1, "127.1"),
            ("w\x1b[31m.b", 1, "\\x1b"),
            ("x" * 300 + ".b", 1, "255 is the limit"),
        ):
            refused = await self.refusal(client, host)
            self.assertEqual(refused.reason_code, code, refused)
            self.assertIn(sentence, refused.text)
        assert agent.connection is not None
        agent.connection.close("going")
        await agent.lost
        await self.until(lambda: not self.proxy.status()["clusters"][0]["online"])
        refused = await self.refusal(client, "web1.b")
        self.assertEqual(refused.reason_code, 2)
        self.assertIn("offline", refused.text)

    async def test_the_next_agent_is_tried_before_the_client_hears(self) -> None:
        """One agent cannot reach the target, the other can."""
        first = await self.agent_in_service("agent-1")
        second = await self.agent_in_service("agent-2")
        first.refusal = second.refusal = "no route"
        client = await self.client()
        await self.refusal(client, "web1.b")
        self.assertEqual((len(first.dialled), len(second.dialled)), (1, 1))
        second.refusal = None
        for _ in range(4):
            await self.open_target(client, "web1.b")

    async def test_a_tunnel_that_breaks_while_dialling_is_one_more_failure(
        self,
    ) -> None:
        """The client is told in a sentence, and its connection stays."""
        agent = await self.agent_in_service()
        agent.asked = Deferred()
        client = await self.client()
        dialling = Deferred.fromCoroutine(self.open_target(client, "web1.b"))
        await agent.asked
        assert agent.connection is not None
        agent.connection.close("going")
        with self.assertRaises(OpenRefused) as caught:
            await dialling
        self.assertIn("broke", caught.exception.text)
        self.assertTrue(client.is_open)

    async def test_dials_under_way_do_not_outlive_their_client(self) -> None:
        """The agent sees its channel go when the client hangs up."""
        agent = await self.agent_in_service()
        client = await self.client()
        await self.open_target(client, "web1.b")
        self.assertEqual(self.proxy.parts.accepted.open_connections, 1)
        client.close("going")
        await self.until(lambda: self.proxy.parts.accepted.open_connections == 0)
        assert agent.connection is not None
        connection = agent.connection
        await self.until(lambda: connection.open_channels == 1)


class ShareTests(ProxyTestCase):
    """What one person may take of a tunnel."""

    settings = (EVERYTHING, "limits.channels_per_connection=10")

    async def test_nobody_takes_a_whole_tunnel(self) -> None:
        """Each has at most what is left; what is closed is given back."""
        agent = await self.agent_in_service()
        alice, bob = await self.client("alice"), await self.client("bob")
        # The tunnel has 10 channels, and the agent's control channel is one of them.
        for _ in range(4):
            await self.opened(alice)
        channel, received = await self.opened(alice)
        with self.assertRaises(OpenRefused) as caught:
            await self.open_target(alice, "web1.b")
        self.assertEqual(caught.exception.reason_code, 4)
        self.assertIn("alice has 5 connections", caught.exception.text)
        await self.opened(bob)
        channel.close()
        await received.ended
        await self.opened(bob)
        agent.refusal = "go away"
        for _ in range(3):
            with self.assertRaises(OpenRefused) as caught:
                await self.open_target(bob, "web1.b")
            self.assertIn("go away", caught.exception.text)


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


class SessionTests(ProxyTestCase):
    """Sessions on the proxy itself."""

    async def run_command(
        self, kind: bytes, command: bytes
    ) -> tuple[bytes, int | None, bool]:
        """What a session prints, its exit status, whether the request succeeded."""
        client = await self.client()
        channel = await client.open_channel(b"session")
        received = Received()
        statuses: list[int] = []

        def requested(name: bytes, data: bytes) -> bool:
            if name == b"exit-status":
                statuses.append(int.from_bytes(data, "big"))
            return True

        channel.on_request = requested
        channel.start(received)
        try:
            await channel.send_request(kind, string(command))
        except RequestFailed:
            await received.ended
            return received.data, None, False
        if kind == b"subsystem":
            channel.write(b"hello")
            channel.write_eof()
        await received.ended
        return received.data, statuses[0] if statuses else None, True

    async def test_ls_lists_clusters(self) -> None:
        """As text and as JSON."""
        await self.agent_in_service()
        out, code, _ = await self.run_command(b"exec", b"ls")
        self.assertEqual(code, 0)
        self.assertIn(b"b        online", out)
        out, code, _ = await self.run_command(b"exec", b"ls --json")
        self.assertEqual(json.loads(out), [{"name": "b", "online": True}])

    async def test_status_is_the_status_document(self) -> None:
        """With the tunnels."""
        agent = await self.agent_in_service()
        out, _, _ = await self.run_command(b"exec", b"status --json")
        (cluster,) = json.loads(out)["clusters"]
        self.assertEqual(cluster["tunnels"][0]["agent"], agent.instance)

    async def test_no_other_command_is_run(self) -> None:
        """Exit code 2, as for wrong usage."""
        _, code, _ = await self.run_command(b"exec", b"rm -rf /")
        self.assertEqual(code, 2)

    async def test_the_proxy_subsystem_reaches_targets(self) -> None:
        """As ``ssh -W`` does."""
        await self.agent_in_service()
        out, code, succeeded = await self.run_command(
            b"subsystem", b"proxy:web1:2222@b"
        )
        self.assertEqual((out, code, succeeded), (b"hello", 0, True))

    async def test_a_subsystem_that_cannot_be_reached_fails(self) -> None:
        """And the session ends."""
        for name in (b"sftp", b"proxy:web1:22@nowhere"):
            _, _, succeeded = await self.run_command(b"subsystem", name)
            self.assertFalse(succeeded)

    async def test_sessions_that_lead_nowhere_are_limited(self) -> None:
        """As by OpenSSH's MaxSessions; those that have ended do not count."""
        await self.agent_in_service()
        client = await self.client()
        channels = [await client.open_channel(b"session") for _ in range(MAX_SESSIONS)]
        with self.assertRaises(OpenRefused) as caught:
            await client.open_channel(b"session")
        self.assertEqual(caught.exception.reason_code, 4)
        received = Received()
        channels[0].start(received)
        await channels[0].send_request(b"exec", string(b"ls"))
        await received.ended
        another = await client.open_channel(b"session")
        another.start(Received())
        # What leads to a target is a connection to it, and is counted as such.
        await another.send_request(b"subsystem", string(b"proxy:web1:22@b"))
        await client.open_channel(b"session")

    async def test_sessions_that_are_closed_at_once_leave_nothing_behind(self) -> None:
        """Neither the timer by which they would have ended, nor the channel."""
        client = await self.client()
        for _ in range(3 * MAX_SESSIONS):
            channel = await client.open_channel(b"session")
            received = Received()
            channel.start(received)
            channel.write(b"nobody reads this")
            channel.close()
            await received.ended
        timers = [
            call
            for call in self.reactor.getDelayedCalls()
            if getattr(call.func, "__name__", "") == "abort"
        ]
        self.assertLessEqual(len(timers), 1)
        # And when the client is gone trial finds no timer at all.

    async def test_a_long_originator_is_refused(self) -> None:
        """It would be kept for as long as the target does not answer."""
        client = await self.client()
        data = text("web1.b") + uint32(22) + text("x" * 256) + uint32(40000)
        with self.assertRaises(OpenRefused) as caught:
            await client.open_channel(b"direct-tcpip", data)
        self.assertIn("255 is the limit", caught.exception.text)


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
