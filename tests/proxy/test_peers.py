"""Clients that land on a proxy which holds no tunnel to what they want."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from rtunnel.errors import OpenRefused
from rtunnel.proxy.service import ProxyService
from rtunnel.ssh.connection import Connection
from rtunnel.wire.keys import PrivateKey
from tests.proxy.running import EVERYTHING, Peer, Received, events
from tests.proxy.two_proxies import TwoProxiesTestCase


class ForwardingTestCase(TwoProxiesTestCase):
    """What the tests below have in common."""

    async def refusal(self, client: Connection, host: str, port: int = 22) -> Any:
        """What a client hears of a target that cannot be reached."""
        with self.assertRaises(OpenRefused) as caught:
            await self.open_target(client, host, port)
        return caught.exception


class ShareTests(ForwardingTestCase):
    """What one person may take of the link to a peer."""

    settings = (EVERYTHING, "limits.channels_per_connection=10")

    async def test_nobody_takes_a_whole_link(self) -> None:
        """Each has at most what is left, over all connections of theirs."""
        await self.agent_at_other()
        clients = [await self.client("alice"), await self.client("alice")]
        bob = await self.client("bob")
        opened = [await self.opened(clients[n % 2]) for n in range(5)]
        for client in clients:
            error = await self.refusal(client, "web1.b")
            self.assertEqual(error.reason_code, 4)
            self.assertIn(
                "alice has 5 connections from this proxy through proxy proxy-2",
                error.text,
            )
        (link,) = self.links()
        await self.opened(bob)
        channel, received = opened[0]
        channel.close()
        await received.ended
        await self.opened(bob)
        self.assertEqual(self.links(), [link])


class ForwardingTests(ForwardingTestCase):
    """The agent's tunnel ends at the other proxy."""

    async def test_bytes_and_half_close_pass_through_both_proxies(self) -> None:
        """What was sent comes back after the client's end of data, then the end."""
        agent = await self.agent_at_other()
        client = await self.client()
        channel, received = await self.opened(client, "web1.b", 2222)
        data = bytes(range(256)) * 4000
        channel.write(data)
        channel.write_eof()
        await received.ended
        self.assertEqual((received.data == data, received.eof), (True, True))
        self.assertEqual(len(agent.dialled), 1)

    async def test_both_proxies_audit_it_under_one_connection_id(self) -> None:
        """With user, target, agent and bytes; each names itself."""
        agent = await self.agent_at_other()
        client = await self.client("alice", "ops")
        channel, received = await self.opened(client, "web1.b", 2222)
        channel.write(b"hello")
        channel.write_eof()
        await received.ended
        await self.until(lambda: "connection_closed" in self.audit_text())
        await self.until(lambda: "connection_closed" in self.other_audit())
        lines = []
        for proxy, text in (
            (self.proxy, self.audit_text()),
            (self.other, self.other_audit()),
        ):
            for name in ("connection_opened", "connection_closed"):
                (line,) = events(text, name)
                self.assertEqual(line["proxy"], proxy.status()["proxy"]["id"])
                self.assertEqual(
                    [line[k] for k in ("user", "source", "target", "agent", "outcome")],
                    ["alice", "127.0.0.1", "web1.b:2222", agent.instance, "ok"],
                )
                lines.append(line)
            self.assertEqual((line["bytes_in"], line["bytes_out"]), (5, 5))
        self.assertEqual(len({line["connection_id"] for line in lines}), 1)
        (login,) = (
            line
            for line in events(self.other_audit(), "login_accepted")
            if line["agent"] is None
        )
        own = self.proxy.status()["proxy"]["id"]
        self.assertEqual((login["user"], login["key_id"]), (None, own))

    async def test_one_link_carries_every_connection(self) -> None:
        """Of several clients, at once and one after another."""
        await self.agent_at_other()
        first, second = await self.client(), await self.client("bob")
        for client in (first, second, first):
            await self.open_target(client, "web1.b")
        self.assertEqual(len(self.other.parts.accepted._peers), 1)
        self.assertEqual(self.other.parts.accepted.open_connections, 3)
        first.close("going")
        second.close("going")
        await self.until(lambda: self.other.parts.accepted.open_connections == 0)
        self.assertEqual(len(self.links()), 1)

    async def test_nothing_new_goes_over_a_link_whose_certificate_has_ended(
        self,
    ) -> None:
        """A busy link would never end; what is open on it goes on."""
        await self.agent_at_other()
        client = await self.client()
        channel, received = await self.opened(client, "web1.b")
        [old] = self.links()
        assert old._host_certificate is not None
        end = float(old._host_certificate.valid_before)
        old._settings = attrs.evolve(old._settings, now=lambda: end)
        await self.open_target(client, "web1.b")
        [new] = self.links()
        self.assertIsNot(new, old)
        channel.write(b"still here")
        await self.until(lambda: received.data == b"still here")

    async def test_what_the_agent_says_of_the_target_reaches_the_client(self) -> None:
        """Reason code and sentence are the agent's own, and both proxies audit it."""
        agent = await self.agent_at_other()
        agent.refusal = "connection to web1:22 refused"
        client = await self.client()
        refused = await self.refusal(client, "web1.b")
        self.assertEqual((refused.reason_code, refused.text), (2, agent.refusal))
        for text in (self.audit_text(), self.other_audit()):
            (line,) = events(text, "connection_refused")
            self.assertEqual((line["reason"], line["user"]), (agent.refusal, "alice"))

    async def test_a_cluster_that_is_online_nowhere_is_offline(self) -> None:
        """As before there were peers."""
        agent = await self.agent_at_other()
        assert agent.connection is not None
        agent.connection.close("going")
        await self.until(lambda: not self.knows(self.proxy, agent))
        client = await self.client()
        refused = await self.refusal(client, "web1.b")
        self.assertEqual(refused.reason_code, 2)
        self.assertIn("offline", refused.text)
        self.assertEqual(self.links(), [])

    async def test_own_tunnels_come_first(self) -> None:
        """A peer is not asked while one of them works."""
        here = await self.agent_in_service("here")
        there = await self.agent_at_other("there")
        client = await self.client()
        for _ in range(3):
            await self.open_target(client, "web1.b")
        self.assertEqual((len(here.dialled), len(there.dialled)), (3, 0))

    async def test_an_agent_at_a_peer_is_asked_when_ours_cannot_reach_it(self) -> None:
        """Whatever is wrong here, the target or the tunnel."""
        here = await self.agent_in_service("here")
        there = await self.agent_at_other("there")
        here.refusal = "no route"
        client = await self.client()
        await self.open_target(client, "web1.b")
        there.refusal = "no route there either"
        refused = await self.refusal(client, "web1.b")
        self.assertEqual(refused.text, "no route there either")
        self.assertEqual((len(here.dialled), len(there.dialled)), (2, 2))

    async def test_an_agent_that_has_answered_is_not_asked_again_at_a_peer(
        self,
    ) -> None:
        """It holds tunnels to both proxies, and the target has refused it once."""
        state = self.make_agent()
        here = await self.agent(state)
        await here.greet(self.reactor)
        there = await self.agent(state, port=self.other_port)
        await there.greet(self.reactor)
        await self.until(
            lambda: len(self.proxy.status()["clusters"][0]["tunnels"]) == 2
        )
        here.refusal = "connection refused"
        client = await self.client()
        await self.refusal(client, "web1.b")
        self.assertEqual((len(here.dialled), len(there.dialled)), (1, 0))

    async def test_a_tunnel_that_breaks_while_dialling_leads_to_the_peer(self) -> None:
        """The same agent holds another tunnel there."""
        state = self.make_agent()
        here = await self.agent(state)
        await here.greet(self.reactor)
        there = await self.agent(state, port=self.other_port)
        await there.greet(self.reactor)
        await self.until(
            lambda: len(self.proxy.status()["clusters"][0]["tunnels"]) == 2
        )
        here.asked = Deferred()
        client = await self.client()
        opening = Deferred.fromCoroutine(self.open_target(client, "web1.b"))
        await here.asked
        assert here.connection is not None
        here.connection.close("going")
        await opening
        self.assertEqual(len(there.dialled), 1)

    async def test_targets_of_our_own_cluster_stay_here(self) -> None:
        """A peer is not asked for them, [local] allow decides."""
        await self.agent_at_other()
        client = await self.client()
        refused = await self.refusal(client, "web1.a")
        self.assertIn("[local] allow", refused.text)
        self.assertEqual(self.links(), [])

    async def test_dials_under_way_do_not_outlive_their_client(self) -> None:
        """The far agent's channel goes when the client hangs up."""
        agent = await self.agent_at_other()
        agent.asked = Deferred()
        client = await self.client()
        opening = Deferred.fromCoroutine(self.open_target(client, "web1.b"))
        opening.addErrback(lambda failure: None)
        await agent.asked
        client.close("going")
        await opening
        (link,) = self.links()
        await self.until(lambda: not link._waiting_for)
        agent.asked = None
        await self.open_target(await self.client("bob"), "web1.b")


class LoginByKeyTests(ForwardingTestCase):
    """People of authorized_keys, which each proxy has its own file of."""

    async def test_the_peer_has_to_know_the_key_too(self) -> None:
        """What one operator lists, another proxy does not believe."""
        await self.agent_at_other()
        key = PrivateKey.generate()
        line = key.public.to_openssh("carol") + "\n"
        own, other = (
            state / "authorized_keys" for state in (self.state, self.other_state)
        )
        own.write_text(line)
        client = await self.connect(Peer(), key, None)
        refused = await self.refusal(client, "web1.b")
        self.assertEqual(refused.reason_code, 1)
        self.assertIn("does not accept your key", refused.text)
        self.assertIn("proxy-2", refused.text)
        other.write_text(line)
        await self.open_target(client, "web1.b")
        (opened,) = events(self.other_audit(), "connection_opened")
        self.assertEqual(opened["user"], "carol")


class PolicyTests(ForwardingTestCase):
    """Both proxies' rules have to let the user through."""

    other_settings = ("allow=[{users=['ops'], clusters=['b'], targets=['*:22']}]",)

    async def test_a_user_without_a_rule_at_the_peer_is_refused(self) -> None:
        """By the peer, in a sentence, and the agent hears nothing of it."""
        agent = await self.agent_at_other()
        bob = await self.client("bob")
        ops = await self.client("alice", "ops")
        for client, port in ((bob, 22), (ops, 23)):
            refused = await self.refusal(client, "web1.b", port)
            self.assertEqual(refused.reason_code, 1)
            self.assertIn("proxy-2", refused.text)
            self.assertIn("does not allow", refused.text)
        self.assertEqual(agent.dialled, [])
        await self.open_target(ops, "web1.b", 22)
        self.assertEqual(len(events(self.other_audit(), "connection_refused")), 2)


class EntryPolicyTests(ForwardingTestCase):
    """The other way round: the entry proxy's rules are the narrower ones."""

    settings = ("allow=[{users=['ops'], clusters=['*'], targets=['*:*']}]",)
    other_settings = (EVERYTHING,)

    async def test_a_user_without_a_rule_here_is_not_passed_on(self) -> None:
        """The peer hears nothing of it."""
        await self.agent_at_other()
        bob = await self.client("bob")
        refused = await self.refusal(bob, "web1.b")
        self.assertEqual(refused.reason_code, 1)
        self.assertEqual(self.links(), [])


class LossTests(ForwardingTestCase):
    """Peers that die, hang or leave."""

    settings = (EVERYTHING, "tunnel.heartbeat=0.2")
    other_settings = (EVERYTHING, "tunnel.heartbeat=5")

    def incoming(self, proxy: ProxyService) -> Any:
        """The TCP transport of a peer that has logged in."""
        (peer,) = proxy.parts.accepted._peers
        assert peer._connection is not None
        transport: Any = peer._connection.transport
        return transport.transport

    async def test_open_connections_end_when_the_peer_dies(self) -> None:
        """With a reason in the audit log, and the next dial makes a new link."""
        await self.agent_at_other()
        client = await self.client()
        _, received = await self.opened(client, "web1.b")
        self.incoming(self.other).abortConnection()
        await received.ended
        await self.until(lambda: "connection_closed" in self.audit_text())
        (line,) = events(self.audit_text(), "connection_closed")
        self.assertEqual(line["outcome"], "failed")
        self.assertTrue(client.is_open)
        await self.open_target(client, "web1.b")

    async def test_a_peer_that_dies_while_it_is_asked_is_one_more_failure(self) -> None:
        """The client hears a sentence."""
        agent = await self.agent_at_other()
        agent.asked = Deferred()
        client = await self.client()
        opening = Deferred.fromCoroutine(self.open_target(client, "web1.b"))
        await agent.asked
        self.incoming(self.other).abortConnection()
        with self.assertRaises(OpenRefused) as caught:
            await opening
        self.assertEqual(caught.exception.reason_code, 2)
        self.assertIn("proxy-2", caught.exception.text)
        self.assertIn("was lost while connecting", caught.exception.text)

    async def test_a_peer_that_does_not_answer_is_given_up(self) -> None:
        """Dials first, in 2 heartbeats; what is open after 3 that are missed."""
        await self.agent_at_other()
        client = await self.client()
        _, received = await self.opened(client, "web1.b")
        self.incoming(self.other).pauseProducing()
        began = self.reactor.seconds()
        refused = await self.refusal(client, "web1.b")
        self.assertIn("was lost while connecting", refused.text)
        self.assertLess(self.reactor.seconds() - began, 1)
        await received.ended
        self.assertLess(self.reactor.seconds() - began, 2)

    async def test_a_peer_that_is_gone_is_said_to_be(self) -> None:
        """Its record outlives it for a while."""
        await self.agent_at_other()
        client = await self.client()
        await self.other._listeners.close()
        refused = await self.refusal(client, "web1.b")
        self.assertEqual(refused.reason_code, 2)
        self.assertIn("proxy-2", refused.text)
        self.assertIn("cannot be reached from this proxy", refused.text)

    async def test_a_draining_peer_lets_connections_finish_and_takes_no_new_ones(
        self,
    ) -> None:
        """It waits for those of its peers as for those of its clients."""
        await self.agent_at_other()
        client = await self.client()
        channel, received = await self.opened(client, "web1.b")
        stopped = self.other.stopService()
        await self.until(lambda: self.other.not_ready() == "draining")
        refused = await self.refusal(client, "web1.b")
        self.assertIn("shutting down", refused.text)
        self.assertFalse(stopped.called)
        channel.write(b"last words")
        channel.write_eof()
        await received.ended
        self.assertEqual(received.data, b"last words")
        await stopped

    async def test_a_draining_entry_proxy_waits_for_what_it_passed_on(self) -> None:
        """Then it ends its links."""
        await self.agent_at_other()
        client = await self.client()
        channel, received = await self.opened(client, "web1.b")
        stopped = self.proxy.stopService()
        await self.until(lambda: self.proxy.not_ready() == "draining")
        self.assertFalse(stopped.called)
        channel.write_eof()
        await received.ended
        await stopped
        await self.until(lambda: not self.other.parts.accepted._peers)
        self.assertEqual(self.links(), [])


class LinkTests(ForwardingTestCase):
    """Where a link leads, and what happens when it leads nowhere."""

    async def publish(self, *addresses: str) -> Connection:
        """Let the peer publish these; return a client of the first proxy."""
        await self.agent_at_other()
        await self.other.parts.membership.set_peer_addresses(addresses)
        own = self.other.status()["proxy"]["id"]
        await self.until(
            lambda: (
                [addresses]
                == [
                    record.peer_addresses
                    for record in self.proxy.parts.membership.proxies()
                    if record.id == own
                ]
            )
        )
        return await self.client()

    def hurry(self, timeout: float) -> None:
        """Give links less time."""
        peers = self.proxy.parts.peers
        peers._settings = attrs.evolve(peers._settings, timeout=timeout)

    def hanging(self) -> str:
        """Where connections are accepted and nothing is ever said."""
        factory = Factory.forProtocol(Protocol)
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"127.0.0.1:{port.getHost().port}"

    async def test_a_proxy_publishes_where_it_listens(self) -> None:
        """When nothing says otherwise; so two proxies on one machine just work."""
        for proxy in (self.proxy, self.other):
            (port,) = proxy._listeners.ports
            self.assertEqual(
                proxy.parts.membership.record.peer_addresses,
                (f"127.0.0.1:{port.getHost().port}",),  # type: ignore[attr-defined]
            )

    async def test_only_the_proxy_that_is_meant_is_believed(self) -> None:
        """Any other one, though of our own authority, is hung up on."""
        client = await self.publish(f"127.0.0.1:{self.port}")
        refused = await self.refusal(client, "web1.b")
        self.assertEqual(refused.reason_code, 2)
        self.assertIn("another proxy answers there", refused.text)
        self.assertEqual(self.proxy.parts.accepted._peers, set())

    async def test_an_address_that_hangs_takes_its_time_and_no_more(self) -> None:
        """The client is told, and the next client is too."""
        self.hurry(0.3)
        client = await self.publish(self.hanging())
        for _ in range(2):
            began = self.reactor.seconds()
            refused = await self.refusal(client, "web1.b")
            self.assertIn("does not answer within 0.3 seconds", refused.text)
            self.assertLess(self.reactor.seconds() - began, 2)
        self.assertEqual(self.links(), [])

    async def test_the_next_address_is_tried(self) -> None:
        """After one that hangs and one that is no address."""
        self.hurry(2)
        client = await self.publish(
            self.hanging(), "no address", f"127.0.0.1:{self.other_port}"
        )
        await self.open_target(client, "web1.b")

    async def test_a_peer_without_addresses_is_named(self) -> None:
        """And what its operator can do."""
        client = await self.publish()
        refused = await self.refusal(client, "web1.b")
        self.assertIn("peer.advertise", refused.text)

    async def test_agents_addresses_will_do(self) -> None:
        """When there are none for peers."""
        client = await self.publish()
        membership = self.other.parts.membership
        address = f"127.0.0.1:{self.other_port}"
        await membership._set_record(
            attrs.evolve(membership.record, addresses=(address,))
        )
        await self.until(
            lambda: any(r.addresses for r in self.proxy.parts.membership.proxies())
        )
        await self.open_target(client, "web1.b")

    async def test_a_link_takes_what_all_clients_together_open_at_once(self) -> None:
        """More than one client may: 300 that the agent has not answered yet."""
        agent = await self.agent_at_other()
        agent.refusal = "enough"
        agent.answering = Deferred()
        assert agent.connection is not None
        limits = attrs.evolve(agent.connection.limits, pending_opens=1000)
        agent.connection._received_opens._limits = limits  # type: ignore[union-attr]
        clients = [await self.client(f"user{n}") for n in range(3)]
        opening = [
            Deferred.fromCoroutine(self.open_target(client, "web1.b"))
            for client in clients
            for _ in range(100)
        ]
        await self.until(lambda: len(agent.dialled) == 300)
        agent.answering.callback(None)
        for each in opening:
            with self.assertRaises(OpenRefused) as caught:
                await each
            self.assertEqual(caught.exception.text, "enough")

    async def test_an_idle_link_is_closed(self) -> None:
        """And made anew when it is needed."""
        peers = self.proxy.parts.peers
        peers._settings = attrs.evolve(peers._settings, idle=0.1, heartbeat=0.05)
        await self.agent_at_other()
        client = await self.client()
        for _ in range(2):
            channel = await self.open_target(client, "web1.b")
            await deferLater(self.reactor, 0.3)
            self.assertEqual(len(self.links()), 1)
            received = Received()
            channel.start(received)
            channel.write_eof()
            await received.ended
            await self.until(lambda: not self.links())
            await self.until(lambda: not self.other.parts.accepted._peers)
