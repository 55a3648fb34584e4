"""What a proxy lets another proxy do, and what it believes of what that one says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import attrs
from twisted.logger import capturedLogs

from rtunnel.authority_files import load_authority
from rtunnel.discovery.peer_request import PeerRequest
from rtunnel.errors import AuthenticationFailed, OpenRefused, RequestFailed
from rtunnel.naming import Target
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Connection
from rtunnel.ssh.log_rate import LINES_AT_ONCE
from rtunnel.state_directory import (
    load_agent_credentials,
    load_proxy_credentials,
)
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.login_proof import LoginProof, signed_data
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import text
from rtunnel.wire.keys import PrivateKey
from tests.proxy.running import EVERYTHING, Agent, Peer, Received
from tests.proxy.two_proxies import TwoProxiesTestCase, port_of

SESSION_ID = b"s" * 32


def login(
    key: PrivateKey, certificate: Certificate | None, session_id: bytes = SESSION_ID
) -> LoginProof:
    """What the holder of a key signs to log in."""
    algorithm = certificate.algorithm if certificate else key.public.algorithm
    blob = certificate.blob if certificate else key.public.blob
    data = signed_data(session_id, b"root", b"ssh-connection", algorithm, blob)
    return LoginProof(b"root", session_id, algorithm, blob, key.sign(data))


class PeerTestCase(TwoProxiesTestCase):
    """The test plays the first proxy towards the other one."""

    def certificate(
        self,
        key: PrivateKey,
        name: str = "alice",
        *,
        now: Callable[[], float] = time.time,
        sources: tuple[str, ...] = (),
    ) -> Certificate:
        """For a person, by the user CA."""
        authority = CertificateAuthority(load_authority(self.state, "user_ca"), now=now)
        return authority.sign_user(
            key.public, name=name, ttl=3600, source_addresses=sources
        )

    def request(
        self,
        proof: LoginProof,
        *,
        source: str = "192.0.2.7",
        target: Target = Target("web1", "b", 22),  # noqa: B008
    ) -> PeerRequest:
        """What the first proxy asks."""
        return PeerRequest(target, source, "c-1", proof)

    async def ask(self, peer: Connection, request: PeerRequest) -> Channel:
        """Open the channel."""
        return await peer.open_channel(b"transport@rtunnel", request.encode())

    async def refusal(self, peer: Connection, request: PeerRequest) -> OpenRefused:
        """What the peer says to a request that it refuses."""
        with self.assertRaises(OpenRefused) as caught:
            await self.ask(peer, request)
        refused: OpenRefused = caught.exception
        return refused

    def audited(self, name: str) -> list[dict[str, Any]]:
        """The other proxy's audit events of one kind."""
        lines = map(json.loads, self.other_audit().splitlines())
        return [line for line in lines if line["event"] == name]


class ProofTests(PeerTestCase):
    """Who asks is what the user's own login proves."""

    async def test_a_login_of_a_user_is_believed_and_the_agent_named(self) -> None:
        """Before any data, by a channel request."""
        agent = await self.agent_at_other()
        key = PrivateKey.generate()
        peer = await self.as_peer()
        channel = await self.ask(peer, self.request(login(key, self.certificate(key))))
        told: list[tuple[bytes, bytes]] = []

        def request_received(name: bytes, data: bytes) -> bool:
            told.append((name, data))
            return True

        channel.on_request = request_received
        received = Received()
        channel.start(received)
        channel.write(b"hello")
        channel.write_eof()
        await received.ended
        self.assertEqual(received.data, b"hello")
        self.assertEqual(told, [(b"agent@rtunnel", text(agent.instance))])
        (opened,) = self.audited("connection_opened")
        self.assertEqual(
            [opened[k] for k in ("user", "source", "connection_id")],
            ["alice", "192.0.2.7", "c-1"],
        )

    async def test_logins_that_prove_nothing_are_refused(self) -> None:
        """All with the same words; the reason is in the peer's own audit log."""
        agent = await self.agent_at_other()
        key, other = PrivateKey.generate(), PrivateKey.generate()
        certificate = self.certificate(key)
        good = login(key, certificate)
        foreign = CertificateAuthority(PrivateKey.generate(), now=time.time)
        expired = self.certificate(key, now=lambda: time.time() - 7200)
        future = self.certificate(key, now=lambda: time.time() + 7200)
        own = load_proxy_credentials(self.state, "a", time.time())
        far = load_agent_credentials(self.directory / "agent", "b", time.time())
        altered = bytearray(good.signature)
        altered[-1] ^= 1
        cases = {
            "altered signature": attrs.evolve(good, signature=bytes(altered)),
            "signature of nothing": attrs.evolve(good, signature=b"\x00"),
            "signed by another": attrs.evolve(
                good, signature=login(other, certificate).signature
            ),
            "another session": attrs.evolve(good, session_id=b"t" * 32),
            "another name": attrs.evolve(good, username=b"toor"),
            "another user's certificate": attrs.evolve(
                good, blob=self.certificate(other, "bob").blob
            ),
            "the same key, another's name": attrs.evolve(
                good, blob=self.certificate(key, "root").blob
            ),
            "another algorithm": attrs.evolve(good, algorithm=b"ssh-ed25519"),
            "no such algorithm": attrs.evolve(good, algorithm=b"none"),
            "no certificate at all": attrs.evolve(good, blob=b"\x00" * 8),
            "expired": login(key, expired),
            "not valid yet": login(key, future),
            "a foreign authority's": login(
                key, foreign.sign_user(key.public, name="alice", ttl=3600)
            ),
            "a key that is not listed": login(key, None),
            "the proxy's own": login(own.key, own.certificate),
            "an agent's": login(far.key, far.certificate),
        }
        peer = await self.as_peer()
        texts = set()
        for what, proof in cases.items():
            refused = await self.refusal(peer, self.request(proof))
            self.assertEqual(refused.reason_code, 1, what)
            texts.add(refused.text)
        self.assertEqual(len(texts), 1, texts)
        self.assertEqual(agent.dialled, [])
        refusals = self.audited("login_refused")
        self.assertEqual(len(refusals), len(cases))
        self.assertTrue(all(own.proxy_id in line["reason"] for line in refusals))
        await self.ask(peer, self.request(good))

    async def test_a_flood_of_those_who_are_nobody_is_audited_and_not_all_logged(
        self,
    ) -> None:
        """They have logged in at the other proxy, so no audit line is left out."""
        await self.agent_at_other()
        key = PrivateKey.generate()
        request = self.request(login(key, None))
        peer = await self.as_peer()
        count = LINES_AT_ONCE + 50
        with capturedLogs() as logged:
            for _ in range(count):
                await self.refusal(peer, request)
        said = [e for e in logged if "passes on for a" in (e.get("log_format") or "")]
        self.assertLess(len(said), count)
        self.assertGreaterEqual(len(said), LINES_AT_ONCE)
        self.assertEqual(len(self.audited("login_refused")), count)

    async def test_restrictions_to_addresses_hold_for_where_the_user_is(self) -> None:
        """Not for where the proxy is that passes the connection on."""
        await self.agent_at_other()
        key = PrivateKey.generate()
        proof = login(key, self.certificate(key, sources=("192.0.2.0/24",)))
        peer = await self.as_peer()
        for source in ("127.0.0.1", "198.51.100.1", "", "192.0.2.7, 192.0.2.8"):
            await self.refusal(peer, self.request(proof, source=source))
        await self.ask(peer, self.request(proof, source="192.0.2.99"))

    async def test_keys_of_authorized_keys_are_looked_up_here(self) -> None:
        """With their restrictions."""
        await self.agent_at_other()
        key = PrivateKey.generate()
        (self.other_state / "authorized_keys").write_text(
            'from="192.0.2.7" ' + key.public.to_openssh("carol") + "\n"
        )
        peer = await self.as_peer()
        proof = login(key, None)
        await self.refusal(peer, self.request(proof, source="192.0.2.8"))
        await self.ask(peer, self.request(proof))
        (opened,) = self.audited("connection_opened")
        self.assertEqual(opened["user"], "carol")

    async def test_malformed_requests_are_refused_and_nothing_more(self) -> None:
        """The link and its other connections stay."""
        agent = await self.agent_at_other()
        key = PrivateKey.generate()
        good = self.request(login(key, self.certificate(key)))
        peer = await self.as_peer()
        for data in (b"", b"\xff" * 40, good.encode()[:-1], good.encode() + b"\x00"):
            with self.assertRaises(OpenRefused) as caught:
                await peer.open_channel(b"transport@rtunnel", data)
            self.assertEqual(caught.exception.reason_code, 1)
        self.assertEqual(agent.dialled, [])
        await self.ask(peer, good)


class OneHopTests(PeerTestCase):
    """A request never leads on."""

    async def test_a_proxy_without_the_tunnel_asks_nobody_else(self) -> None:
        """The first proxy knows that the other one holds it, and says no all the
        same."""
        agent = await self.agent_at_other()
        key = PrivateKey.generate()
        other = load_proxy_credentials(self.other_state, "a", time.time())
        peer = await self.connect(Peer(), other.key, other.certificate, self.port)
        refused = await self.refusal(
            peer, self.request(login(key, self.certificate(key)))
        )
        self.assertEqual(refused.reason_code, 4)
        self.assertIn("holds no tunnel", refused.text)
        self.assertEqual((agent.dialled, self.links()), ([], []))

    async def test_targets_of_the_own_cluster_are_for_own_clients(self) -> None:
        """Whatever [local] allow says here."""
        key = PrivateKey.generate()
        refused = await self.refusal(
            await self.as_peer(),
            self.request(
                login(key, self.certificate(key)), target=Target("web1", "a", 22)
            ),
        )
        self.assertEqual(refused.reason_code, 1)


class RoleTests(PeerTestCase):
    """Who is a peer, and what a peer is not."""

    async def test_a_peer_opens_nothing_but_transport_channels(self) -> None:
        """It is no client and no agent."""
        await self.agent_at_other()
        peer = await self.as_peer()
        for kind in (b"session", b"direct-tcpip", b"control@rtunnel"):
            with self.assertRaises(OpenRefused) as caught:
                await peer.open_channel(kind)
            self.assertEqual(caught.exception.reason_code, 3)
        with self.assertRaises(RequestFailed):
            await peer.send_global_request(b"tcpip-forward")

    async def test_no_other_role_opens_transport_channels(self) -> None:
        """Whoever it is, and whatever login it can show."""
        await self.agent_at_other()
        key = PrivateKey.generate()
        certificate = self.certificate(key)
        request = self.request(login(key, certificate))
        user = await self.connect(Peer(), key, certificate, self.other_port)
        agent = await self.agent_in_service("agent-2", "c", self.other_port)
        assert agent.connection is not None
        for connection in (user, agent.connection):
            refused = await self.refusal(connection, request)
            self.assertEqual(refused.reason_code, 3)

    async def test_only_host_certificates_of_our_authority_make_a_peer(self) -> None:
        """And not our own one."""
        key = PrivateKey.generate()
        own = self.own_credentials()

        def host(authority: PrivateKey, cluster: str = "a", age: float = 0) -> Any:
            return CertificateAuthority(
                authority, now=lambda: time.time() - age
            ).sign_host(
                key.public,
                proxy_id=own.proxy_id,
                cluster=cluster,
                public_names=(),
                validity=3600,
            )

        ca = load_authority(self.state, "host_ca")
        other = load_proxy_credentials(self.other_state, "a", time.time())
        for login_key, certificate in (
            (key, host(PrivateKey.generate())),
            (key, host(load_authority(self.state, "user_ca"))),
            (key, host(load_authority(self.state, "agent_ca"))),
            (key, host(ca, cluster="b")),
            (key, host(ca, age=7200)),
            (PrivateKey.generate(), host(ca)),
            (key, None),
            (other.key, other.certificate),
        ):
            with self.assertRaises(AuthenticationFailed):
                await self.connect(Peer(), login_key, certificate, self.other_port)
        await self.connect(Peer(), key, host(ca), self.other_port)


class OwnListenerTests(PeerTestCase):
    """``[peer] listen`` gives peers a listener of their own."""

    other_settings = (EVERYTHING, "peer.listen=['tcp:0:interface=127.0.0.1']")

    @property
    def peer_port(self) -> int:
        """Where the other proxy listens for peers."""
        (port,) = self.other._listeners.peer_ports
        address: Any = port.getHost()
        return int(address.port)

    async def test_it_is_for_peers_alone_and_the_other_one_is_not(self) -> None:
        """Connections are passed on through it without being told of it."""
        await self.agent_at_other()
        with self.assertRaises(AuthenticationFailed):
            await self.as_peer(port_of(self.other))
        key = PrivateKey.generate()
        with self.assertRaises(AuthenticationFailed):
            await self.connect(Peer(), key, self.certificate(key), self.peer_port)
        credentials = load_agent_credentials(self.directory / "agent", "b", time.time())
        with self.assertRaises(AuthenticationFailed):
            await self.connect(
                Agent("x"), credentials.key, credentials.certificate, self.peer_port
            )
        client = await self.client()
        await self.open_target(client, "web1.b")
        record = self.other.parts.membership.record
        self.assertEqual(record.peer_addresses, (f"127.0.0.1:{self.peer_port}",))
