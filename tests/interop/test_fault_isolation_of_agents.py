"""A fault on an agent's tunnel or channel costs nobody else a byte.

A hundred streams go through one tunnel and are compared all the while; each fault is
committed by another agent, to the same client.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.threads import deferToThread

from rtunnel.errors import OpenRefused
from rtunnel.testing import RecordingReceiver
from rtunnel.wire.data_types import string, uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)
from tests.interop import faults
from tests.interop.isolation import STREAMS, IsolationCase
from tests.interop.processes import wait_until
from tests.interop.scripted_agent import Fault, ScriptedAgent
from tests.interop.socket_client import target
from tests.interop.witnesses import Witnesses


def _answer(number: int, payload: Callable[[int], bytes]) -> Fault:
    def fault(agent: ScriptedAgent, own: int, recipient: int) -> None:
        agent.confirm(own, recipient)
        agent.send(number, payload(recipient))

    return fault


def _agent_past_window(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    for _ in range(300):
        agent.send_data(recipient, bytes(32768))


def _agent_after_eof(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    agent.send(MSG_CHANNEL_EOF, uint32(recipient))
    agent.send_data(recipient, b"x")


def _agent_extended(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    faults.extended_too_large(agent, recipient)


def _agent_closes_unsent(agent: ScriptedAgent, own: int, recipient: int) -> None:
    # What the client writes is more than this.
    agent.confirm(own, recipient, window=10)
    agent.send(MSG_CHANNEL_CLOSE, uint32(recipient))


def _agent_closed_twice(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    faults.closed_twice(agent, recipient)


def _agent_impossible_length(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    faults.impossible_length(agent, recipient)


def _agent_spoilt(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    faults.spoilt_packet(agent, recipient)


def _agent_reset(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    faults.reset(agent, recipient)


def _agent_asks(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    faults.asks_and_closes(agent, recipient)


def _agent_asks_for_all(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    faults.asks_for_all(agent, recipient)


def _agent_does_not_read(agent: ScriptedAgent, own: int, recipient: int) -> None:
    agent.confirm(own, recipient)
    faults.asks_and_does_not_read(agent, recipient)


#: What an agent can do wrong on one of its channels, and whether its tunnel survives.
AGENT_FAULTS: dict[str, tuple[Fault, bool]] = {
    "packet-of-no-bytes": (
        lambda agent, own, recipient: agent.confirm(own, recipient, max_packet=0),
        True,
    ),
    "packet-of-one-byte": (
        lambda agent, own, recipient: agent.confirm(own, recipient, max_packet=1),
        True,
    ),
    "past-the-window": (_agent_past_window, True),
    "packet-too-large": (
        _answer(
            MSG_CHANNEL_DATA, lambda channel: uint32(channel) + string(bytes(2**17))
        ),
        True,
    ),
    "extended-too-large": (_agent_extended, True),
    "after-eof": (_agent_after_eof, True),
    "close-at-once": (_answer(MSG_CHANNEL_CLOSE, uint32), True),
    "close-with-data-unsent": (_agent_closes_unsent, True),
    "closed-twice": (_agent_closed_twice, False),
    "window-above-all-bounds": (
        _answer(
            MSG_CHANNEL_WINDOW_ADJUST,
            lambda channel: uint32(channel) + uint32(faults.ALL),
        ),
        False,
    ),
    "unsolicited-success": (_answer(MSG_CHANNEL_SUCCESS, uint32), False),
    "unsolicited-failure": (_answer(MSG_CHANNEL_FAILURE, uint32), False),
    "unsolicited-answer": (_answer(MSG_REQUEST_SUCCESS, lambda channel: b""), False),
    "unsolicited-refusal": (_answer(MSG_REQUEST_FAILURE, lambda channel: b""), False),
    "confirmed-twice": (
        _answer(
            MSG_CHANNEL_OPEN_CONFIRMATION,
            lambda channel: uint32(channel) + bytes(12),
        ),
        False,
    ),
    "failed-after-all": (
        _answer(
            MSG_CHANNEL_OPEN_FAILURE,
            lambda channel: uint32(channel) + uint32(1) + string(b"") + string(b""),
        ),
        False,
    ),
    "no-such-channel": (
        _answer(MSG_CHANNEL_EOF, lambda channel: uint32(channel + 999)),
        False,
    ),
    "data-that-ends-early": (
        _answer(MSG_CHANNEL_DATA, faults.named_longer_than_it_is),
        False,
    ),
    "adjustment-that-ends-early": (
        _answer(MSG_CHANNEL_WINDOW_ADJUST, faults.half_an_adjustment),
        False,
    ),
    "impossible-length": (_agent_impossible_length, False),
    "not-authentic": (_agent_spoilt, False),
    "requests-without-end": (_agent_asks, True),
    "requests-of-the-connection-without-end": (_agent_asks_for_all, True),
    "requests-whose-answers-are-not-read": (_agent_does_not_read, False),
    "reset": (_agent_reset, False),
}


class AgentFaultTests(IsolationCase):
    """Another agent, through which the same client reaches targets."""

    async def test_faults_of_an_agent(self) -> None:
        """Each ends that channel or that tunnel; the client's others go on.

        What ends a channel leaves the hundred others of the faulty tunnel itself alone.
        """
        name = "scripted-agent"
        agent = self.deployment.add_agent("c", name)
        acts = {host: fault for host, (fault, _) in AGENT_FAULTS.items()}

        def start() -> ScriptedAgent:
            known = len(self.proxy.tunnels("c"))
            scripted = ScriptedAgent(self.proxy.port, agent.state, "c", acts)
            wait_until(lambda: len(self.proxy.tunnels("c")) > known, 20, "a tunnel")
            return scripted

        scripted = await deferToThread(start)
        beside = await Witnesses.open(self.connection, "echo.c", 7, STREAMS)
        for host, (_, survives) in AGENT_FAULTS.items():
            if scripted.is_closed:
                await deferToThread(self._wait_no_tunnel)
                scripted = await deferToThread(start)
            receiver = RecordingReceiver()
            try:
                channel = await self.connection.open_channel(
                    b"direct-tcpip", target(f"{host}.c", 7)
                )
            except OpenRefused:
                pass
            else:
                channel.start(receiver)
                channel.write(b"x" * 1000)
                await self.until(partial(getattr, receiver, "is_closed"))
            await self.assert_go_on(self.streams)
            if survives:
                await self.assert_go_on(beside)
                self.assertFalse(scripted.is_closed, host)
            else:
                await beside.wait_cut()
                await self.until(partial(getattr, scripted, "is_closed"))
        await self.streams.finish()
        await deferToThread(scripted.stop)
        await deferToThread(self._wait_no_tunnel)
        self.assert_quiet_log()

    def _wait_no_tunnel(self) -> None:
        wait_until(lambda: not self.proxy.tunnels("c"), 20, "the end of the tunnel")
