"""Logins whose authority was exchanged, or whose line in authorized_keys is gone."""

from __future__ import annotations

from pathlib import Path

from rtunnel.errors import AuthenticationFailed, OpenRefused
from rtunnel.proxy.live_logins import NOT_TRUSTED
from rtunnel.state_directory import write_public
from rtunnel.wire.keys import PrivateKey
from tests.proxy.running import EVERYTHING, Peer, events
from tests.proxy.two_proxies import TwoProxiesTestCase


class TrustedNoLongerTestCase(TwoProxiesTestCase):
    """What the tests below have in common."""

    timeout = 60

    def exchange(self, role: str) -> str:
        """Let the first proxy trust another key instead, and none besides.

        :return: what it trusted before.
        """
        path = self.state / f"{role}_ca.pub"
        before = path.read_text()
        self.trust(role, PrivateKey.generate().public.to_openssh("new") + "\n")
        return before

    def trust(self, role: str, keys: str) -> None:
        """Let the first proxy trust these."""
        write_public(self.state / f"{role}_ca.pub", keys, force=True)
        self.proxy.reload()

    def list_people(self, state: Path, *lines: str) -> None:
        """Write authorized_keys."""
        (state / "authorized_keys").write_text("".join(f"{line}\n" for line in lines))


class RetiredAuthorityTests(TrustedNoLongerTestCase):
    """An authority is trusted no longer, and what is open may finish."""

    async def test_idle_login_is_ended_and_one_with_connections_when_they_are(
        self,
    ) -> None:
        """Nothing new is opened by it meanwhile."""
        await self.agent_in_service()
        idle, busy, alice = Peer(), Peer(), self.person("alice")
        await self.connect(idle, *self.person("bob"))
        client = await self.connect(busy, *alice)
        channel, received = await self.opened(client)
        self.exchange("user")
        self.assertIn(NOT_TRUSTED, await idle.lost)
        with self.assertRaisesRegex(OpenRefused, "trusted no longer"):
            await self.opened(client)
        with self.assertRaises(AuthenticationFailed):
            await self.connect(Peer(), *alice)
        channel.write(b"still here")
        await self.until(lambda: received.data == b"still here")
        (ended,) = events(self.audit_text(), "login_ended")
        self.assertEqual((ended["user"], ended["outcome"]), ("bob", "refused"))
        self.assertIn("user authority SHA256:", ended["reason"])
        channel.write_eof()
        await received.ended
        await self.until(lambda: self.proxy.parts.accepted.open_connections == 0)
        # Or in half a minute.
        self.proxy.parts.logins.authorities_changed()
        self.assertIn(NOT_TRUSTED, await busy.lost)

    async def test_authority_that_is_trusted_again_gives_back_what_it_took(
        self,
    ) -> None:
        """As after a step back."""
        await self.agent_in_service()
        client = await self.client("alice")
        await self.opened(client)
        before = self.exchange("user")
        with self.assertRaises(OpenRefused):
            await self.opened(client)
        self.trust("user", before)
        await self.opened(client)

    async def test_agent_that_has_not_followed_loses_its_tunnel(self) -> None:
        """And people, who have another authority, stay."""
        agent = await self.agent_in_service()
        alice = Peer()
        await self.connect(alice, *self.person("alice"))
        self.exchange("agent")
        self.assertIn(NOT_TRUSTED, await agent.lost)
        self.assertFalse(alice.lost.called)
        (ended,) = events(self.audit_text(), "login_ended")
        self.assertEqual((ended["cluster"], ended["agent"]), ("b", agent.instance))

    async def test_tunnel_with_connections_takes_no_more_of_them(self) -> None:
        """Those that are open go on."""
        agent = await self.agent_in_service()
        client = await self.client("alice")
        channel, received = await self.opened(client)
        self.exchange("agent")
        with self.assertRaisesRegex(OpenRefused, "is offline"):
            await self.opened(client)
        channel.write(b"still here")
        await self.until(lambda: received.data == b"still here")
        self.assertFalse(agent.lost.called)

    async def test_proxy_that_has_not_followed_is_asked_no_more(self) -> None:
        """By neither side; what it passes on already goes on."""
        await self.agent_at_other()
        client = await self.client("alice")
        channel, received = await self.opened(client)
        as_other = Peer()
        other = self.other.parts.credentials.present
        await self.connect(as_other, other.key, other.certificate)
        # By a file it would not trust its own certificate either.
        new = PrivateKey.generate().public
        self.proxy.parts.credentials.trust("host", [new])
        self.assertIn(NOT_TRUSTED, await as_other.lost)
        self.assertEqual(self.links(), [])
        with self.assertRaises(OpenRefused):
            await self.opened(client)
        channel.write(b"still here")
        await self.until(lambda: received.data == b"still here")


class CloseRetiredTests(TrustedNoLongerTestCase):
    """The same where the operator wants everything closed."""

    settings = (EVERYTHING, "close_on_change=true")

    async def test_connections_end_with_the_login(self) -> None:
        """At once."""
        await self.agent_in_service()
        alice = Peer()
        client = await self.connect(alice, *self.person("alice"))
        _, received = await self.opened(client)
        self.exchange("user")
        self.assertIn(NOT_TRUSTED, await alice.lost)
        await received.ended
        (closed,) = events(self.audit_text(), "connection_closed")
        self.assertEqual(closed["outcome"], "refused")
        self.assertIn("trusted no longer", closed["reason"])


class AuthorizedKeysTests(TrustedNoLongerTestCase):
    """Lines that are deleted or changed."""

    settings = (EVERYTHING, "close_on_change=true")
    other_settings = settings

    async def test_login_ends_with_its_line(self) -> None:
        """On SIGHUP, at the proxy that reads another file, whoever's client it is."""
        await self.agent_at_other()
        carol, dave = PrivateKey.generate(), PrivateKey.generate()
        kept = dave.public.to_openssh("dave")
        both = (carol.public.to_openssh("carol"), kept)
        for reloaded in (self.proxy, self.other):
            for state in (self.state, self.other_state):
                self.list_people(state, *both)
            carols, daves = Peer(), Peer()
            hers = await self.connect(carols, carol, None)
            his = await self.connect(daves, dave, None)
            (_, gone), (_, stays) = await self.opened(hers), await self.opened(his)
            state = self.state if reloaded is self.proxy else self.other_state
            self.list_people(state, kept)
            self.assertFalse(gone.ended.called)
            reloaded.reload()
            await gone.ended
            if reloaded is self.proxy:
                self.assertIn(NOT_TRUSTED, await carols.lost)
            self.assertFalse(stays.ended.called or daves.lost.called)
            audit = (state / "audit.jsonl").read_text()
            closed = events(audit, "connection_closed")[-1]
            self.assertEqual((closed["user"], closed["outcome"]), ("carol", "refused"))
            self.assertIn("not in authorized_keys", closed["reason"])
        (ended,) = events(self.audit_text(), "login_ended")
        self.assertEqual(ended["user"], "carol")

    async def test_who_is_called_otherwise_now_has_to_come_again(self) -> None:
        """So has whoever may come from elsewhere only; others' lines may change."""
        key = PrivateKey.generate()
        line = key.public.to_openssh("carol")
        for changed in (key.public.to_openssh("carla"), f'from="192.0.2.1" {line}'):
            self.list_people(self.state, line)
            carol = Peer()
            await self.connect(carol, key, None)
            self.list_people(self.state, "# people", line)
            self.proxy.reload()
            self.assertFalse(carol.lost.called)
            self.list_people(self.state, changed)
            self.proxy.reload()
            self.assertIn(NOT_TRUSTED, await carol.lost)

    async def test_file_that_cannot_be_read_ends_nobody(self) -> None:
        """Though nobody can log in by it."""
        key = PrivateKey.generate()
        self.list_people(self.state, key.public.to_openssh("carol"))
        carol = Peer()
        await self.connect(carol, key, None)
        path = self.state / "authorized_keys"
        path.unlink()
        path.mkdir()
        self.proxy.reload()
        with self.assertRaises(AuthenticationFailed):
            await self.connect(Peer(), key, None)
        self.assertFalse(carol.lost.called)
        path.rmdir()
        self.proxy.reload()
        self.assertIn(NOT_TRUSTED, await carol.lost)
        self.flushLoggedErrors()


class KeepUnlistedTests(TrustedNoLongerTestCase):
    """Without the setting a changed file is for what is opened anew."""

    async def test_nothing_new_is_opened_by_a_line_that_is_gone(self) -> None:
        """What is open stays."""
        await self.agent_in_service()
        key = PrivateKey.generate()
        self.list_people(self.state, key.public.to_openssh("carol"))
        client = await self.connect(Peer(), key, None)
        channel, received = await self.opened(client)
        self.list_people(self.state)
        self.proxy.reload()
        with self.assertRaisesRegex(OpenRefused, "trusted no longer"):
            await self.opened(client)
        channel.write(b"still here")
        await self.until(lambda: received.data == b"still here")
