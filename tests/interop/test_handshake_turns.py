"""What strangers get of a proxy, counted in key exchanges and not in seconds.

Whatever else the machine does, one goes before somebody who has logged in, and a source
that never logs in has as many as it may have.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import struct
import time
from typing import ClassVar

from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import boolean, string
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.numbers import (
    MSG_GLOBAL_REQUEST,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_REQUEST_FAILURE,
)
from tests.interop.deployment import USER, Layout
from tests.interop.processes import LOOPBACK
from tests.interop.sharing import DeploymentTestCase
from tests.interop.socket_client import SocketClient
from tests.interop.strangers import addresses, said_until

#: Strangers at the same time; when there are more, some lose their places.
STRANGERS = 40
#: Key exchanges that may be answered before somebody who has logged in: the one that
#: it is the turn of, and the one that was under way.
FIRST = 2

#: Connections from one source, one after the other. Each that comes to nothing is a
#: second of penalty, and it counts from 15 seconds on.
ONE_BY_ONE = 80
UNTIL_PENALTY = 15

#: Connections of one source at once, and per second after that.
BURST, RATE = 10, 8

#: Seconds until an answer.
PATIENCE = 20.0

#: Before any other time.
UNKNOWN = 1

#: Linux's; Python has no name for it.
_SO_TIMESTAMPNS = 35
_TIMESTAMP = struct.Struct("qq")


def stamp_arrivals(connection: socket.socket) -> None:
    """Have the kernel note when data comes."""
    connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def receive(connection: socket.socket) -> tuple[bytes, int]:
    """Wait for data; with the time in nanoseconds when it came, 0 for its end.

    When this process got round to reading it does not count. It is :data:`UNKNOWN` when
    the kernel had not begun to note times, which it does soon after it is asked to.
    """
    assert select.select([connection], [], [], PATIENCE)[0], "no answer"
    try:
        data, ancillary, _, _ = connection.recvmsg(65536, 256)
    except OSError:
        return b"", 0
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESTAMP.unpack(value)
            return data, seconds * 10**9 + nanoseconds
    return data, UNKNOWN if data else 0


class Stranger:
    """One that asks for a key exchange and never logs in.

    :param port: of the proxy.
    :param source: where it comes from.
    """

    def __init__(self, port: int, source: str) -> None:
        self._connection = socket.socket()
        stamp_arrivals(self._connection)
        self._connection.bind((source, 0))
        self._connection.connect((LOOPBACK, port))
        self._came = b""

    def send(self, data: bytes) -> None:
        """Say something; who has been sent away is not heard."""
        with contextlib.suppress(OSError):
            self._connection.sendall(data)

    def wait_for(self, number: int) -> int:
        """When a message of the proxy's came, in nanoseconds; 0 if it never will."""
        came = 1
        while came and not self._has(number):
            data, came = receive(self._connection)
            self._came += data
        return came

    def _has(self, number: int) -> bool:
        """Whether a message is in what has come, which is not encrypted yet."""
        _, found, packets = self._came.partition(b"\r\n")
        while found and len(packets) > 5:
            length = 4 + int.from_bytes(packets[:4])
            if packets[5] == number and len(packets) >= length:
                return True
            packets = packets[length:]
        return False

    def close(self) -> None:
        """Leave."""
        self._connection.close()


class TurnsTests(DeploymentTestCase):
    """Strangers who want a key exchange each."""

    layout: ClassVar[Layout] = Layout(
        proxies=1, proxy_settings=("limits.penalties_exempt=[]",)
    )

    def setUp(self) -> None:
        """The proxy."""
        (self.proxy,) = self.deployment.proxies
        self.said = said_until("exchanged")

    def stranger(self, source: str) -> Stranger:
        """One that has connected."""
        stranger = Stranger(self.proxy.port, source)
        self.addCleanup(stranger.close)
        return stranger

    def log_in(self) -> SocketClient:
        """Somebody who has logged in."""
        person = self.deployment.directory / USER
        key = PrivateKey.from_openssh((person / "id").read_bytes())
        line = (person / "id-cert.pub").read_text()
        certificate, _ = Certificate.from_openssh(line)
        client = SocketClient(self.proxy.port, key, certificate, source="127.0.0.2")
        self.addCleanup(client.close)
        return client.log_in()

    def test_key_exchanges_wait_for_those_who_have_logged_in(self) -> None:
        """All strangers have asked before them, and one or two are answered before."""
        live = self.log_in()
        stamp_arrivals(live.socket)
        # After that nothing comes unasked.
        live.ask()
        strangers = [self.stranger(each) for each in addresses(STRANGERS, block=40)]
        for stranger in strangers:
            self.assertTrue(stranger.wait_for(MSG_KEXINIT))
        process = self.proxy.process
        process.signal(signal.SIGSTOP)
        self.addCleanup(process.signal, signal.SIGCONT)
        for stranger in strangers:
            stranger.send(self.said)
        live.send(MSG_GLOBAL_REQUEST, string(b"no such") + boolean(True))
        process.signal(signal.SIGCONT)
        data, answered = receive(live.socket)
        live.bytes_received(data)
        self.assertIsNotNone(live.taken(MSG_REQUEST_FAILURE))
        self.assertGreater(answered, UNKNOWN)
        theirs = [stranger.wait_for(MSG_KEX_ECDH_REPLY) for stranger in strangers]
        self.assertNotIn(0, theirs)
        self.assertLessEqual(sum(each < answered for each in theirs), FIRST)

    def exchange(self, source: str) -> bool:
        """Ask for a key exchange, and leave; whether there was one."""
        with contextlib.closing(Stranger(self.proxy.port, source)) as stranger:
            stranger.send(self.said)
            return bool(stranger.wait_for(MSG_KEX_ECDH_REPLY))

    def test_a_source_that_comes_to_nothing_gets_no_more(self) -> None:
        """After 15 key exchanges in vain nobody listens to it; others are heard."""
        answers = [self.exchange("127.41.0.1") for _ in range(ONE_BY_ONE)]
        self.assertTrue(all(answers[:UNTIL_PENALTY]))
        # What it took so long for until then is taken off the penalty.
        self.assertFalse(any(answers[ONE_BY_ONE // 2 :]))
        self.assertTrue(self.exchange("127.41.0.2"))

    def test_a_source_waits_for_its_turn(self) -> None:
        """Ten key exchanges at once, then eight a second; nobody is refused for that.

        From as many as make no penalty yet.
        """
        begun = time.monotonic()
        answers = [self.exchange("127.42.0.1") for _ in range(UNTIL_PENALTY - 1)]
        took = time.monotonic() - begun
        self.assertTrue(all(answers))
        self.assertGreater(took, (UNTIL_PENALTY - 1 - BURST) / RATE - 0.05)
