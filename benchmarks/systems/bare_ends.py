"""The two ends of a tunnel that is no tunnel: data is sealed, or opened, and sent on.

    python -m benchmarks.systems.bare_ends proxy PORT AGENT_PORT
    python -m benchmarks.systems.bare_ends agent PORT TARGET_PORT

No protocol, no event loop, no key exchange, and a connection between the two for each
client's: only the system calls and the cipher that no tunnel in user space does
without, with a thread that blocks for each direction.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

#: Bytes of data in one packet.
PACKET = 256 * 1024

_TAG = 16
_LENGTH = struct.Struct(">I")
_HEADER = _LENGTH.size

#: It guards nothing.
_KEY = bytes(16)

#: They stay when a connection ends, so that what they have used is still counted.
_threads = ThreadPoolExecutor(64)


def seal(source: socket.socket, sink: socket.socket) -> None:
    """Send what is read as packets: length, encrypted data, tag."""
    aead = AESGCM(_KEY)
    data = memoryview(bytearray(PACKET))
    packet = memoryview(bytearray(_HEADER + PACKET + _TAG))
    count = 0
    while size := source.recv_into(data):
        end = _HEADER + size + _TAG
        _LENGTH.pack_into(packet, 0, size)
        nonce = count.to_bytes(12, "big")
        aead.encrypt_into(nonce, data[:size], packet[:_HEADER], packet[_HEADER:end])
        count += 1
        sink.sendall(packet[:end])
    sink.shutdown(socket.SHUT_WR)


def unseal(source: socket.socket, sink: socket.socket) -> None:
    """Send the data of the packets that are read."""
    aead = AESGCM(_KEY)
    received = memoryview(bytearray(2 * PACKET))
    data = memoryview(bytearray(PACKET))
    count = filled = 0
    while size := source.recv_into(received[filled:]):
        filled += size
        start = 0
        while filled - start >= _HEADER:
            length = _LENGTH.unpack_from(received, start)[0]
            body, end = start + _HEADER, start + _HEADER + length + _TAG
            if filled < end:
                break
            nonce = count.to_bytes(12, "big")
            header, sealed = received[start:body], received[body:end]
            aead.decrypt_into(nonce, sealed, header, data[:length])
            count += 1
            sink.sendall(data[:length])
            start = end
        left = bytes(received[start:filled])
        filled = len(left)
        received[:filled] = left
    sink.shutdown(socket.SHUT_WR)


def join(near: socket.socket, port: int, *, is_proxy: bool) -> None:
    """Connect on to ``port``, and pass data both ways until both have ended."""
    far = socket.create_connection(("127.0.0.1", port))
    for each in (near, far):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    there, back = (seal, unseal) if is_proxy else (unseal, seal)
    other = _threads.submit(pass_on, back, far, near)
    pass_on(there, near, far)
    other.result()
    near.close()
    far.close()


def pass_on(
    how: Callable[[socket.socket, socket.socket], None],
    source: socket.socket,
    sink: socket.socket,
) -> None:
    """One direction, until it ends or either side hangs up."""
    try:
        how(source, sink)
    except OSError:
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serve until a signal comes."""
    part, port, next_port = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=4096)
    while True:
        near, _ = listener.accept()
        _threads.submit(join, near, int(next_port), is_proxy=part == "proxy")


if __name__ == "__main__":
    main()
