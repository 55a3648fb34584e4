"""What an SSH connection wants to know of the TCP connection under it, and set."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol

from rtunnel.socket_buffers import UNSENT_BETWEEN_OURS, limit_unsent

_IP_FAMILIES = (socket.AF_INET, socket.AF_INET6)

#: TCP keepalive: an idle peer that vanished is gone after 2 minutes (60 + 4 x 15 s).
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


def peer_address(transport: Any) -> str:
    """The peer's IP address, see :func:`ip_of`."""
    return ip_of(transport.getPeer())


def ip_of(address: IAddress | None) -> str:
    """The IP address in it, an IPv4 one never in IPv6 form; empty if it has none."""
    host = getattr(address, "host", "")
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return ""
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def is_proxied(transport: Any) -> bool:
    """Whether the peer's address is known only after its first bytes.

    So it is behind whatever wraps a connection, the PROXY protocol that is, but TLS.
    """
    while isinstance(transport, ProtocolWrapper):
        if not isinstance(transport, TLSMemoryBIOProtocol):
            return True
        transport = transport.transport
    return False


def hang_up(transport: Any) -> None:
    """Close our half of the connection once all is sent; the peer closes the other.

    To close both at once makes TCP throw away what the peer has not read yet if it is
    sending just then: it would never know why. TLS says by itself that it ends.
    """
    lower = transport
    while isinstance(lower, ProtocolWrapper):
        if isinstance(lower, TLSMemoryBIOProtocol):
            transport.loseConnection()
            return
        lower = lower.transport
    lose_write = getattr(lower, "loseWriteConnection", transport.loseConnection)
    lose_write()


def tune_socket(transport: Any, user_timeout: float) -> None:
    """Send small packets at once, keep little in the kernel, notice a peer that left.

    :param user_timeout: see :func:`set_user_timeout`.
    """
    handle = _tcp_socket(transport)
    if handle is None:
        return
    # A peer that is gone already is noticed soon enough by other means.
    with contextlib.suppress(OSError):
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            option = getattr(socket, name, None)
            if option is not None:
                handle.setsockopt(socket.IPPROTO_TCP, option, value)
    limit_unsent(handle)
    set_user_timeout(transport, user_timeout)


def set_user_timeout(transport: Any, seconds: float) -> None:
    """How long sent data may stay unacknowledged before TCP gives up (RFC 5482).

    A peer that is there and does not read counts as gone, too, so this is for peers
    that always read: our own programs, not a person's ``ssh`` that may be suspended.

    :param seconds: 0 for the system's own.
    """
    handle = _tcp_socket(transport)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if handle is not None and option is not None:
        with contextlib.suppress(OSError):
            handle.setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))


def expect_to_read(transport: Any, seconds: float) -> None:
    """The peer is a program of ours, and always reads.

    It may have more in the kernel, and is given up when it takes nothing for so long.
    """
    handle = _tcp_socket(transport)
    if handle is not None:
        limit_unsent(handle, UNSENT_BETWEEN_OURS)
    set_user_timeout(transport, seconds)


def _tcp_socket(transport: Any) -> socket.socket | None:
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    get_handle = getattr(transport, "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    if isinstance(handle, socket.socket) and handle.family in _IP_FAMILIES:
        return handle
    return None
