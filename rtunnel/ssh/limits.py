"""The limits of one SSH connection below its channels, and of a listener."""

from __future__ import annotations

import attrs

_KIB = 1024
_MIB = 1024 * 1024
_GIB = 1024 * _MIB


@attrs.frozen(kw_only=True)
class TransportLimits:
    """How much, how long and how often. Bytes and seconds.

    :param login_grace: seconds from accept, or from connect, until authenticated.
    :param auth_attempts: authentication requests, ``none`` and questions about keys
        counted; a question and the signature that answers it count once.
    :param unauthenticated: connections of all sources that are not authenticated yet.
    :param unauthenticated_per_source: the same from one address; of IPv6, from one
        /64.
    :param unauthenticated_bytes: bytes that a peer may send before it has logged in.
    :param max_packet_unauthenticated: bytes in a packet until then. RFC 4253 section
        6.1 wants 35,000; a certificate may have 64 KiB.
    :param max_packet: bytes in a packet after: channel data of 256 KiB, as OpenSSH
        allows, and what goes around it.
    :param rekey_bytes: bytes in one direction after which we start a key exchange
        (RFC 4253 section 9).
    :param rekey_packets: packets in one direction after which we do; RFC 4344 section
        3.1 allows 2^31.
    :param rekey_seconds: seconds after which we do.
    :param exchange_seconds: seconds that one key exchange may take.
    :param exchange_free_bytes: bytes that have to move between two key exchanges for
        the second, when the peer starts it, to be free of charge. No more than the
        peer's ``rekey_bytes``, or it will run into this.
    :param exchange_interval: seconds in which the peer earns one key exchange that is
        not.
    :param exchange_burst: how many of these it can save up.
    :param held_packets: packets of ours that wait for a key exchange to end.
    :param held_bytes: bytes in them.
    :param unread_bytes: bytes, channel data not counted, that wait for a peer that
        does not read.
    :param unimplemented: messages that we do not know, between two key exchanges.
    :param abort_after: seconds from our DISCONNECT until the TCP connection is cut.
    :param tcp_user_timeout: seconds that sent data may stay unacknowledged before TCP
        gives up (RFC 5482), until the peer has logged in; after that it is for the
        connection's owner to say. 0 for the system's own.
    """

    login_grace: float = 20.0
    auth_attempts: int = 6
    unauthenticated: int = 100
    unauthenticated_per_source: int = 10
    unauthenticated_bytes: int = _MIB
    max_packet_unauthenticated: int = 64 * _KIB
    max_packet: int = 257 * _KIB
    rekey_bytes: int = _GIB
    rekey_packets: int = 2**30
    rekey_seconds: float = 3600.0
    exchange_seconds: float = 30.0
    exchange_free_bytes: int = 512 * _KIB
    exchange_interval: float = 10.0
    exchange_burst: int = 4
    held_packets: int = 4096
    held_bytes: int = _MIB
    unread_bytes: int = _MIB
    unimplemented: int = 256
    abort_after: float = 2.0
    tcp_user_timeout: float = 20.0


#: What holds unless told otherwise.
DEFAULT_LIMITS = TransportLimits()
