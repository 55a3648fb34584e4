"""Newcomers at real proxies: by token to a certificate."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from rtunnel.agent.connect import Connector
from rtunnel.agent.join import Joining
from rtunnel.errors import ConnectionFailed, JoinFailed, OpenRefused, RequestFailed
from rtunnel.proxy.joiner import MAX_KEY
from rtunnel.proxy.peer_answer import read_answer
from rtunnel.proxy.service import ProxyService
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Connection
from rtunnel.ssh.factory import JoinFactory
from rtunnel.state_directory import load_proxy_credentials, load_trust_anchors
from rtunnel.trust.join_token import (
    TOKEN_REFUSED,
    JoinLine,
    TokenRecord,
    hash_of,
    new_token,
)
from rtunnel.trust.signing_request import JoinRequest, Signed, encode_request
from rtunnel.trust.signing_role import Role
from rtunnel.wire.certificate import Certificate, CertificateKind
from rtunnel.wire.data_types import Reader, text
from rtunnel.wire.keys import PrivateKey, PublicKey
from tests.proxy.running import Peer, ProxyTestCase, Received, events
from tests.proxy.two_proxies import TwoProxiesTestCase

NEVER_MADE = new_token()


class JoiningTestCase(ProxyTestCase):
    """Tokens, and those who have them."""

    async def add(self, proxy: ProxyService | None = None, **fields: Any) -> JoinLine:
        """A token, good once and for an hour unless told otherwise, and its line."""
        token = new_token()
        now = time.time()
        record = TokenRecord.make(
            hash_of(token),
            {"kind": "agent", "cluster": "b", "uses": 1, "created": now}
            | {"expires": now + 3600}
            | fields,
        )
        await (proxy or self.proxy).tokens.add(record)
        return self.line(token, record.kind, record.cluster)

    def line(
        self,
        token: str,
        kind: Role = "agent",
        cluster: str = "b",
        ports: Sequence[int] = (),
    ) -> JoinLine:
        """The line for a token, to this proxy unless told otherwise."""
        return JoinLine(
            kind,
            cluster,
            tuple(f"127.0.0.1:{port}" for port in ports or [self.port]),
            tuple(
                key.fingerprint
                for key in load_trust_anchors(self.state / "host_ca.pub")
            ),
            token,
        )

    async def join(
        self, line: JoinLine, key: PublicKey | None = None
    ) -> dict[str, str]:
        """What ``rtunnel join`` does."""
        self.progress: list[str] = []
        joining = Joining(
            line,
            key or PrivateKey.generate().public,
            reactor=self.reactor,
            connector=Connector(self.reactor, {}),
            now=time.time,
            progress=self.progress.append,
        )
        return await joining.run()

    async def refusal(self, line: JoinLine) -> str:
        """Why that did not work."""
        try:
            await self.join(line)
        except JoinFailed as error:
            return str(error)
        raise self.failureException("joined")

    async def log_in(self, line: JoinLine, port: int | None = None) -> Connection:
        """Show the token, and no more."""
        peer = Peer()
        factory = JoinFactory(
            clock=self.reactor,
            token=line.token,
            check_host=lambda algorithm, blob: Certificate.from_blob(blob),
            handler=peer,
        )
        return await self.connect_with(factory, peer, port)

    def events(self, name: str, audit: str | None = None) -> list[dict[str, Any]]:
        """Audit lines of one kind."""
        return events(audit or self.audit_text(), name)


class Session(Received):
    """A session in which something is executed."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.errors = b""
        self.status: int | None = None
        self.channel = channel
        channel.on_request = self._request
        channel.on_stderr = self._stderr
        channel.start(self)

    def _request(self, name: bytes, data: bytes) -> bool:
        if name == b"exit-status":
            self.status = Reader(data).uint32()
        return True

    def _stderr(self, data: bytes) -> None:
        self.errors += data

    @classmethod
    async def of(
        cls, connection: Connection, command: str, data: bytes | None = b""
    ) -> Session:
        """Execute a command and wait for its end, if there is any input."""
        session = cls(await connection.open_channel(b"session"))
        await session.channel.send_request(b"exec", text(command))
        if data is not None:
            session.channel.write(data)
            session.channel.write_eof()
            await session.ended
        return session


class AgentTests(JoiningTestCase):
    """Agents, at the one proxy that can sign."""

    async def test_an_agent_gets_its_certificate(self) -> None:
        """For its key, its cluster, a day, and with the host authority."""
        line = await self.add(label="shop 7")
        key = PrivateKey.generate()
        files = await self.join(line, key.public)
        certificate, _ = Certificate.from_openssh(files["agent_key-cert.pub"].strip())
        certificate.check(
            kind=CertificateKind.USER,
            trusted=load_trust_anchors(self.state / "agent_ca.pub"),
            now=time.time(),
            principal="b",
        )
        self.assertEqual(certificate.key, key.public)
        self.assertEqual(certificate.principals, ("b",))
        self.assertLess(abs(certificate.valid_before - time.time() - 24 * 3600), 60)
        self.assertEqual(
            files["host_ca.pub"].split()[:2],
            (self.state / "host_ca.pub").read_text().split()[:2],
        )
        self.assertIn('cluster = "b"', files["agent.toml"])
        agent = Peer()
        await self.connect(agent, key, certificate)
        (accepted,) = self.events("join_accepted")
        self.assertEqual(accepted["agent"], certificate.key_id)
        self.assertEqual(accepted["target"], f"token:{hash_of(line.token)[:12]}")
        self.assertNotIn(line.token, self.audit_text())

    async def test_every_refusal_is_the_same_and_counted(self) -> None:
        """Used, expired, withdrawn, never made, malformed, for another kind or
        cluster."""
        used = await self.add()
        await self.join(used)
        expired = await self.expired()
        withdrawn = await self.add()
        await self.proxy.tokens.remove(hash_of(withdrawn.token))
        proxy = await self.add(kind="proxy", cluster="a")
        other = await self.add(cluster="c")
        for refused in (
            used,
            expired,
            withdrawn,
            self.line(NEVER_MADE),
            self.line(proxy.token),
            self.line(other.token),
            self.line(proxy.token, "agent", "a"),
        ):
            before = len(self.events("join_refused"))
            self.assertEqual(await self.refusal(refused), TOKEN_REFUSED)
            self.assertEqual(len(self.events("join_refused")), before + 1)
        # Those that were for something else are as good as before.
        await self.join(other)
        await self.join(proxy)

    async def expired(self) -> JoinLine:
        """A line whose token has expired, but is still in the registry."""
        line = self.line(new_token())
        hour_ago = time.time() - 3600
        record = TokenRecord(
            hash_of(line.token), "agent", "b", 1, hour_ago, hour_ago + 60
        )
        await self.proxy.parts.registry.put(record.key, record.to_json())
        return line

    async def test_nothing_else_can_be_done_with_a_token(self) -> None:
        """No forwarding, no second session, no other command, no subsystem."""
        connection = await self.log_in(await self.add())
        for kind in (b"direct-tcpip", b"control@rtunnel", b"sign@rtunnel"):
            with self.assertRaises(OpenRefused):
                await connection.open_channel(kind, b"")
        session = await connection.open_channel(b"session")
        for request in (
            b"subsystem",
            b"pty-req",
            b"env",
            b"auth-agent-req@openssh.com",
        ):
            with self.assertRaises(RequestFailed):
                await session.send_request(request, text("sftp"))
        with self.assertRaises(OpenRefused):
            await connection.open_channel(b"session")

    async def test_what_is_no_key_is_told_and_uses_nothing_up(self) -> None:
        """On standard error, with exit status 1."""
        line = await self.add()
        key = PrivateKey.generate()
        for command, data, said in (
            ("", b"", b"say what to join as"),
            ("status", b"", b"say what to join as"),
            ("agent b c", b"", b"say what to join as"),
            ("agent B", b"", b"say what to join as"),
            ("proxy b", b"", b"say what to join as"),
            ("agent", b"", b"one line"),
            ("agent", b"hello\n", b"not a public key"),
            ("agent", b"\xff\xff\n", b"not text"),
            ("agent", key.to_openssh(), b"private key"),
            ("agent", b"x" * (MAX_KEY + 1), b"more than"),
            ("agent", b"ssh-dss AAAA\n", b"not a public key"),
        ):
            connection = await self.log_in(line)
            session = await Session.of(connection, command, data)
            self.assertEqual((session.status, session.data), (1, b""), command)
            self.assertIn(said, session.errors)
            self.assertTrue(session.errors.startswith(b"rtunnel: "))
            connection.close()
        await self.join(line)

    async def test_a_key_that_wants_to_be_touched_is_refused(self) -> None:
        """Nobody is there to do it."""
        key = text("sk-ssh-ed25519@openssh.com") + text("x" * 32) + text("ssh:")
        blob = PublicKey.from_blob(key).to_openssh().encode()
        line = await self.add()
        session = await Session.of(await self.log_in(line), "agent", blob)
        self.assertIn(b"touched", session.errors)
        await self.join(line)

    async def test_what_happens_to_the_token_meanwhile_counts(self) -> None:
        """Who has logged in with it has not used it yet."""
        line = await self.add()
        first, second = await self.log_in(line), await self.log_in(line)
        key = PrivateKey.generate().public.to_openssh().encode() + b"\n"
        session = await Session.of(first, "agent", key)
        self.assertEqual((session.status, session.errors), (0, b""))
        session = await Session.of(second, "agent", key)
        self.assertEqual((session.status, session.data), (1, b""))
        self.assertEqual(session.errors.decode(), f"rtunnel: {TOKEN_REFUSED}\n")

    async def test_a_newcomer_does_not_stay_for_ever(self) -> None:
        """Nor keeps the proxy from stopping."""
        connection = await self.log_in(await self.add())
        await Session.of(connection, "agent", None)
        (joiner,) = self.proxy.parts.accepted._joiners
        timer = joiner._timer
        assert timer is not None
        self.assertLess(timer.getTime() - self.reactor.seconds(), 60.1)
        timer.reset(0)
        await self.peers[-1].lost
        self.assertEqual(self.proxy.parts.accepted._joiners, set())

    async def test_stopping_ends_newcomers(self) -> None:
        """They hear why."""
        await self.log_in(await self.add())
        await self.proxy.stopService()
        self.assertIn("shutting down", await self.peers[-1].lost)

    async def test_an_agent_cannot_choose_its_cluster(self) -> None:
        """Whatever it says, the certificate is for the token's."""
        line = await self.add()
        key = PrivateKey.generate().public.to_openssh().encode()
        session = await Session.of(await self.log_in(line), "agent c", key)
        self.assertEqual((session.status, session.data), (1, b""))
        self.assertEqual(session.errors.decode(), f"rtunnel: {TOKEN_REFUSED}\n")
        session = await Session.of(await self.log_in(line), "agent", key)
        certificate = session.data.decode().splitlines()[1]
        self.assertEqual(Certificate.from_openssh(certificate)[0].principals, ("b",))


class PenaltyTests(JoiningTestCase):
    """Guessing."""

    settings = ("limits.penalties_exempt=[]",)

    async def test_who_guesses_is_refused_for_a_while(self) -> None:
        """As for wrong keys: once it is 15 seconds together."""
        refusals = [await self.refusal(self.line(NEVER_MADE)) for _ in range(6)]
        self.assertEqual(refusals[0], TOKEN_REFUSED)
        self.assertIn("no proxy can be reached", refusals[-1])
        good = await self.add()
        self.assertIn("no proxy can be reached", await self.refusal(good))

    async def test_who_is_refused_after_the_login_is_so_too(self) -> None:
        """A token of the other kind logs in, and is good for nothing; to have shown it
        does not make its bearer known."""
        line = await self.add()
        key = PrivateKey.generate().public.to_openssh().encode() + b"\n"
        for _ in range(4):
            connection = await self.log_in(line)
            session = await Session.of(connection, "proxy", key)
            self.assertIn(TOKEN_REFUSED, session.errors.decode())
            connection.close("refused")
            await self.until(lambda: not self.proxy.parts.accepted._joiners)
        with self.assertRaises(ConnectionFailed):
            await self.log_in(line)

    async def test_who_has_joined_is_known(self) -> None:
        """As after any other login: what was before, and comes soon after, is nothing
        to be refused for."""
        for _ in range(2):
            self.assertEqual(await self.refusal(self.line(NEVER_MADE)), TOKEN_REFUSED)
        await self.join(await self.add())
        for _ in range(4):
            self.assertEqual(await self.refusal(self.line(NEVER_MADE)), TOKEN_REFUSED)


class PeerListenerTests(JoiningTestCase):
    """A listener for peers alone."""

    settings = ("peer.listen=['tcp:0:interface=127.0.0.1']",)

    async def test_nobody_joins_there(self) -> None:
        """The token is not even looked at."""
        address: Any = self.proxy._listeners.peer_ports[0].getHost()
        with self.assertRaises(ConnectionFailed):
            await self.log_in(await self.add(), address.port)
        self.assertEqual(self.events("join_refused"), [])


class TwoProxiesJoinTests(TwoProxiesTestCase, JoiningTestCase):
    """Of two proxies the second has no authority's private key."""

    async def test_a_proxy_without_authorities_lets_a_peer_sign(self) -> None:
        """The newcomer does not notice; the audit of the one that signs does."""
        self.assertFalse((self.other_state / "agent_ca").exists())
        await self.until(lambda: self.other.parts.peers.signing("agent"))
        line = await self.add()
        files = await self.join(self.line(line.token, ports=[self.other_port]))
        certificate, _ = Certificate.from_openssh(files["agent_key-cert.pub"].strip())
        self.assertEqual(certificate.principals, ("b",))
        (accepted,) = self.events("join_accepted")
        self.assertEqual(accepted["key_id"], certificate.key_id)
        self.assertEqual(self.events("join_accepted", self.other_audit()), [])
        self.assertEqual(
            await self.refusal(self.line(line.token, ports=[self.other_port])),
            TOKEN_REFUSED,
        )

    async def test_a_proxy_joins_through_a_proxy_without_authorities(self) -> None:
        """With the settings of that one, and names of its own."""
        await self.until(lambda: self.other.parts.peers.signing("proxy"))
        line = await self.add(kind="proxy", cluster="a", names=["proxy-3"])
        files = await self.join(
            self.line(line.token, "proxy", "a", ports=[self.other_port])
        )
        certificate, _ = Certificate.from_openssh(files["host_key-cert.pub"].strip())
        self.assertEqual(certificate.principals[1:], ("a", "127.0.0.1", "proxy-3"))
        self.assertIn('name = "proxy-3"', files["proxy.toml"])
        self.assertIn(f"sqlite:{self.state.resolve()}", files["proxy.toml"])
        for ca in ("host_ca.pub", "agent_ca.pub", "user_ca.pub"):
            self.assertEqual(
                files[ca].split()[:2], (self.state / ca).read_text().split()[:2]
            )

    async def test_a_token_used_at_the_same_moment_at_both(self) -> None:
        """Twenty times over: one of the two gets a certificate, the other one hears
        what anybody hears whose token was used."""
        await self.until(lambda: self.other.parts.peers.signing("agent"))
        for _ in range(20):
            line = await self.add()
            connections = [
                await self.log_in(line, port) for port in (self.port, self.other_port)
            ]
            key = PrivateKey.generate().public.to_openssh().encode()
            running = [
                Deferred.fromCoroutine(Session.of(connection, "agent", key))
                for connection in connections
            ]
            sessions = [await each for each in running]
            self.assertEqual(sorted(s.status or 0 for s in sessions), [0, 1])
            (refused,) = (s for s in sessions if s.status)
            self.assertEqual(refused.errors.decode(), f"rtunnel: {TOKEN_REFUSED}\n")
            for connection in connections:
                connection.close()
        self.assertEqual(len(self.events("join_accepted")), 20)

    async def test_with_no_proxy_that_signs_the_token_stays_good(self) -> None:
        """And the newcomer hears what is missing."""
        await self.until(lambda: self.other.parts.peers.signing("agent"))
        line = await self.add()
        os.rename(self.state / "agent_ca", self.state / "agent_ca.away")
        there = self.line(line.token, ports=[self.other_port])
        self.assertIn("cannot sign", await self.refusal(there))
        (failed,) = self.events("join_refused", self.other_audit())
        self.assertEqual(failed["outcome"], "failed")
        os.rename(self.state / "agent_ca.away", self.state / "agent_ca")
        await self.join(there)

    async def test_what_a_peer_forwards_is_not_believed(self) -> None:
        """A proxy may ask in a newcomer's name, but not without its token."""
        own = load_proxy_credentials(self.other_state, "a", time.time())
        peer = await self.connect(Peer(), own.key, own.certificate)
        key = PrivateKey.generate().public
        good = await self.add()
        for asked, code in (
            (encode_request(JoinRequest("::1", "agent", "b", key, NEVER_MADE)), 1),
            (encode_request(JoinRequest("::1", "agent", "c", key, good.token)), 1),
            (encode_request(JoinRequest("::1", "proxy", "", key, good.token)), 1),
            (b"nonsense", 4),
        ):
            with self.assertRaises(OpenRefused) as caught:
                await peer.open_channel(b"sign@rtunnel", asked)
            self.assertEqual(caught.exception.reason_code, code)
        self.assertEqual(len(self.events("join_refused")), 3)
        request = JoinRequest("::1", "agent", "", key, good.token)
        answer = await read_answer(peer, b"sign@rtunnel", encode_request(request))
        self.assertEqual(Signed.decode(answer).certificate.key, key)
