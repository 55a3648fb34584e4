"""Tunnels made anew, certificates renewed, and what agents are told of trust."""

from __future__ import annotations

import time
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from rtunnel.discovery.messages import Hello, replacement_proof
from rtunnel.discovery.trust_messages import (
    NotRenewed,
    Renew,
    RenewalDue,
    Renewed,
    Replace,
    Trust,
    TrustMessage,
)
from rtunnel.errors import ConnectionClosed, RequestFailed
from rtunnel.proxy.live_logins import NOT_TRUSTED
from rtunnel.proxy.tunnel import RENEWALS_BURST
from rtunnel.state_directory import (
    AgentCredentials,
    load_agent_credentials,
    load_certificate,
    load_private_key,
    load_trust_anchors,
)
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.bundle import Phase, Role
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.wire.certificate import CertificateKind
from rtunnel.wire.data_types import text
from rtunnel.wire.keys import PrivateKey
from tests.proxy.running import Agent, ProxyTestCase, Received
from tests.threads import hold_threads


class AgentTestCase(ProxyTestCase):
    """A proxy that can sign, and an agent with a tunnel."""

    async def begin(self) -> None:
        """Bring the tunnel up."""
        self.agent_state = self.make_agent()
        self.first = await self.agent(self.agent_state)
        await self.first.greet(self.reactor)

    @property
    def credentials(self) -> AgentCredentials:
        """Of the agent."""
        return load_agent_credentials(self.agent_state, "b", time.time())

    async def greet_as(self, agent: Agent, replaces: str) -> None:
        """Say hello, to replace a tunnel."""
        assert agent.connection is not None
        await agent.greet(
            self.reactor, hello=Hello("test", agent.instance, replaces=replaces)
        )

    def proof(self, agent: Agent) -> str:
        """What only the two ends of a connection know."""
        assert agent.connection is not None
        transport: Any = agent.connection.transport
        return replacement_proof(transport.session_id)

    def tunnels(self) -> list[Any]:
        """Those in the status."""
        found: list[Any] = self.proxy.status()["clusters"][0]["tunnels"]
        return found


class ReplacementTests(AgentTestCase):
    """One tunnel in the place of another."""

    async def test_channels_go_on_and_new_ones_go_to_the_new_tunnel(self) -> None:
        """Nothing is lost, and the old tunnel is the agent's to close."""
        await self.begin()
        client = await self.client()
        before = await self.open_target(client, "web1.b")
        received = Received()
        before.start(received)
        second = await self.agent(self.agent_state)
        await self.greet_as(second, self.proof(self.first))
        self.assertEqual(len(self.tunnels()), 1)
        after = await self.open_target(client, "web1.b")
        after.start(Received())
        self.assertEqual((len(self.first.dialled), len(second.dialled)), (1, 1))
        before.write(b"still here")
        await self.until(lambda: received.data == b"still here")
        assert self.first.connection is not None
        self.first.connection.close("drained")
        await self.first.lost
        self.assertEqual(len(self.tunnels()), 1)
        third = await self.open_target(client, "web1.b")
        third.start(Received())
        self.assertEqual(len(second.dialled), 2)

    async def test_another_process_with_the_same_key_replaces_nothing(self) -> None:
        """It does not know the session of the live tunnel, whatever it says."""
        await self.begin()
        for guess in ("0" * 64, "x"):
            thief = await self.agent(self.agent_state)
            with self.assertRaises((RequestFailed, ConnectionClosed)):
                await self.greet_as(thief, guess)
            await thief.lost
        thief = await self.agent(self.agent_state)
        with self.assertRaises((RequestFailed, ConnectionClosed)):
            await self.greet_as(thief, self.proof(thief))
        self.assertFalse(self.first.lost.called)
        client = await self.client()
        (await self.open_target(client, "web1.b")).start(Received())
        self.assertEqual(len(self.first.dialled), 1)

    async def test_another_agent_replaces_nothing(self) -> None:
        """Though it may know the proof: both then have a tunnel of their own."""
        await self.begin()
        other = await self.agent(self.make_agent(name="other"))
        await self.greet_as(other, self.proof(self.first))
        self.assertEqual(
            {each["agent"] for each in self.tunnels()},
            {self.first.instance, other.instance},
        )

    async def test_a_replaced_tunnel_lives_by_the_certificate_of_the_new_one(
        self,
    ) -> None:
        """What is open on it does not end with the certificate it began with."""
        await self.begin()
        [old] = self.proxy.parts.sites.tunnels()
        second = await self.agent(self.agent_state)
        await self.greet_as(second, self.proof(self.first))
        [new] = self.proxy.parts.sites.tunnels()
        self.assertIs(old.identity, new.identity)
        third = await self.agent(self.agent_state)
        await self.greet_as(third, self.proof(second))
        [newest] = self.proxy.parts.sites.tunnels()
        self.assertIs(old.identity, newest.identity)

    async def test_a_stopping_proxy_closes_replaced_tunnels_too(self) -> None:
        """And waits for them to be gone."""
        await self.begin()
        second = await self.agent(self.agent_state)
        await self.greet_as(second, self.proof(self.first))
        await self.proxy.stopService()
        await self.first.lost
        await second.lost


class RenewalTests(AgentTestCase):
    """An agent asks through its tunnel."""

    async def ask(self, request: RenewalRequest) -> TrustMessage:
        """Ask, and wait for what comes of it."""
        assert self.first.control is not None
        await self.first.control.send(Renew(request))
        await self.until(lambda: self.answers())
        return self.answers()[-1]

    def answers(self) -> list[TrustMessage]:
        """What came of requests."""
        return [m for m in self.first.heard if isinstance(m, Renewed | NotRenewed)]

    def request(self, **changes: Any) -> RenewalRequest:
        """A good one."""
        own = self.credentials
        made = RenewalRequest.make(own.certificate, own.key, time.time())
        return attrs.evolve(made, **changes)

    async def test_it_gets_the_next_certificate(self) -> None:
        """For the same agent, with a fresh key if it asks for one; it is audited."""
        await self.begin()
        own, fresh = self.credentials, PrivateKey.generate()
        answer = await self.ask(
            RenewalRequest.make(own.certificate, own.key, time.time(), fresh)
        )
        assert isinstance(answer, Renewed), answer
        answer.certificate.check(
            kind=CertificateKind.USER,
            trusted=load_trust_anchors(self.state / "agent_ca.pub"),
            now=time.time(),
            principal="b",
        )
        self.assertEqual(answer.certificate.key, fresh.public)
        self.assertEqual(answer.certificate.key_id, self.first.instance)
        self.assertIn("certificate_renewed", self.audit_text())
        self.assertFalse(self.first.lost.called)

    async def test_what_a_certificate_is_bound_to_it_stays_bound_to(self) -> None:
        """To addresses; a renewal would be the way out."""
        self.agent_state = self.make_agent()
        own = self.credentials
        bound = CertificateAuthority(
            load_private_key(self.state / "agent_ca"), now=time.time
        ).sign_agent(
            own.key.public,
            cluster="b",
            instance=own.instance,
            validity=60,
            critical_options=[("source-address", text("127.0.0.0/8"))],
        )
        path = self.agent_state / "agent_key-cert.pub"
        path.write_text(bound.to_openssh() + "\n")
        self.first = await self.agent(self.agent_state)
        await self.first.greet(self.reactor)
        answer = await self.ask(self.request())
        assert isinstance(answer, Renewed), answer
        self.assertEqual(answer.certificate.critical_options, bound.critical_options)
        self.assertTrue(bound.critical_options)

    async def test_an_agent_cannot_have_certificates_signed_without_end(self) -> None:
        """What is too much is refused at once, and costs nothing."""
        await self.begin()
        assert self.first.control is not None
        request = Renew(self.request(signature=b"\0" * 83))
        count, refused = 3 * RENEWALS_BURST, 0
        for _ in range(count):
            try:
                await self.first.control.send(request)
            except RequestFailed:
                refused += 1
        self.assertGreaterEqual(refused, RENEWALS_BURST)
        await self.until(lambda: len(self.answers()) == count - refused)
        self.assertEqual(
            self.audit_text().count("renewal_refused"), len(self.answers())
        )
        self.assertFalse(self.first.lost.called)

    async def test_a_request_that_proves_nothing_is_refused(self) -> None:
        """Without the reason, which is in the audit file; the tunnel stays."""
        await self.begin()
        answer = await self.ask(self.request(signature=b"\0" * 83))
        assert isinstance(answer, NotRenewed)
        self.assertNotIn("signed", answer.reason)
        self.assertIn("not signed by the key", self.audit_text())
        self.assertIn("renewal_refused", self.audit_text())
        self.assertFalse(self.first.lost.called)

    async def test_a_certificate_of_another_authority_is_not_renewed(self) -> None:
        """Though it says the right things and its key signs."""
        await self.begin()
        own = self.credentials
        forged = CertificateAuthority(PrivateKey.generate(), now=time.time).sign_agent(
            own.key.public, cluster="b", instance=self.first.instance, validity=60
        )
        answer = await self.ask(RenewalRequest.make(forged, own.key, time.time()))
        self.assertIsInstance(answer, NotRenewed)

    async def test_asking_for_somebody_else_ends_the_tunnel(self) -> None:
        """Another agent's certificate, or a proxy's."""
        await self.begin()
        other = load_agent_credentials(self.make_agent(name="other"), "b", time.time())
        host = load_certificate(self.state / "host_key-cert.pub")
        for certificate in (other.certificate, host):
            agent = await self.agent(self.make_agent(name=certificate.key_id))
            await agent.greet(self.reactor)
            assert agent.control is not None
            request = RenewalRequest.make(certificate, other.key, time.time())
            with self.assertRaises((RequestFailed, ConnectionClosed)):
                await agent.control.send(Renew(request))
            self.assertIn("own", await agent.lost)


class RotationTests(AgentTestCase):
    """What a running proxy does when an authority is rotated."""

    async def move(self, role: Role, *phases: Phase) -> None:
        """Some steps."""
        for phase in phases:
            await self.proxy.rotation.move(role, phase, back=False, force=True)

    def heard(self, kind: type[TrustMessage]) -> list[Any]:
        """What the agent was told."""
        return [message for message in self.first.heard if type(message) is kind]

    async def test_agents_are_told_whom_to_trust(self) -> None:
        """At once, and those that come later when they come."""
        await self.begin()
        self.assertEqual(self.heard(Trust), [])
        await self.move("host", Phase.TRUSTED)
        await self.until(lambda: self.heard(Trust))
        bundle = self.heard(Trust)[0].bundle
        self.assertEqual(bundle.trusted, load_trust_anchors(self.state / "host_ca.pub"))
        later = await self.agent_in_service("later")
        await self.until(lambda: any(isinstance(m, Trust) for m in later.heard))

    async def test_the_proxy_serves_while_the_new_key_is_made(self) -> None:
        """In a thread; and nobody is told of it before it is there."""
        await self.begin()
        release = hold_threads(self, self.reactor)
        moving = Deferred.fromCoroutine(self.move("host", Phase.TRUSTED))
        await self.agent_in_service("later")
        self.assertNoResult(moving)
        self.assertEqual(self.heard(Trust), [])
        release()
        await moving
        await self.until(lambda: self.heard(Trust))

    async def test_agents_are_asked_to_renew_when_another_key_signs(self) -> None:
        """And the new certificate is of that key."""
        await self.begin()
        await self.move("agent", Phase.TRUSTED)
        self.assertEqual(self.heard(RenewalDue), [])
        await self.move("agent", Phase.SIGNS)
        await self.until(lambda: self.heard(RenewalDue))
        own = self.credentials
        assert self.first.control is not None
        await self.first.control.send(
            Renew(RenewalRequest.make(own.certificate, own.key, time.time()))
        )
        await self.until(lambda: self.heard(Renewed))
        [renewed] = self.heard(Renewed)
        signs = self.proxy.rotation.state("agent").signs
        self.assertEqual(renewed.certificate.ca_key, signs)
        self.assertIsNotNone(renewed.bundle.signer([own.certificate.ca_key]))
        self.assertIn(signs, renewed.bundle.trusted)
        self.assertNotEqual(own.certificate.ca_key, signs)

    async def test_the_proxy_renews_and_has_tunnels_made_anew(self) -> None:
        """When another key signs for hosts."""
        await self.begin()
        await self.move("host", Phase.TRUSTED, Phase.SIGNS)
        signs = self.proxy.rotation.state("host").signs
        path = self.state / "host_key-cert.pub"
        await self.until(lambda: load_certificate(path).ca_key == signs)
        await self.until(lambda: self.heard(Replace))
        later = await self.agent_in_service("later")
        assert later.connection is not None
        transport: Any = later.connection.transport
        self.assertEqual(transport.host_certificate.ca_key, signs)

    async def test_who_has_not_followed_stops_it(self) -> None:
        """By name; the agent of this test does not renew, but trusts what it hears."""
        await self.begin()
        rotation = self.proxy.rotation
        await self.move("agent", Phase.TRUSTED)
        self.assertEqual(await rotation.laggards("agent"), ())
        await self.move("agent", Phase.SIGNS)
        [laggard] = await rotation.laggards("agent")
        self.assertEqual(laggard.follower.id, self.first.instance)
        with self.assertRaisesRegex(Exception, self.first.instance):
            await rotation.move("agent", None, back=False, force=False)
        self.assertEqual(rotation.state("agent").phase, Phase.SIGNS)
        await self.move("agent", Phase.RETIRED)
        self.assertEqual(rotation.state("agent").phase, Phase.RETIRED)
        self.assertIn(NOT_TRUSTED, await self.first.lost)
