"""Connections that never log in, as many as one likes, from as many addresses.

Each goes as far as its stage, all in one segment, and then is silent.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import time
from collections.abc import Sequence

from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.data_types import string
from rtunnel.wire.negotiation import build_kexinit
from rtunnel.wire.numbers import MSG_KEX_ECDH_INIT, MSG_KEXINIT, MSG_NEWKEYS
from rtunnel.wire.packet_stream import PacketSealer

VERSION = b"SSH-2.0-stranger\r\n"

#: How far a stranger goes.
STAGES = ("connected", "version", "kexinit", "exchanged")


def allow_files(count: int) -> None:
    """Let this process, and what it starts from now on, open that many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def said_until(stage: str) -> bytes:
    """All that a client says until it has reached a stage."""
    said = {"connected": b"", "version": VERSION}
    if stage in said:
        return said[stage]
    algorithms = Algorithms(key_exchanges=(b"curve25519-sha256",))
    offer = build_kexinit(
        algorithms, algorithms.host_keys, os.urandom(16), is_client=True, first=True
    )
    packets: list[bytes] = [VERSION]
    sealer = PacketSealer(os.urandom)
    sealer.seal(MSG_KEXINIT, offer.payload[1:], b"", packets)
    if stage == "exchanged":
        # Any 32 bytes are a public value, and no key is needed to say NEWKEYS.
        sealer.seal(MSG_KEX_ECDH_INIT, string(os.urandom(32)), b"", packets)
        sealer.seal(MSG_NEWKEYS, b"", b"", packets)
    return b"".join(packets)


def addresses(count: int, block: int = 1) -> list[str]:
    """Addresses of this machine that nobody else uses.

    :param block: 1 to 254, for others each time.
    """
    return [f"127.{block}.{n // 250}.{n % 250 + 1}" for n in range(count)]


class Strangers:
    """Silent connections to a port of 127.0.0.1.

    :param sources: where they come from, in turn.
    :param stages: how far they go, in turn.
    """

    def __init__(
        self,
        port: int,
        count: int,
        *,
        sources: Sequence[str],
        stages: Sequence[str] = STAGES,
    ) -> None:
        said = {stage: said_until(stage) for stage in stages}
        self._sockets: list[socket.socket] = []
        for index in range(count):
            source = sources[index % len(sources)]
            connection = socket.socket()
            connection.bind((source, 0))
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
            self._sockets.append(connection)
        for index, connection in enumerate(self._sockets):
            # Those of one source are at all the stages.
            stage = stages[index // len(sources) % len(stages)]
            connected = select.poll()
            connected.register(connection, select.POLLOUT)
            assert connected.poll(10_000), "not connected within 10 s"
            try:
                connection.sendall(said[stage])
            except OSError:
                # Sent away already.
                continue

    def here(self) -> int:
        """How many are still connected, all that they were told read away."""
        staying = []
        for connection in self._sockets:
            try:
                while data := connection.recv(65536):
                    del data
            except BlockingIOError:
                staying.append(connection)
                continue
            except OSError:
                pass
            connection.close()
        self._sockets = staying
        return len(staying)

    def wait_gone(self, seconds: float, all_but: int = 0) -> float:
        """Wait until they have been sent away; how many seconds that took.

        :param all_but: how many may stay.
        :raises AssertionError: when it took longer than ``seconds``.
        """
        started = time.monotonic()
        while (count := self.here()) > all_but:
            waited = time.monotonic() - started
            assert waited < seconds, f"{count} are there after {waited:.1f} s"
            time.sleep(0.05)
        return time.monotonic() - started

    def close(self) -> None:
        """Hang up."""
        for connection in self._sockets:
            connection.close()
