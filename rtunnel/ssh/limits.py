"""The limits of one SSH connection below its channels, and of a listener."""

from __future__ import annotations

import attrs

from rtunnel.ssh.penalties import PenaltyLimits

_KIB = 1024
_MIB = 1024 * 1024
_GIB = 1024 * _MIB

_PENALTIES = PenaltyLimits()


@attrs.frozen(kw_only=True)
class TransportLimits:
    """How much, how long and how often. Bytes and seconds.

    :param login_grace: seconds from accept, or from connect, until authenticated.
    :param auth_attempts: authentication requests, ``none`` and questions about keys
        counted; a question and the signature that answers it count once.
    :param unauthenticated: connections of all sources that are not authenticated yet.
    :param unauthenticated_per_source: the same from one address; of IPv6, from one
        /64.
    :param early_drop: share of ``unauthenticated`` from which on a newcomer may cost
        one that is silent its place: with a chance of 30 % there, certainly when all
        places are taken. The curve is that of OpenSSH's MaxStartups, which drops the
        newcomer instead.
    :param silence: seconds without a step towards a login after which a connection
        counts as silent.
    :param unanswered_burst: connections of one source that are answered at once if
        they go without logging in; at least ``unauthenticated_per_source``.
    :param unanswered_per_second: how many of these a second allows again; the others
        wait for their answer.
    :param handshake_share: of the time, for key exchanges and login attempts of
        strangers, while those who have logged in are sending.
    :param penalties: what sources that come in vain too often get; None for nothing.
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
        does not read, beyond what the kernel takes.
    :param messages_at_once: messages of one peer that are acted upon before everybody
        else has their turn. Most cost 5 to 50 microseconds; a full read of bulk data
        has fewer.
    :param turn_seconds: seconds after which no further one is acted upon then: to open
        a channel, or to be told why not, takes a millisecond where there is much to
        look through.
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
    early_drop: float = 0.5
    silence: float = 2.0
    unanswered_burst: int = 10
    unanswered_per_second: float = 8.0
    handshake_share: float = 0.5
    penalties: PenaltyLimits | None = _PENALTIES
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
    unread_bytes: int = 512 * _KIB
    messages_at_once: int = 256
    turn_seconds: float = 0.01
    unimplemented: int = 256
    abort_after: float = 2.0
    tcp_user_timeout: float = 20.0


#: What holds unless told otherwise.
DEFAULT_LIMITS = TransportLimits()
