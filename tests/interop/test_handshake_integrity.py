"""What somebody on the way does to a handshake is noticed, always.

A relay puts a message without meaning in, before the keys are in use, and takes the
first encrypted packet out, so that the sequence numbers fit again: the attack that
strict KEX was made for (CVE-2023-48795). At one end is a real OpenSSH, at the other our
client or our server, with the ciphers that it works against.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from rtunnel.errors import RtunnelError
from rtunnel.ssh import exchanges
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.negotiation import STRICT_CLIENT, STRICT_SERVER
from rtunnel.wire.numbers import MSG_IGNORE, MSG_KEXINIT, MSG_NEWKEYS
from tests.interop.ends import OurClient, OurServer, StockClient
from tests.interop.peers import require_peer
from tests.interop.relay import Handshake, Relay
from tests.interop.sshd import Sshd, make_key

# The module is typed as the module it replaces.
reactor: Any = global_reactor

CHACHA = b"chacha20-poly1305@openssh.com"
CTR = b"aes128-ctr"
ETM = b"hmac-sha2-256-etm@openssh.com"

#: By cipher: what to offer.
ALGORITHMS = {name: Algorithms(ciphers=(name,), macs=(ETM,)) for name in (CHACHA, CTR)}

#: Bytes of a first encrypted SERVICE_REQUEST under chacha20-poly1305, whose length no
#: one on the way can read: 4 + 24 + 16.
SERVICE_REQUEST_SIZE = 44
ETM_TAG = 32

#: Seconds in which the server's first encrypted packet has come, and no second one:
#: it waits for the client.
FIRST_PACKET = 0.2


@attrs.frozen
class Change:
    """What is done in one direction.

    :param first: put a message in before KEXINIT.
    :param inject: put one in before NEWKEYS.
    :param drop: take the first encrypted packet out.
    :param strip: take the marker of strict KEX out of KEXINIT, in both directions.
    """

    first: bool = False
    inject: bool = False
    drop: bool = False
    strip: bool = False


CHANGES = (
    Change(inject=True, drop=True),
    Change(first=True, drop=True),
    Change(inject=True),
    Change(drop=True),
    Change(inject=True, drop=True, strip=True),
)

NOTHING = Change()

#: A whole packet with a message that has no meaning, as it is before there are keys.
IGNORE_PACKET = struct.pack(">IBBI", 12, 6, MSG_IGNORE, 0) + bytes(6)


class _Direction(Handshake):
    """Changes one direction."""

    def __init__(self, change: Change, chacha: bool) -> None:
        super().__init__()
        self.drop = change.drop
        self._change = change
        self._chacha = chacha
        self._first = b""

    def packet(self, number: int, packet: bytes) -> bytes:
        """See :class:`~tests.interop.relay.Handshake`."""
        if number == MSG_KEXINIT:
            if self._change.strip:
                for marker in (STRICT_CLIENT, STRICT_SERVER):
                    packet = packet.replace(marker, b"x" * len(marker))
            if self._change.first:
                packet = IGNORE_PACKET + packet
        elif number == MSG_NEWKEYS and self._change.inject:
            packet = IGNORE_PACKET + packet
        return packet

    def encrypted(self, data: bytes) -> bytes:
        """See :class:`~tests.interop.relay.Handshake`."""
        if not self.drop:
            return data
        self._first += data
        size = SERVICE_REQUEST_SIZE
        if not self._chacha:
            if len(self._first) < 4:
                return b""
            size = 4 + struct.unpack_from(">I", self._first)[0] + ETM_TAG
        if len(self._first) < size:
            return b""
        self.drop = False
        return self._first[size:]


class _ToClient(_Direction):
    """The server's first encrypted packet is all that comes before the client's."""

    def __init__(self, change: Change, chacha: bool, over: Callable[[], None]) -> None:
        super().__init__(change, chacha)
        self._over = over
        self._timer: Any = None

    def encrypted(self, data: bytes) -> bytes:
        """See :class:`~tests.interop.relay.Handshake`."""
        if not self.drop:
            return data
        if self._timer is None:
            self._timer = reactor.callLater(FIRST_PACKET, self._first_is_there)
        return b""

    def stop(self) -> None:
        """Wait no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _first_is_there(self) -> None:
        self.drop = False
        self._over()


class Prefix:
    """Changes the beginning of one connection."""

    def __init__(self, server: Change, client: Change, cipher: bytes) -> None:
        self.dropped = False
        chacha = cipher == CHACHA
        self._to_server = _Direction(server, chacha)
        self._to_client = _ToClient(client, chacha, self._release)
        self._held: list[Callable[[], None]] = []
        self._holds = client.drop

    def to_server(self, data: bytes, send: Callable[[bytes], None]) -> None:
        """See :class:`~tests.interop.relay.Tamper`."""
        changed = self._to_server.pass_on(data)
        if self._holds and self._to_server.is_encrypted:
            # The client's NEWKEYS may go with it: nothing of ours hangs on that.
            self._held.append(lambda: send(changed))
        else:
            send(changed)

    def to_client(self, data: bytes, send: Callable[[bytes], None]) -> None:
        """See :class:`~tests.interop.relay.Tamper`."""
        send(self._to_client.pass_on(data))

    def stop(self) -> None:
        """See :class:`~tests.interop.relay.Tamper`."""
        self._to_client.stop()

    def _release(self) -> None:
        self.dropped = True
        self._holds = False
        held, self._held = self._held, []
        for send in held:
            send()


class HandshakeIntegrityTests(TestCase):
    """Changes in either direction, with either cipher, at either of our ends."""

    timeout = 120

    async def relay(self, port: int, make: Callable[[], Prefix]) -> int:
        """Put a relay in front of a server."""
        relay = Relay(port, make)
        listening = await relay.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(relay.close()))
        return listening

    async def every_change(
        self, port: int, attempt: Callable[[int, bytes], Deferred[bool]]
    ) -> None:
        """See that each change is noticed, and that there is a login without any."""
        tried = []
        for cipher in ALGORITHMS:
            plain = await self.relay(port, partial(Prefix, NOTHING, NOTHING, cipher))
            self.assertTrue(await attempt(plain, cipher), cipher)
            for change in CHANGES:
                stripped = Change(strip=change.strip)
                for changes in ((change, stripped), (stripped, change)):
                    through = await self.relay(port, partial(Prefix, *changes, cipher))
                    tried.append(attempt(through, cipher))
        logged_in = await gatherResults(tried)
        self.assertEqual(logged_in, [False] * len(tried))

    async def test_a_stock_client_at_our_server(self) -> None:
        """It never logs in."""
        client = StockClient(Path(self.mktemp()).absolute())
        server = OurServer(Algorithms(ciphers=(CHACHA, CTR), macs=(ETM,)))
        port = await server.listen(self)

        def attempt(port: int, cipher: bytes) -> Deferred[bool]:
            options = (f"Ciphers={cipher.decode()}", f"MACs={ETM.decode()}")
            return Deferred.fromCoroutine(client.logs_in(port, *options))

        await self.every_change(port, attempt)

    async def test_our_client_at_a_stock_server(self) -> None:
        """The same, the other way round."""
        require_peer("sshd")
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        sshd = Sshd(directory / "sshd", make_key(directory / "id"))
        self.addCleanup(sshd.process.kill)
        client = OurClient(sshd.user, directory / "id")

        def attempt(port: int, cipher: bytes) -> Deferred[bool]:
            connecting = client.connect(self, port, ALGORITHMS[cipher])
            made = Deferred.fromCoroutine(connecting)
            return made.addCallbacks(lambda connection: True, _refused)

        await self.every_change(sshd.port, attempt)

    async def test_without_strict_kex_it_would_work(self) -> None:
        """Two ends of ours that know nothing of it lose a packet, and do not notice.

        So the relay does what it is meant to.
        """
        self.patch(exchanges, "is_strict", lambda *offers: False)
        self.patch(exchanges, "check_strict", lambda negotiated: None)
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        make_key(directory / "id")
        server = OurServer(ALGORITHMS[CHACHA])
        port = await server.listen(self)
        change = Change(inject=True, drop=True)
        made: list[Prefix] = []

        def make() -> Prefix:
            made.append(Prefix(NOTHING, change, CHACHA))
            return made[-1]

        client = OurClient("alice", directory / "id")
        through = await self.relay(port, make)
        connection = await client.connect(self, through, ALGORITHMS[CHACHA])
        transport: Any = connection.transport
        self.assertTrue(transport.authenticated)
        self.assertTrue(made[0].dropped)
        self.assertIsNone(transport.server_sig_algs)


def _refused(failure: Any) -> bool:
    failure.trap(RtunnelError)
    return False
