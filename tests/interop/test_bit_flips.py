"""One bit changed on the way is noticed, wherever it is, and nothing wrong delivered.

Two ends of ours over real sockets, with somebody in between who changes one bit of
what is encrypted: in the login, in a channel's open, in its data. In each direction at
200 offsets, divided among the ciphers; :mod:`tests.wire.test_bit_flips` does that for
each cipher alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from rtunnel.errors import RtunnelError
from rtunnel.ssh.connection import Connection
from rtunnel.testing import RecordingReceiver
from rtunnel.wire.algorithms import CIPHERS, Algorithms
from tests.interop.ends import OurClient, OurServer
from tests.interop.relay import Handshake, Relay
from tests.interop.sshd import make_key

# The module is typed as the module it replaces.
reactor: Any = global_reactor

#: Bits changed for each cipher in each direction.
FLIPS = 200 // len(CIPHERS)
#: Where: half of them in the login and what comes after it, the rest up to here.
EARLY, LATE = 1500, 120_000
#: What each end sends; long enough for every length field that a bit can make.
PATTERN = random.Random(1).randbytes(400_000)
AT_ONCE = 10


class _Flip(Handshake):
    """Changes one bit of what is encrypted.

    :param bit: counted from the first encrypted one; negative for none.
    """

    def __init__(self, bit: int) -> None:
        super().__init__()
        self._left, self._mask = bit // 8, 1 << bit % 8
        self.done = False

    def encrypted(self, data: bytes) -> bytes:
        """See :class:`~tests.interop.relay.Handshake`."""
        if 0 <= self._left < len(data):
            changed = bytearray(data)
            changed[self._left] ^= self._mask
            self.done = True
            data = bytes(changed)
        self._left -= len(data)
        return data


class OneBit:
    """Changes one bit of a connection."""

    def __init__(self, bit: int, to_server: bool) -> None:
        self._server = _Flip(bit if to_server else -1)
        self._client = _Flip(-1 if to_server else bit)
        self.flip = self._server if to_server else self._client

    def to_server(self, data: bytes, send: Callable[[bytes], None]) -> None:
        """See :class:`~tests.interop.relay.Tamper`."""
        send(self._server.pass_on(data))

    def to_client(self, data: bytes, send: Callable[[bytes], None]) -> None:
        """See :class:`~tests.interop.relay.Tamper`."""
        send(self._client.pass_on(data))

    def stop(self) -> None:
        """See :class:`~tests.interop.relay.Tamper`."""


class BitFlipTests(TestCase):
    """Each cipher, both directions."""

    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        """A key."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        make_key(directory / "id")
        self.client = OurClient("alice", directory / "id")

    async def check(self, to_server: bool) -> None:
        """Change bits on the way to one end."""
        for name in CIPHERS:
            algorithms = Algorithms(
                key_exchanges=(b"curve25519-sha256",), ciphers=(name,)
            )
            chance = random.Random(name + bytes([to_server]))
            bits = [
                chance.randrange(8 * (EARLY if n % 2 else LATE)) for n in range(FLIPS)
            ]
            server = OurServer(algorithms, PATTERN)
            port = await server.listen(self)
            tampers: list[OneBit] = []
            received: list[RecordingReceiver] = []
            for start in range(0, len(bits), AT_ONCE):
                await gatherResults(
                    [
                        Deferred.fromCoroutine(
                            self.try_one(
                                partial(self.make, tampers, bit, to_server),
                                port,
                                algorithms,
                                None if to_server else received,
                            )
                        )
                        for bit in bits[start : start + AT_ONCE]
                    ],
                    consumeErrors=True,
                )
            self.assertEqual(len(tampers), FLIPS)
            self.assertTrue(all(tamper.flip.done for tamper in tampers), name)
            if to_server:
                received = server.receivers
            for receiver in received:
                data = bytes(receiver.data)
                self.assertTrue(PATTERN.startswith(data), name)
                self.assertLess(len(data), len(PATTERN), name)
                # In some of them whole packets of data came before the bit.
            self.assertGreater(sum(bool(each.data) for each in received), 5)

    def make(self, tampers: list[OneBit], bit: int, to_server: bool) -> OneBit:
        """Note what is done, too."""
        tampers.append(OneBit(bit, to_server))
        return tampers[-1]

    async def try_one(
        self,
        make: Callable[[], OneBit],
        port: int,
        algorithms: Algorithms,
        received: list[RecordingReceiver] | None,
    ) -> None:
        """Log in through the relay, send all both ways, and lose the connection."""
        relay = Relay(port, make)
        through = await relay.listen()
        try:
            connection = await self.client.connect(self, through, algorithms)
            if received is None:
                await self.send_all(connection, [])
            else:
                await self.send_all(connection, received)
        except RtunnelError:
            # It did not get as far as that.
            return
        finally:
            await relay.close()

    async def send_all(
        self, connection: Connection, received: list[RecordingReceiver]
    ) -> None:
        """Send the pattern, and take what comes, until the connection is lost."""
        channel = await connection.open_channel(b"test")
        receiver = RecordingReceiver()
        received.append(receiver)
        channel.start(receiver)
        channel.write(PATTERN)
        while not receiver.is_closed:
            await deferLater(reactor, 0.005)

    async def test_on_the_way_to_the_server(self) -> None:
        """200 bits."""
        await self.check(to_server=True)

    async def test_on_the_way_to_the_client(self) -> None:
        """200 bits."""
        await self.check(to_server=False)
