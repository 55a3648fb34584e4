"""A fault on a client's connection or channel costs nobody else a byte.

A hundred streams go through one tunnel and are compared all the while; each fault is
committed beside them.
"""

from __future__ import annotations

from twisted.internet.threads import deferToThread

from rtunnel.wire.data_types import boolean, string, uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)
from tests.interop import faults
from tests.interop.isolation import IsolationCase
from tests.interop.processes import wait_until
from tests.interop.scripted_agent import ScriptedAgent
from tests.interop.socket_client import SocketClient, target

#: SSH_OPEN_RESOURCE_SHORTAGE.
_SHORTAGE = 4

#: What a client can do wrong on a channel to a target, and whether its connection
#: survives that.
CLIENT_FAULTS: dict[str, tuple[faults.Commit, bool]] = {
    "data past the window": (faults.past_window, True),
    "a packet that is too large": (
        lambda client, channel: client.send_data(channel, bytes(40_000)),
        True,
    ),
    "extended data that is too large": (faults.extended_too_large, True),
    "data after the end of data": (faults.after_eof, True),
    "CLOSE with data unsent": (
        faults.sends(MSG_CHANNEL_CLOSE, lambda channel: uint32(channel)),
        True,
    ),
    "a window above all bounds": (faults.above_all_bounds, False),
    "an answer that nobody asked for": (
        faults.sends(MSG_REQUEST_SUCCESS, lambda channel: b""),
        False,
    ),
    "a refusal that nobody asked for": (
        faults.sends(MSG_REQUEST_FAILURE, lambda channel: b""),
        False,
    ),
    "a channel's answer that nobody asked for": (
        faults.sends(MSG_CHANNEL_SUCCESS, uint32),
        False,
    ),
    "a channel's refusal that nobody asked for": (
        faults.sends(MSG_CHANNEL_FAILURE, uint32),
        False,
    ),
    "a confirmation that nobody asked for": (
        faults.sends(
            MSG_CHANNEL_OPEN_CONFIRMATION, lambda channel: uint32(channel) + bytes(12)
        ),
        False,
    ),
    "an open's refusal that nobody asked for": (
        faults.sends(
            MSG_CHANNEL_OPEN_FAILURE, lambda channel: uint32(channel) + bytes(12)
        ),
        False,
    ),
    "data for a channel that there is not": (
        faults.sends(
            MSG_CHANNEL_DATA, lambda channel: uint32(channel + 7) + string(b"x")
        ),
        False,
    ),
    "window for a channel that there is not": (
        faults.sends(
            MSG_CHANNEL_WINDOW_ADJUST, lambda channel: uint32(channel + 7) + uint32(1)
        ),
        False,
    ),
    "a request on a channel that there is not": (
        faults.sends(
            MSG_CHANNEL_REQUEST,
            lambda channel: uint32(channel + 7) + string(b"env") + boolean(True),
        ),
        False,
    ),
    "a channel closed twice": (faults.closed_twice, False),
    "data that ends early": (
        faults.sends(MSG_CHANNEL_DATA, faults.named_longer_than_it_is),
        False,
    ),
    "an adjustment that ends early": (
        faults.sends(MSG_CHANNEL_WINDOW_ADJUST, faults.half_an_adjustment),
        False,
    ),
    "an open that ends early": (
        faults.sends(MSG_CHANNEL_OPEN, lambda channel: string(b"direct-tcpip")),
        False,
    ),
    "a packet of an impossible length": (faults.impossible_length, False),
    "a packet that is not authentic": (faults.spoilt_packet, False),
    "requests without end": (faults.asks_and_closes, True),
    "requests of the connection without end": (faults.asks_for_all, True),
    "requests whose answers are not read": (faults.asks_and_does_not_read, False),
    "a reset": (faults.reset, False),
    "a key exchange that does not go on": (faults.stall, True),
}


class ClientFaultTests(IsolationCase):
    """Another client, whose channel goes through the same tunnel."""

    async def test_faults_of_a_client(self) -> None:
        """Each ends its own channel or connection; the tunnel does not notice."""
        zeros = self.deployment.target("zeros")
        (tunnel,) = self.proxy.tunnels()
        for what, (commit, survives) in CLIENT_FAULTS.items():
            await deferToThread(self._commit, what, commit, survives, zeros)
            await self.assert_go_on(self.streams)
        await self.streams.finish()
        self.assert_quiet_log()
        (still,) = self.proxy.tunnels()
        self.assertEqual(still["since"], tunnel["since"])

    def _commit(
        self, what: str, commit: faults.Commit, survives: bool, zeros: int
    ) -> None:
        client = SocketClient(self.proxy.port, self.key, self.certificate)
        try:
            client.log_in()
            # One channel with data both ways on its way, and one beside it.
            channel = client.open_target("web1.b", zeros, window=100_000)
            beside = client.open_target("web1.b", self.echo)
            client.take_data(1000)
            commit(client, channel)
            if not survives:
                if not client.is_closed:
                    client.wait_closed()
                return
            if commit is faults.stall:
                # It has 30 s; see test_limits_of_channels.
                return
            client.wait_channel_closed()
            client.received.clear()
            client.send_data(beside, what.encode())
            self.assertEqual(client.take_data(len(what)), what.encode())
        finally:
            client.close()

    async def test_faults_in_opens_of_a_client(self) -> None:
        """Maximum packets that nobody could use, windows that nobody needs."""

        def misbehave() -> None:
            client = SocketClient(self.proxy.port, self.key, self.certificate)
            client.log_in()
            for size in (0, 1, 1023):
                client.request_channel(
                    b"direct-tcpip", target("web1.b", self.echo), max_packet=size
                )
                self.assertEqual(client.answer_to_open()[0], 1)
            for size, window in ((1024, 10), (faults.ALL, faults.ALL), (1024, 0)):
                channel = client.open_target(
                    "web1.b", self.echo, max_packet=size, window=window
                )
                client.send_data(channel, bytes(5000))
                if window:
                    client.take_data(min(window, 5000))
            client.close()

        await deferToThread(misbehave)
        await self.assert_go_on(self.streams)
        await self.streams.finish()
        self.assert_quiet_log()

    async def test_requests_that_nobody_answers(self) -> None:
        """64 wait on a channel, behind one that is decided elsewhere; more close it."""
        agent = self.deployment.add_agent("c", "agent-that-is-silent")

        def misbehave() -> None:
            faults_of = {"silent": lambda agent, own, recipient: None}
            scripted = ScriptedAgent(self.proxy.port, agent.state, "c", faults_of)
            wait_until(lambda: self.proxy.tunnels("c"), 20, "a tunnel")
            client = SocketClient(self.proxy.port, self.key, self.certificate)
            client.log_in()
            beside = client.open_target("web1.b", self.echo)
            for _ in range(3):
                channel = client.open_channel()
                name = (
                    string(b"subsystem") + boolean(True) + string(b"proxy:silent:7@c")
                )
                client.send(MSG_CHANNEL_REQUEST, uint32(channel) + name)
                faults.asks_without_end(client, channel)
                client.wait_channel_closed()
                answers = {MSG_CHANNEL_SUCCESS, MSG_CHANNEL_FAILURE}
                self.assertFalse(answers & set(client.numbers()))
                client.send(MSG_CHANNEL_CLOSE, uint32(channel))
            client.send_data(beside, b"still here")
            self.assertEqual(client.take_data(10), b"still here")
            client.close()
            self.assertFalse(scripted.is_closed)
            scripted.stop()
            wait_until(lambda: not self.proxy.tunnels("c"), 20, "no tunnel")

        await deferToThread(misbehave)
        await self.assert_go_on(self.streams)
        await self.streams.finish()
        self.assert_quiet_log()

    async def test_more_channels_than_there_may_be(self) -> None:
        """Are refused; what is open, with whomever, goes on."""

        def misbehave() -> None:
            client = SocketClient(self.proxy.port, self.key, self.certificate)
            client.log_in()
            beside = client.open_target("web1.b", self.echo)
            refused = 0
            # Sessions that are asked for nothing have a lower limit than channels.
            for _ in range(1100):
                client.request_channel()
                refused += client.answer_to_open()[0] == _SHORTAGE
            self.assertGreater(refused, 0)
            client.received.clear()
            client.send_data(beside, b"still here")
            self.assertEqual(client.take_data(10), b"still here")
            client.close()

        await deferToThread(misbehave)
        await self.assert_go_on(self.streams)
        await self.streams.finish()
        self.assert_quiet_log()
