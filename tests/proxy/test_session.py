"""Tests for :mod:`rtunnel.proxy.session`, in a proxy that runs."""

from __future__ import annotations

import json

from rtunnel.errors import OpenRefused, RequestFailed
from rtunnel.proxy.client import MAX_SESSIONS
from rtunnel.wire.data_types import string, text, uint32
from tests.proxy.running import ProxyTestCase, Received


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
