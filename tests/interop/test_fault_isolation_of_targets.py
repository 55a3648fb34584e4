"""A target that misbehaves costs nobody else a byte.

A hundred streams go through one tunnel and are compared all the while; the target is
reached through the same tunnel.
"""

from __future__ import annotations

from twisted.internet.threads import deferToThread

from rtunnel.wire.data_types import uint32
from rtunnel.wire.numbers import MSG_CHANNEL_CLOSE
from tests.interop.isolation import IsolationCase
from tests.interop.socket_client import SocketClient, target

#: What targets do (:mod:`tests.interop.targets`), and whether that ends the channel.
TARGET_FAULTS = {
    "reset": True,
    "refuse": True,
    # These go on for as long as the client does.
    "silent": False,
    "zeros": False,
}

#: Bytes, more than waits anywhere.
_MUCH = 8 * 2**20


class TargetFaultTests(IsolationCase):
    """Targets behind the same agent as the streams'."""

    async def test_faults_of_a_target(self) -> None:
        """Each ends its own channel at most; the client's others go on."""
        (tunnel,) = self.proxy.tunnels()
        for behaviour, ends in TARGET_FAULTS.items():
            port = self.deployment.target(behaviour)
            await deferToThread(self._meet, behaviour, port, ends)
            await self.assert_go_on(self.streams)
        await self.streams.finish()
        self.assert_quiet_log()
        (still,) = self.proxy.tunnels()
        self.assertEqual(still["since"], tunnel["since"])

    def _meet(self, behaviour: str, port: int, ends: bool) -> None:
        client = SocketClient(self.proxy.port, self.key, self.certificate)
        client.log_in()
        beside = client.open_target("web1.b", self.echo)
        for _ in range(5):
            client.request_channel(
                b"direct-tcpip", target("web1.b", port), window=_MUCH
            )
            channel, window = client.answer_to_open()
            # What is reset early is refused.
            if isinstance(window, int):
                self._fill(client, channel, window, ends)
            client.received.clear()
            client.send_data(beside, behaviour.encode())
            came = client.take_data(len(behaviour))
            self.assertEqual(came, behaviour.encode())
        client.close()

    def _fill(self, client: SocketClient, channel: int, size: int, ends: bool) -> None:
        """Send as much as there is room for, and see the channel's end."""
        for _ in range(size // 32768):
            client.send_data(channel, bytes(32768))
        if ends:
            client.wait_channel_closed()
        client.send(MSG_CHANNEL_CLOSE, uint32(channel))
        if not ends:
            client.wait_channel_closed()
