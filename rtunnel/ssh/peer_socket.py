"""What an SSH connection wants to know of the TCP connection under it, and set."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Any

from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol

_IP_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def peer_address(transport: Any) -> str:
    """The peer's IP address, an IPv4 one never in IPv6 form; empty if it has none."""
    host = getattr(transport.getPeer(), "host", "")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def is_proxied(transport: Any) -> bool:
    """Whether the peer's address is known only after its first bytes.

    So it is behind whatever wraps a connection, the PROXY protocol that is, but TLS.
    """
    while isinstance(transport, ProtocolWrapper):
        if not isinstance(transport, TLSMemoryBIOProtocol):
            return True
        transport = transport.transport
    return False


def tune_socket(transport: Any, user_timeout: float) -> None:
    """Send small packets at once, and notice a peer that has gone.

    :param user_timeout: seconds that sent data may stay unacknowledged (RFC 5482); 0
        for the system's own.
    """
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    get_handle = getattr(transport, "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    if not isinstance(handle, socket.socket) or handle.family not in _IP_FAMILIES:
        return
    # A peer that is gone already is noticed soon enough by other means.
    with contextlib.suppress(OSError):
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if option is not None and user_timeout:
            handle.setsockopt(socket.IPPROTO_TCP, option, int(user_timeout * 1000))
