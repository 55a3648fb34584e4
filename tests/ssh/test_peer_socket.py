"""Tests for :mod:`rtunnel.ssh.peer_socket`."""

from __future__ import annotations

import socket
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.socket_buffers import UNSENT, UNSENT_BETWEEN_OURS
from rtunnel.ssh.peer_socket import (
    expect_to_read,
    hang_up,
    is_proxied,
    peer_address,
    set_user_timeout,
    tune_socket,
)


class SocketTransport(StringTransport):
    """Has a real socket to set options on."""

    def __init__(self, family: int) -> None:
        super().__init__()
        self.socket = socket.socket(family)

    def getHandle(self) -> socket.socket:
        """The socket."""
        return self.socket


class PeerSocketTests(SynchronousTestCase):
    """What a connection knows of what is under it."""

    def test_address(self) -> None:
        """IPv4 mapped into IPv6 is IPv4; what has no IP address has none."""
        for address, expected in (
            (IPv4Address("TCP", "192.0.2.1", 1), "192.0.2.1"),
            (IPv6Address("TCP", "::ffff:192.0.2.1", 1), "192.0.2.1"),
            (IPv6Address("TCP", "2001:DB8::1", 1), "2001:db8::1"),
            (IPv6Address("TCP", "fe80::1%eth0", 1), "fe80::1%eth0"),
            (UNIXAddress(b"/run/x"), ""),
        ):
            self.assertEqual(
                peer_address(StringTransport(peerAddress=address)), expected
            )

    def test_only_the_proxy_protocol_hides_the_address(self) -> None:
        """TLS does not, unless there is PROXY protocol below it."""
        factory: Any = WrappingFactory(None)

        def wrapped(kind: type[ProtocolWrapper], inner: Any) -> ProtocolWrapper:
            wrapper = kind.__new__(kind)
            wrapper.transport = inner
            return wrapper

        plain = StringTransport()
        proxied = ProtocolWrapper(factory, Protocol())
        proxied.transport = plain
        self.assertFalse(is_proxied(plain))
        self.assertTrue(is_proxied(proxied))
        self.assertFalse(is_proxied(wrapped(TLSMemoryBIOProtocol, plain)))
        self.assertTrue(is_proxied(wrapped(TLSMemoryBIOProtocol, proxied)))

    def test_small_packets_go_at_once_and_the_dead_are_noticed(self) -> None:
        """TCP_NODELAY, keepalive, TCP_NOTSENT_LOWAT and TCP_USER_TIMEOUT, also below a
        wrapper."""
        for wraps in (False, True):
            transport = SocketTransport(socket.AF_INET)
            self.addCleanup(transport.socket.close)
            outer: Any = transport
            if wraps:
                outer = ProtocolWrapper(cast(Any, WrappingFactory(None)), Protocol())
                outer.transport = transport
            tune_socket(outer, 20)
            get = transport.socket.getsockopt
            self.assertTrue(get(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            self.assertTrue(get(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
            if option is not None:
                self.assertEqual(get(socket.IPPROTO_TCP, option), UNSENT)
            option = getattr(socket, "TCP_USER_TIMEOUT", None)
            if option is not None:
                self.assertEqual(get(socket.IPPROTO_TCP, option), 20_000)
                set_user_timeout(outer, 0)
                self.assertEqual(get(socket.IPPROTO_TCP, option), 0)

    def test_programs_of_ours_may_have_more_on_the_way(self) -> None:
        """They read it, or are given up."""
        transport = SocketTransport(socket.AF_INET)
        self.addCleanup(transport.socket.close)
        tune_socket(transport, 20)
        expect_to_read(transport, 15)
        for name, value in (
            ("TCP_NOTSENT_LOWAT", UNSENT_BETWEEN_OURS),
            ("TCP_USER_TIMEOUT", 15_000),
        ):
            option = getattr(socket, name, None)
            if option is not None:
                self.assertEqual(
                    transport.socket.getsockopt(socket.IPPROTO_TCP, option), value
                )

    def test_what_is_not_tcp_is_left_alone(self) -> None:
        """A UNIX socket, a socket that is closed, or none at all."""
        local = SocketTransport(socket.AF_UNIX)
        self.addCleanup(local.socket.close)
        closed = SocketTransport(socket.AF_INET)
        closed.socket.close()
        for transport in (local, closed, StringTransport()):
            tune_socket(transport, 20)
            expect_to_read(transport, 20)

    def test_hanging_up_closes_our_half_first(self) -> None:
        """So that the peer reads what we said; TLS has its own way to end."""

        class HalfCloseable(StringTransport):
            half_closed = False

            def loseWriteConnection(self) -> None:
                self.half_closed = True

        below = HalfCloseable()
        proxied = ProtocolWrapper(cast(Any, WrappingFactory(None)), Protocol())
        proxied.transport = cast(Any, below)
        for transport in (HalfCloseable(), proxied):
            hang_up(transport)
        self.assertTrue(below.half_closed)
        self.assertFalse(below.disconnecting)
        ended: list[bool] = []
        tls: Any = TLSMemoryBIOProtocol.__new__(TLSMemoryBIOProtocol)
        tls.transport = HalfCloseable()
        tls.loseConnection = lambda: ended.append(True)
        hang_up(tls)
        self.assertEqual(ended, [True])
        self.assertFalse(tls.transport.half_closed)
        plain = StringTransport()
        hang_up(plain)
        self.assertTrue(plain.disconnecting)
