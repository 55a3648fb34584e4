"""Opening channels, and what the other end does about it."""

from __future__ import annotations

import struct

from twisted.internet.defer import Deferred

from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.testing import RecordingHandler
from rtunnel.wire.data_types import string


class DecidingHandler(RecordingHandler):
    """Leaves every open to the test: ``decisions`` fire with what to do."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.decisions: list[Deferred[Attach]] = []

    async def _wait(self, request: OpenRequest) -> Attach:
        decision: Deferred[Attach] = Deferred()
        self.decisions.append(decision)
        return await decision


def opening(
    connection: Connection, kind: bytes = b"test", data: bytes = b"data"
) -> Deferred[Channel]:
    """Ask for a channel."""
    return Deferred.fromCoroutine(connection.open_channel(kind, data))


def open_message(
    number: int = 0, window: int = 2**20, max_packet: int = 32768
) -> bytes:
    """The payload of a CHANNEL_OPEN."""
    return string(b"test") + struct.pack(">III", number, window, max_packet)
