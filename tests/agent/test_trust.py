"""The agent's end: certificates renewed, tunnels made anew, authorities followed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.logger import LogLevel, capturedLogs

from rtunnel.agent.renewal import MAX_SKEW
from rtunnel.agent.service import AgentService
from rtunnel.config import AgentConfig, RenewalConfig
from rtunnel.discovery.messages import Drain, Hello, Message
from rtunnel.discovery.trust_messages import (
    NotRenewed,
    Renew,
    RenewalDue,
    Renewed,
    Replace,
    Revoked,
    Trust,
)
from rtunnel.errors import RequestFailed
from rtunnel.ssh.channel import Channel
from rtunnel.state_directory import (
    AGENT_KEY,
    load_certificate,
    load_private_key,
    load_trust_anchors,
    write_key_pair,
    write_public,
)
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.bundle import Phase
from rtunnel.trust.revocation import Revocation, RevocationKind
from rtunnel.trust.revoked_hosts import RevokedHosts, following
from rtunnel.trust.rotation import AuthorityState, step
from rtunnel.trust_files import load_revoked_hosts
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import text
from rtunnel.wire.keys import ECDSA_P256, PrivateKey
from tests.agent.proxies import (
    INSTANCE,
    NOW,
    AgentTestCase,
    FakeProxy,
    Side,
    reactor,
)
from tests.threads import hold_threads


class TrustTestCase(AgentTestCase):
    """An agent with a state directory, and proxies that answer as the test says."""

    def setUp(self) -> None:
        """Write the files."""
        super().setUp()
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.path = self.state / AGENT_KEY
        own = self.credentials
        write_key_pair(self.path, own.key, "agent")
        self.write_certificate(own.certificate)
        self.anchors = self.state / "host_ca.pub"
        write_public(self.anchors, self.host_ca.public.to_openssh() + "\n")
        #: What comes of a request; None leaves it without an answer.
        self.answer: Callable[[Renew], Message | None] = self.renewed

    def write_certificate(self, certificate: Certificate) -> None:
        """Put it beside the key."""
        path = self.path.with_name("agent_key-cert.pub")
        write_public(path, certificate.to_openssh() + "\n", force=True)

    def load(self, config: AgentConfig, now: float) -> Any:
        """Read the files."""
        self.loads += 1
        return attrs.evolve(
            self.credentials,
            key=load_private_key(self.path),
            certificate=self.stored,
            host_cas=load_trust_anchors(self.anchors),
            revoked=load_revoked_hosts(self.state, load_trust_anchors(self.anchors)),
        )

    @property
    def stored(self) -> Certificate:
        """The certificate in the directory."""
        return load_certificate(self.path.with_name("agent_key-cert.pub"))

    def start(self, *proxies: FakeProxy, **changes: Any) -> AgentService:
        """The agent."""
        for proxy in proxies:
            proxy.on_message = self.message_received
        return self.start_agent(
            *(proxy.address for proxy in proxies),
            state=self.state,
            chance=lambda: 0.5,
            **changes,
        )

    def message_received(self, side: Side, message: Message) -> bool:
        """What the proxy makes of it."""
        if not isinstance(message, Renew):
            return True
        answer = self.answer(message)
        if answer is not None:
            side.send(answer)
        return True

    def renewed(
        self, asked: Renew, authority: CertificateAuthority | None = None
    ) -> Renewed:
        """As a proxy that can sign does it."""
        asked.request.check(NOW)
        return Renewed(
            (authority or self.agent_ca).sign_agent(
                asked.request.key, cluster="b", instance=INSTANCE, validity=3600
            )
        )

    def asked(self, *proxies: FakeProxy) -> list[Renew]:
        """Requests that came."""
        return [
            message
            for proxy in proxies
            for side in proxy.sides
            for message in side.received
            if isinstance(message, Renew)
        ]


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


class RotationTests(TrustTestCase):
    """Another host authority."""

    def bundle(self, *signers: PrivateKey, new: PrivateKey | None = None) -> Trust:
        """The new key is trusted beside the present one."""
        state = AuthorityState.of("host", None, [self.host_ca.public])
        new = new or PrivateKey.generate()
        made = step(state, self.host_ca.public, Phase.TRUSTED, new.public)
        return Trust(made.signed(signers))

    async def test_a_bundle_of_the_authority_is_believed_and_stored(self) -> None:
        """Success says so; and a proxy of the new authority is accepted."""
        proxy = self.make_proxy()
        self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        trust = self.bundle(self.host_ca._key)
        control = proxy.sides[0].control
        assert control is not None
        await control.send(trust)
        self.assertEqual(load_trust_anchors(self.anchors), trust.bundle.trusted)
        await control.send(trust)

    async def test_a_bundle_of_anybody_else_is_refused(self) -> None:
        """With failure, a log line that says what to do, and no other consequence."""
        proxy = self.make_proxy()
        self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        stranger = PrivateKey.generate()
        control = proxy.sides[0].control
        assert control is not None
        for trust in (self.bundle(stranger, new=stranger), self.bundle()):
            with capturedLogs() as logs, self.assertRaises(RequestFailed):
                await control.send(trust)
            [said] = [e for e in logs if e["log_level"] is LogLevel.error]
            self.assertIn("copy host_ca.pub", said["reason"])
        self.assertEqual(load_trust_anchors(self.anchors), (self.host_ca.public,))
        self.assertIsNone(proxy.sides[0].lost)

    async def test_bundles_of_other_authorities_are_none_of_its_business(self) -> None:
        """An agent trusts proxies, and judges nobody else."""
        proxy = self.make_proxy()
        self.start(proxy)
        await self.until(lambda: proxy.tunnels)
        control = proxy.sides[0].control
        assert control is not None
        bundle = self.bundle(self.host_ca._key).bundle
        wrong = attrs.evolve(bundle, role="user").signed([self.host_ca._key])
        with self.assertRaises(RequestFailed):
            await control.send(Trust(wrong))
        self.assertFalse((self.state / "user_ca.pub").exists())


class RevokedTests(TrustTestCase):
    """Proxies that the host authority has revoked."""

    def revoked(self, proxy: FakeProxy, *signers: PrivateKey) -> Revoked:
        """The next list, with one of them on it."""
        entry = Revocation.make(
            RevocationKind.KEY_ID, proxy.id, reason="stolen", created=NOW
        )
        known = load_revoked_hosts(self.state, [self.host_ca.public])
        return Revoked(following(known, NOW, add=entry).signed(signers))

    async def test_a_tunnel_to_it_is_closed_and_not_made_again(self) -> None:
        """Whoever says so, if the authority has signed it; and after a restart."""
        stolen, good = self.make_proxy(), self.make_proxy()
        service = self.start(stolen, good)
        await self.until(lambda: stolen.tunnels and good.tunnels)
        control = good.sides[0].control
        assert control is not None
        message = self.revoked(stolen, self.host_ca._key)
        await control.send(message)
        await self.until(lambda: stolen.sides[0].lost is not None)
        self.assertIsNone(good.sides[0].lost)
        # It is dialled again, and hung up on before the login.
        await self.until(lambda: stolen.connections > 2)
        self.assertEqual(len(stolen.sides), 1)
        # An older list does not count any more.
        empty = RevokedHosts(1).signed([self.host_ca._key])
        await control.send(Revoked(empty))
        self.assertEqual(
            load_revoked_hosts(self.state, [self.host_ca.public]), message.hosts
        )
        self.assertIsNotNone(service._credentials.present.revoked)

    async def test_a_list_that_the_authority_has_not_signed_is_refused(self) -> None:
        """A proxy that was stolen cannot have the others refused."""
        stolen, good = self.make_proxy(), self.make_proxy()
        self.start(stolen, good)
        await self.until(lambda: stolen.tunnels and good.tunnels)
        control = stolen.sides[0].control
        assert control is not None
        for signers in ((), (PrivateKey.generate(),)):
            with capturedLogs() as logs, self.assertRaises(RequestFailed):
                await control.send(self.revoked(good, *signers))
            [said] = [e for e in logs if e["log_level"] is LogLevel.error]
            self.assertIn("has signed", said["reason"])
        self.assertIsNone(good.sides[0].lost)
        self.assertIsNone(load_revoked_hosts(self.state, [self.host_ca.public]))


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
