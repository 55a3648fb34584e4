"""An agent whose targets echo, but for those of them that break the protocol.

It is a thread of the test; see :class:`tests.interop.socket_client.SocketClient`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rtunnel.discovery.messages import Hello, encode
from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.state_directory import load_agent_credentials
from rtunnel.wire.data_types import Reader, boolean, string, uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from tests.interop.socket_client import SocketClient

_WINDOW = 2**31

#: What breaks the protocol: gets the agent, and both ends' numbers of the channel.
Fault = Callable[["ScriptedAgent", int, int], object]


class ScriptedAgent(SocketClient):
    """One tunnel of cluster ``cluster``.

    :param port: of the proxy.
    :param state: the agent's directory.
    :param faults: by the name of the host that is asked for.
    """

    def __init__(
        self, port: int, state: Path, cluster: str, faults: Mapping[str, Fault]
    ) -> None:
        credentials = load_agent_credentials(state, cluster, time.time())
        super().__init__(port, credentials.key, credentials.certificate)
        self._faults = faults
        self._next = 100
        self._peers: dict[int, int] = {}
        self._spoilt: set[int] = set()
        self.log_in()
        control = self.open_channel(b"control@rtunnel")
        assert credentials.certificate is not None
        name, payload = encode(Hello("scripted", credentials.certificate.key_id))
        request = uint32(control) + string(name) + boolean(True) + payload
        self._peers[0] = control
        self.send(MSG_CHANNEL_REQUEST, request)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Hang up."""
        self.close()
        self._thread.join(10)

    def confirm(
        self,
        number: int,
        recipient: int,
        max_packet: int = 32768,
        window: int = _WINDOW,
    ) -> None:
        """Confirm a channel."""
        self._peers[number] = recipient
        self.send(
            MSG_CHANNEL_OPEN_CONFIRMATION,
            uint32(recipient) + uint32(number) + uint32(window) + uint32(max_packet),
        )

    def _serve(self) -> None:
        with contextlib.suppress(AssertionError, OSError):
            while not self.is_closed:
                received = self.received[:]
                self.received.clear()
                for number, payload in received:
                    self._act(number, Reader(payload))
                self.receive(60)

    def _act(self, number: int, reader: Reader) -> None:
        if number == MSG_CHANNEL_OPEN:
            self._opened(reader)
        elif number == MSG_CHANNEL_REQUEST:
            channel = reader.uint32()
            reader.string()
            if reader.boolean():
                self.send(MSG_CHANNEL_SUCCESS, uint32(self._peers[channel]))
        elif number == MSG_CHANNEL_DATA:
            channel = reader.uint32()
            data = reader.string()
            if channel not in self._spoilt:
                self.send_data(self._peers[channel], data)
                adjust = uint32(self._peers[channel]) + uint32(len(data))
                self.send(MSG_CHANNEL_WINDOW_ADJUST, adjust)
        elif number == MSG_CHANNEL_EOF:
            self._answer(MSG_CHANNEL_EOF, reader.uint32())
        elif number == MSG_CHANNEL_CLOSE:
            channel = reader.uint32()
            self._answer(MSG_CHANNEL_CLOSE, channel)

    def _answer(self, number: int, channel: int) -> None:
        if channel not in self._spoilt:
            self.send(number, uint32(self._peers[channel]))

    def _opened(self, reader: Reader) -> None:
        assert reader.string() == b"transport@rtunnel"
        recipient = reader.uint32()
        reader.uint32()
        reader.uint32()
        request = TransportRequest.decode(reader.rest())
        number = self._next
        self._next += 1
        fault = self._faults.get(request.host)
        if fault is None:
            self.confirm(number, recipient)
        else:
            self._spoilt.add(number)
            fault(self, number, recipient)
