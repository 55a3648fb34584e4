"""Limits of the connection layer: how much one peer may open, ask and make us hold."""

from __future__ import annotations

import attrs

KIB = 1024
MIB = 1024 * KIB

#: Bytes. A peer whose maximum packet is smaller gets no channel: every byte of data
#: would cost it almost nothing and us a packet.
LEAST_MAX_PACKET = 1 * KIB

#: How the types of our own channels end (RFC 4250 section 4.6.1).
OWN_CHANNELS = b"@rtunnel"


@attrs.frozen
class ChannelLimits:
    """The limits of one connection; each holds for one peer.

    :param window: bytes, the most that one channel's receive window grows to. OpenSSH
        has 2 MiB.
    :param initial_window: bytes a channel's receive window wants at first.
    :param window_budget: bytes that the receive windows of all channels cover together,
        see :class:`~rtunnel.wire.window.WindowBudget`.
    :param least_window: bytes that a channel's receive window has however little is
        left of that.
    :param max_packet: bytes of data in one packet, both ways: what we offer, and what
        we send even if the peer allows more. OpenSSH has 32 KiB.
    :param own_packet: the same where both ends are ours (:meth:`packet`): as much as a
        connection is read at a time divides by, and half of what one write takes.
    :param shared_packet: bytes of data in one packet that we send while more than one
        channel sends: nothing passes a packet, and it has to be whole to be opened.
    :param queue: bytes queued for sending in one channel above which its producer is
        paused while the peer's window is used up.
    :param channels: open channels, counting those being opened in either direction.
    :param pending_opens: channels that the peer has asked for and we have not answered.
    :param opens_per_second: rate at which the peer may ask for channels.
    :param opens_burst: channels that the peer may ask for at once.
    :param outstanding_requests: requests without an answer yet, each way, for each
        channel and for the connection.
    :param close_seconds: seconds that the peer has to answer our CHANNEL_CLOSE. Then
        the channel counts as closed for whoever uses it here, but as open against
        ``channels`` until the peer has closed it: ``ssh`` does so when what it holds
        has been read.
    """

    window: int = 2 * MIB
    initial_window: int = 256 * KIB
    window_budget: int = 48 * MIB
    least_window: int = 16 * KIB
    max_packet: int = 32 * KIB
    own_packet: int = 256 * KIB
    shared_packet: int = 64 * KIB
    queue: int = 16 * KIB
    channels: int = 1000
    pending_opens: int = 128
    opens_per_second: float = 1000.0
    opens_burst: int = 2000
    outstanding_requests: int = 64
    close_seconds: float = 60.0

    def packet(self, kind: bytes) -> int:
        """Bytes of data in one packet on a channel, both ways.

        :param kind: its type; those that end in ``@rtunnel`` nobody else has. Others
            pay for large packets where we gain: OpenSSH's buffers are made for 32 KiB.
        """
        return self.own_packet if kind.endswith(OWN_CHANNELS) else self.max_packet


class TokenBucket:
    """A rate with a burst: each use takes a token, tokens come back with time.

    :param rate: tokens per second.
    :param burst: tokens there are at most, and at first.
    :param now: seconds.
    """

    __slots__ = ("_burst", "_rate", "_then", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._then = now

    def take(self, now: float) -> bool:
        """Take a token; False when there is none.

        :param now: seconds.
        """
        self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate)
        self._then = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
