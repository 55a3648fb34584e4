"""Tests for :mod:`rtunnel.agent.renewal`, in an agent with tunnels."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.logger import LogLevel, capturedLogs

from rtunnel.agent.renewal import MAX_SKEW
from rtunnel.agent.service import AgentService
from rtunnel.config import RenewalConfig
from rtunnel.discovery.messages import Drain, Hello
from rtunnel.discovery.trust_messages import (
    NotRenewed,
    Renew,
    RenewalDue,
    Renewed,
    Replace,
)
from rtunnel.errors import RequestFailed
from rtunnel.ssh.channel import Channel
from rtunnel.state_directory import load_private_key, write_key_pair
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.bundle import Phase
from rtunnel.trust.rotation import AuthorityState, step
from rtunnel.wire.data_types import text
from rtunnel.wire.keys import ECDSA_P256, PrivateKey
from tests.agent.proxies import INSTANCE, NOW, FakeProxy, reactor
from tests.agent.trusting import TrustTestCase
from tests.threads import hold_threads


class RenewalTests(TrustTestCase):
    """Through a tunnel."""

    async def test_the_certificate_is_renewed_and_tunnels_are_made_anew(self) -> None:
        """By the new certificate; each new tunnel shows which one it replaces."""
        proxies = self.make_proxies(2, direct=True)
        service = self.start(*proxies)
        await self.until(lambda: all(proxy.tunnels for proxy in proxies))
        before, first = self.stored, [proxy.sides[0] for proxy in proxies]
        first[0].send(RenewalDue("test", 0.0))
        await self.until(lambda: self.stored != before)
        await self.until(lambda: all(side.lost for side in first))
        await self.until(lambda: all(len(p.tunnels) == 1 for p in proxies))
        for proxy, old in zip(proxies, first, strict=True):
            [new] = proxy.tunnels
            assert new.connection is not None
            identity: Any = new.connection.identity
            self.assertEqual(identity.certificate, self.stored)
            [hello] = [m for m in new.received if isinstance(m, Hello)]
            self.assertEqual(hello.replaces, old.proof)
            self.assertTrue(any(isinstance(m, Drain) for m in old.received))
        self.assertEqual(len(self.asked(*proxies)), 1)
        self.assertEqual(service.status().held, 2)

    async def test_a_fresh_key_is_taken_if_asked_for(self) -> None:
        """Key, public half and certificate belong together."""
        proxy = self.make_proxy()
        before = self.credentials.key.public
        self.start(proxy, renewal=RenewalConfig(fresh_key=True))
        await self.until(lambda: proxy.tunnels)
        proxy.sides[0].send(RenewalDue("test", 0.0))
        await self.until(lambda: len(proxy.sides) == 2 and len(proxy.tunnels) == 1)
        self.assertNotEqual(self.stored.key, before)
        self.assertEqual(load_private_key(self.path).public, self.stored.key)

    async def test_a_fresh_key_is_of_the_type_of_the_old_one(self) -> None:
        """Proxies may take no other."""
        key = PrivateKey.generate(ECDSA_P256)
        certificate = self.agent_ca.sign_agent(
            key.public, cluster="b", instance=INSTANCE, validity=3600
        )
        write_key_pair(self.path, key, "agent", force=True)
        self.write_certificate(certificate)
        self.credentials = attrs.evolve(
            self.credentials, key=key, certificate=certificate
        )
        proxy = self.make_proxy()
        self.start(proxy, renewal=RenewalConfig(fresh_key=True))
        await self.until(lambda: proxy.tunnels)
        proxy.sides[0].send(RenewalDue("test", 0.0))
        await self.until(lambda: len(proxy.sides) == 2 and len(proxy.tunnels) == 1)
        self.assertNotEqual(self.stored.key, key.public)
        self.assertEqual(self.stored.key.algorithm, ECDSA_P256)

    async def test_a_fresh_key_holds_nothing_up(self) -> None:
        """It is made in a thread; the agent answers, and asks when it has the key."""
        proxy = self.make_proxy()
        before = self.credentials.key.public
        self.start(proxy, renewal=RenewalConfig(fresh_key=True))
        await self.until(lambda: proxy.tunnels)
        release = hold_threads(self, reactor)
        control = proxy.sides[0].control
        assert control is not None
        for _ in range(2):
            await control.send(RenewalDue("test", 0.0))
        self.assertEqual(self.asked(proxy), [])
        release()
        await self.until(lambda: self.stored.key != before)
        self.assertEqual(len(self.asked(proxy)), 1)

    async def test_tunnel_that_is_lost_while_a_key_is_made_is_not_asked(self) -> None:
        """Another one is."""
        proxies = self.make_proxies(2, direct=True)
        service = self.start(*proxies, renewal=RenewalConfig(fresh_key=True))
        await self.until(lambda: all(proxy.tunnels for proxy in proxies))
        before = self.stored
        release = hold_threads(self, reactor)
        control = proxies[0].sides[0].control
        assert control is not None
        await control.send(RenewalDue("test", 0.0))
        await proxies[0].stop()
        await self.until(lambda: service.status().held == 1)
        release()
        await self.until(lambda: self.stored != before)
        self.assertEqual(
            (len(self.asked(proxies[0])), len(self.asked(proxies[1]))), (0, 1)
        )

    async def test_what_is_open_on_the_old_tunnel_goes_on(self) -> None:
        """For as long as it lasts; a dial that was under way is still served."""
        proxy = self.make_proxy()
        self.start(proxy, allow=["127.0.0.1:*"])
        await self.until(lambda: proxy.tunnels)
        old = proxy.sides[0]
        port = self.listen_echoing()
        channel = await old.open("127.0.0.1", port)
        echoed = Echoed(channel)
        old.send(Replace("test", 0.0))
        await self.until(lambda: len(proxy.sides) == 2 and proxy.sides[1].greeted)
        await self.until(lambda: any(isinstance(m, Drain) for m in old.received))
        channel.write(b"still here")
        await self.until(lambda: echoed.data == b"still here")
        self.assertIsNone(old.lost)
        await proxy.sides[1].open("127.0.0.1", port)
        channel.close()
        await self.until(lambda: old.lost)
        self.assertIsNone(proxy.sides[1].lost)

    async def test_an_older_proxy_is_asked_in_vain(self) -> None:
        """The agent says so, with what to do, asks the next one, and goes on."""
        proxies = self.make_proxies(2, direct=True)
        service = self.start(*proxies)
        proxies[0].on_message = lambda side, message: not isinstance(message, Renew)
        await self.until(lambda: all(proxy.tunnels for proxy in proxies))
        before = self.stored
        proxies[1].sides[0].send(RenewalDue("test", 0.0))
        await self.until(lambda: self.stored != before)
        proxies[1].on_message = proxies[0].on_message
        await self.until(lambda: service.status().held == 2)
        with capturedLogs() as logs:
            proxies[1].tunnels[0].send(RenewalDue("test", 0.0))
            await self.until(lambda: [e for e in logs if "what_to_do" in e])
        [said] = [each for each in logs if "what_to_do" in each]
        self.assertEqual(said["log_level"], LogLevel.warn)
        self.assertIn("does not renew", said["reason"])
        self.assertIn("rtunnel agent renew", said["what_to_do"])
        self.assertEqual(service.status().held, 2)

    async def test_a_refusal_changes_nothing(self) -> None:
        """Nor a certificate that is not ours: of another key, agent or cluster."""
        proxy = self.make_proxy()
        service = self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        before = self.stored
        stranger = PrivateKey.generate().public

        def certify(key: Any, cluster: str, instance: str) -> Renewed:
            return Renewed(
                self.agent_ca.sign_agent(
                    key, cluster=cluster, instance=instance, validity=60
                )
            )

        other = "00000000-0000-4000-8000-000000000000"
        for answer in (
            lambda asked: NotRenewed("not now"),
            lambda asked: certify(stranger, "b", INSTANCE),
            lambda asked: certify(asked.request.key, "c", INSTANCE),
            lambda asked: certify(asked.request.key, "b", other),
        ):
            self.answer = answer
            await self.ask_again(service, proxy)
            self.assertEqual(self.stored, before)
        self.assertEqual(len(proxy.sides), 1)

    async def test_another_authority_needs_the_word_of_the_one_before(self) -> None:
        """Or one proxy in wrong hands could shut the agent out everywhere."""
        proxy = self.make_proxy()
        service = self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        before, old, new = (
            self.stored,
            self.agent_ca,
            CertificateAuthority(PrivateKey.generate(), now=lambda: NOW),
        )
        state = AuthorityState.of("agent", None, [old.public])
        good = step(state, old.public, Phase.TRUSTED, new.public)
        good = good.signed([new._key, old._key])
        for bundle in (
            None,
            good.signed([new._key]),
            attrs.evolve(good, role="host").signed([old._key]),
            step(state, old.public, Phase.TRUSTED, PrivateKey.generate().public).signed(
                [old._key]
            ),
            good,
        ):
            self.answer = lambda asked, bundle=bundle: attrs.evolve(  # type: ignore[misc]
                self.renewed(asked, new), bundle=bundle
            )
            await self.ask_again(service, proxy)
            self.assertEqual(self.stored == before, bundle is not good)

    async def test_an_older_certificate_is_not_taken(self) -> None:
        """Nor the present one: a proxy has seen both, and could give them for new."""
        proxy = self.make_proxy()
        service = self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        before = self.stored
        earlier = CertificateAuthority(
            self.agent_ca._key, now=lambda: NOW - MAX_SKEW - 1
        )
        for answer in (
            lambda asked: Renewed(before),
            lambda asked: self.renewed(asked, earlier),
        ):
            self.answer = answer
            await self.ask_again(service, proxy)
            self.assertEqual(self.stored, before)

    async def test_a_certificate_bound_to_addresses_stays_so(self) -> None:
        """One that is not is not taken instead of it."""
        bound = [("source-address", text("127.0.0.0/8"))]
        certificate = self.agent_ca.sign_agent(
            self.credentials.key.public,
            cluster="b",
            instance=INSTANCE,
            validity=60,
            critical_options=bound,
        )
        self.write_certificate(certificate)
        proxy = self.make_proxy()
        service = self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        await self.ask_again(service, proxy)
        self.assertEqual(self.stored, certificate)
        self.answer = lambda asked: Renewed(
            self.agent_ca.sign_agent(
                asked.request.key,
                cluster="b",
                instance=INSTANCE,
                validity=3600,
                critical_options=bound,
            )
        )
        await self.ask_again(service, proxy)
        self.assertNotEqual(self.stored, certificate)

    async def ask_again(self, service: AgentService, proxy: FakeProxy) -> None:
        """Have the agent renew now, and wait for what comes of it."""
        count = len(self.asked(proxy))
        service._trust._renewal._timer._hasty_for = None
        service._trust._renewal._timer._due = 0.0
        service._trust._renewal.certificate_changed()
        await self.until(lambda: len(self.asked(proxy)) > count)
        await self.until(lambda: not service._trust._renewal._timer._busy)

    async def test_a_certificate_that_was_not_asked_for_is_refused(self) -> None:
        """A proxy cannot push one."""
        proxy = self.make_proxy()
        self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        before = self.stored
        pushed = self.agent_ca.sign_agent(
            self.credentials.key.public, cluster="b", instance=INSTANCE, validity=60
        )
        control = proxy.sides[0].control
        assert control is not None
        with self.assertRaises(RequestFailed):
            await control.send(Renewed(pushed))
        self.assertEqual(self.stored, before)


class Echoed:
    """Keeps what a channel delivers."""

    def __init__(self, channel: Channel) -> None:
        self.data = b""
        channel.start(self)

    def data_received(self, data: bytes) -> None:
        """Some bytes."""
        self.data += data

    def eof_received(self) -> None:
        """The end of them."""

    def closed(self, reason: str | None) -> None:
        """The end of the channel."""
