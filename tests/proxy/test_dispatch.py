"""Tests for :mod:`rtunnel.proxy.dispatch`, in a proxy that runs."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from rtunnel.errors import OpenRefused
from tests.proxy.running import EVERYTHING, ProxyTestCase


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
