"""What an SSH connection wants to know of the TCP connection under it, and set."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol


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
    set_no_delay = getattr(transport, "setTcpNoDelay", None)
    if set_no_delay is None:
        return
    set_no_delay(True)
    transport.setTcpKeepAlive(True)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and user_timeout:
        milliseconds = int(user_timeout * 1000)
        transport.getHandle().setsockopt(socket.IPPROTO_TCP, option, milliseconds)
