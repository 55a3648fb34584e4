"""Certificates renewed where the authorities are not, and by hand."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.task import deferLater

from rtunnel.discovery.trust_messages import NotRenewed, Renew, Renewed
from rtunnel.errors import OpenRefused
from rtunnel.proxy.peer_answer import read_answer
from rtunnel.proxy.signing import SIGN_CHANNEL
from rtunnel.state_directory import (
    AgentCredentials,
    ProxyCredentials,
    load_agent_credentials,
    load_certificate,
    load_proxy_credentials,
)
from rtunnel.trust.bundle import Phase
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.trust.signing_request import Signed, encode_request
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey
from tests.proxy.running import Agent, ProxyTestCase
from tests.proxy.two_proxies import TwoProxiesTestCase


class ForwardedTests(TwoProxiesTestCase):
    """The other proxy has only the public halves of the authorities."""

    def own_credentials(self) -> ProxyCredentials:
        """Key and certificate of the proxy that cannot sign."""
        return load_proxy_credentials(self.other_state, "a", time.time())

    def own(self, name: str = "agent") -> AgentCredentials:
        """Of an agent."""
        return load_agent_credentials(self.directory / name, "b", time.time())

    async def ask(self, agent: Agent) -> list[Any]:
        """Ask, and wait for what comes of it."""
        assert agent.control is not None
        own = self.own()
        await agent.control.send(
            Renew(RenewalRequest.make(own.certificate, own.key, time.time()))
        )

        def answers() -> list[Any]:
            return [m for m in agent.heard if isinstance(m, Renewed | NotRenewed)]

        await self.until(answers)
        return answers()

    async def test_an_agent_is_renewed_through_a_proxy_that_cannot_sign(self) -> None:
        """It asks the one that can, whose audit file has it."""
        agent = await self.agent_at_other()
        [answer] = await self.ask(agent)
        assert isinstance(answer, Renewed), answer
        self.assertEqual(answer.certificate.key_id, agent.instance)
        self.assertEqual(answer.certificate.ca_key, self.own().certificate.ca_key)
        self.assertIn("certificate_renewed", self.audit_text())
        self.assertNotIn("certificate_renewed", self.other_audit())

    async def test_a_proxy_keeps_its_key(self) -> None:
        """So that to revoke a key that was stolen is enough."""
        own = self.own_credentials()
        connection = await self.as_peer(self.port)
        for fresh, signed in ((None, True), (PrivateKey.generate(), False)):
            request = RenewalRequest.make(own.certificate, own.key, time.time(), fresh)
            asking = read_answer(connection, SIGN_CHANNEL, encode_request(request))
            if signed:
                certificate = Signed.decode(await asking).certificate
                self.assertEqual(certificate.key, own.key.public)
                continue
            with self.assertRaises(OpenRefused):
                await asking
        self.assertIn("for the same key", self.audit_text())

    async def test_with_nobody_to_sign_the_agent_hears_what_is_missing(self) -> None:
        """And its tunnel stays."""
        agent = await self.agent_at_other()
        await self.proxy.stopService()
        [answer] = await self.ask(agent)
        assert isinstance(answer, NotRenewed), answer
        self.assertTrue(answer.reason)
        self.assertFalse(agent.lost.called)

    async def test_the_other_proxy_follows_a_rotation_of_the_host_authority(
        self,
    ) -> None:
        """Its new certificate is signed by its peer, and it says that it has followed;
        links between both are made anew."""
        await self.agent_at_other()
        client = await self.client()
        await self.open_target(client, "web1.b")
        [link] = self.links()
        for phase in (Phase.TRUSTED, Phase.SIGNS):
            await self.proxy.rotation.move("host", phase, back=False, force=True)
        signs = self.proxy.rotation.state("host").signs
        for state in (self.state, self.other_state):
            path = state / "host_key-cert.pub"
            await self.until(lambda path=path: load_certificate(path).ca_key == signs)
        behind: list[Any] = [None]
        while any(each is None or each.follower.kind == "proxy" for each in behind):
            await deferLater(self.reactor, 0.02)
            behind = list(await self.proxy.rotation.laggards("host"))
        await self.open_target(client, "web1.b")
        self.assertNotIn(link, self.links())
        await self.proxy.rotation.move("host", Phase.RETIRED, back=False, force=True)
        await self.open_target(client, "web1.b")


class ByHandTests(ProxyTestCase):
    """``rtunnel proxy renew``, and SIGHUP."""

    async def test_a_new_certificate_is_shown_after_sighup(self) -> None:
        """To who comes then; who is there stays."""
        first = await self.client("alice")
        path = self.state / "host_key-cert.pub"
        before = load_certificate(path)
        self.run_rtunnel("proxy", "renew", "--state", self.state)
        self.proxy.reload()
        second = await self.client("bob")
        self.assertEqual(self.shown(first), before)
        self.assertEqual(self.shown(second), load_certificate(path))
        self.assertNotEqual(load_certificate(path), before)
        ends = self.proxy.status()["proxy"]["certificate"]["serial"]
        self.assertEqual(ends, load_certificate(path).serial)

    async def test_a_certificate_that_cannot_be_used_changes_nothing(self) -> None:
        """The old one is shown on."""
        path = self.state / "host_key-cert.pub"
        before = load_certificate(path)
        path.write_text("nonsense\n")
        self.proxy.reload()
        self.assertEqual(self.shown(await self.client()), before)

    def shown(self, connection: Any) -> Certificate:
        """The host certificate that a client was shown."""
        certificate: Certificate = connection.transport.host_certificate
        return certificate
