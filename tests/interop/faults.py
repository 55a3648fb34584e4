"""What any peer can do wrong, on a channel or on the whole connection."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

from rtunnel.wire.data_types import boolean, string, uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEXINIT,
)
from tests.interop.socket_client import SocketClient

#: More than any window may come to.
ALL = 2**32 - 1

#: What passes a limit: gets the peer, and the other end's number of the channel.
Commit = Callable[[SocketClient, int], object]


def sends(number: int, payload: Callable[[int], bytes]) -> Commit:
    """Send one message."""
    return lambda client, channel: client.send(number, payload(channel))


def past_window(client: SocketClient, channel: int) -> None:
    """Send more than there is room for."""
    for _ in range(300):
        client.send_data(channel, bytes(32768))


def above_all_bounds(client: SocketClient, channel: int) -> None:
    """Adjust a window to more than it can be."""
    for _ in range(2):
        client.send(MSG_CHANNEL_WINDOW_ADJUST, uint32(channel) + uint32(ALL))


def spoilt_packet(client: SocketClient, channel: int) -> None:
    """Send a packet that has changed on its way."""
    packet = bytearray(client.packet(MSG_IGNORE, string(bytes(1000))))
    packet[500] ^= 1
    client.send_bytes(bytes(packet))


def impossible_length(client: SocketClient, channel: int) -> None:
    """Send a packet that says it is as long as can be."""
    client.send_bytes(uint32(ALL) + bytes(60))


def extended_too_large(client: SocketClient, channel: int) -> None:
    """Send more in a packet than was agreed, as another stream."""
    data = uint32(channel) + uint32(1) + string(bytes(2**18 + 1))
    client.send(MSG_CHANNEL_EXTENDED_DATA, data)


def closed_twice(client: SocketClient, channel: int) -> None:
    """Close the channel, and close it again."""
    for _ in range(2):
        client.send(MSG_CHANNEL_CLOSE, uint32(channel))


def named_longer_than_it_is(channel: int) -> bytes:
    """Data that ends before the length that it says."""
    return uint32(channel) + uint32(1000) + b"x"


def half_an_adjustment(channel: int) -> bytes:
    """A window adjustment without all its bytes."""
    return uint32(channel) + b"\0\1"


def reset(client: SocketClient, channel: int) -> None:
    """Reset the connection."""
    linger = struct.pack("ii", 1, 0)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.is_closed = True
    client.socket.close()


def stall(client: SocketClient, channel: int) -> None:
    """Begin a key exchange and say nothing more."""
    client.send(MSG_KEXINIT, client.kexinit().payload[1:])


def after_eof(client: SocketClient, channel: int) -> None:
    """Send data after its end."""
    client.send(MSG_CHANNEL_EOF, uint32(channel))
    client.send_data(channel, b"x")


def _requests(client: SocketClient, channel: int, count: int) -> bytes:
    """Channel requests that want an answer."""
    payload = uint32(channel) + string(b"env") + boolean(True)
    return b"".join(client.packet(MSG_CHANNEL_REQUEST, payload) for _ in range(count))


def asks_without_end(client: SocketClient, channel: int) -> None:
    """Make ten thousand requests on a channel, of which each wants an answer."""
    for _ in range(20):
        client.send_bytes(_requests(client, channel, 500))


def asks_and_closes(client: SocketClient, channel: int) -> None:
    """The same, and close the channel."""
    asks_without_end(client, channel)
    client.send(MSG_CHANNEL_CLOSE, uint32(channel))


def asks_for_all(client: SocketClient, channel: int) -> None:
    """Make as many global requests, and close the channel."""
    payload = string(b"keepalive@openssh.com") + boolean(True)
    for _ in range(20):
        packets = [client.packet(MSG_GLOBAL_REQUEST, payload) for _ in range(500)]
        client.send_bytes(b"".join(packets))
    client.send(MSG_CHANNEL_CLOSE, uint32(channel))


def asks_and_does_not_read(client: SocketClient, channel: int) -> None:
    """Make requests on a channel, and read no answer, until that is the end."""
    with contextlib.suppress(OSError):
        for _ in range(400):
            client.socket.sendall(_requests(client, channel, 500))
