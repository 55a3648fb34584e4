"""Channels that are being opened (RFC 4254 section 5.1), and what limits them.

:class:`SentOpens` are those that we asked for, :class:`ReceivedOpens` those that the
peer did. In both an open stays in the books until it is answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.counting import counted
from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
    ConnectionClosed,
    OpenRefused,
    ProtocolError,
)
from rtunnel.naming import printable
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.channel_limits import LEAST_MAX_PACKET, ChannelLimits, TokenBucket
from rtunnel.ssh.interfaces import Attach, OpenRequest
from rtunnel.wire.data_types import Reader, string, uint32
from rtunnel.wire.window import ReceiveWindow

#: Bytes in the name of a channel type or request. RFC 4250 section 4.6.1 allows 64.
MAX_NAME = 255

#: Bytes of the sentence in a refusal that we send.
MAX_REFUSAL = 1024


@attrs.frozen
class PeerChannel:
    """The peer's side of a channel, from CHANNEL_OPEN or its confirmation.

    :param number: what the peer calls the channel.
    :param window: bytes that it takes at first.
    :param max_packet: bytes of data that it takes in one packet.
    """

    number: int
    window: int
    max_packet: int

    @classmethod
    def read(cls, reader: Reader) -> PeerChannel:
        """Read the three uint32."""
        return cls(reader.uint32(), reader.uint32(), reader.uint32())


class SentOpen:
    """A channel that we asked for and the peer has not answered.

    ``answer`` fires with the channel. Once ``abandoned``, nobody waits for it.
    """

    __slots__ = ("abandoned", "answer", "kind", "window")

    def __init__(self, kind: bytes, window: ReceiveWindow) -> None:
        self.kind = kind
        self.window = window
        self.answer: Deferred[Channel] = Deferred()
        self.abandoned = False


class SentOpens:
    """Channels that we asked for, by our number."""

    def __init__(self) -> None:
        self._opens: dict[int, SentOpen] = {}

    def __len__(self) -> int:
        return len(self._opens)

    def __contains__(self, number: object) -> bool:
        return number in self._opens

    def add(self, number: int, sent: SentOpen) -> None:
        """We ask for a channel that we call ``number``."""
        self._opens[number] = sent

    async def wait(self, sent: SentOpen) -> Channel:
        """The channel, once the peer has confirmed it."""
        try:
            return await sent.answer
        except CancelledError:
            sent.abandoned = True
            raise

    def confirmed(
        self,
        number: int,
        peer: PeerChannel,
        make_channel: Callable[[SentOpen], Channel],
    ) -> None:
        """CHANNEL_OPEN_CONFIRMATION.

        :raises ProtocolError: when we did not ask for it.
        """
        sent = self._pop(number)
        channel = make_channel(sent)
        if sent.abandoned:
            channel.abort()
        elif peer.max_packet < LEAST_MAX_PACKET:
            channel.abort()
            sent.answer.errback(
                OpenRefused(
                    OPEN_CONNECT_FAILED,
                    f"the peer takes packets of {peer.max_packet} bytes only",
                )
            )
        else:
            sent.answer.callback(channel)

    def failed(self, reader: Reader) -> None:
        """CHANNEL_OPEN_FAILURE.

        :raises ProtocolError: when we did not ask, or the message is malformed.
        """
        number = reader.uint32()
        reason_code = reader.uint32()
        # A language tag may follow the sentence; old peers send neither.
        sentence = printable(reader.string()) if reader.remaining else ""
        sent = self._pop(number)
        sent.window.release()
        if not sent.abandoned:
            sent.answer.errback(OpenRefused(reason_code, sentence))

    def stop(self, reason: str) -> None:
        """The connection is gone."""
        opens = list(self._opens.values())
        self._opens.clear()
        for sent in opens:
            sent.window.release()
            if not sent.abandoned:
                sent.answer.errback(ConnectionClosed(reason))

    def _pop(self, number: int) -> SentOpen:
        sent = self._opens.pop(number, None)
        if sent is None:
            raise ProtocolError("an answer to a channel open that was never made")
        return sent


class ReceivedOpens:
    """Channels that the peer asked for and we have not answered.

    :param limits: of the connection.
    :param decide: the handler's ``channel_requested``.
    :param confirm: makes and confirms the channel, and attaches it.
    :param refuse: sends CHANNEL_OPEN_FAILURE with this payload.
    :param now: seconds.
    """

    _log = Logger()

    def __init__(
        self,
        limits: ChannelLimits,
        decide: Callable[[OpenRequest], Awaitable[Attach]],
        confirm: Callable[[OpenRequest, PeerChannel, Attach], None],
        refuse: Callable[[bytes], None],
        now: float,
    ) -> None:
        self._limits = limits
        self._decide = decide
        self._confirm = confirm
        self._refuse = refuse
        self._rate = TokenBucket(limits.opens_per_second, limits.opens_burst, now)
        self._deciding: set[Deferred[None]] = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._deciding)

    def received(self, payload: bytes, channels: int, now: float) -> None:
        """CHANNEL_OPEN.

        :param channels: that there are already, those being opened included.
        :param now: seconds.
        :raises ProtocolError: when the message is malformed.
        """
        reader = Reader(payload)
        kind = reader.string(MAX_NAME)
        peer = PeerChannel.read(reader)
        refusal = self._refusal(peer, channels, now)
        if refusal is not None:
            self._send_refusal(peer, refusal)
            return
        request = OpenRequest(kind, reader.rest())
        deciding = Deferred.fromCoroutine(self._answer(request, peer))
        if not deciding.called:
            self._deciding.add(deciding)
            deciding.addBoth(self._decided, deciding)
            if self._stopped:
                deciding.cancel()

    def stop(self) -> None:
        """The connection is gone: cancel what is being decided."""
        self._stopped = True
        for deciding in list(self._deciding):
            deciding.cancel()

    def _refusal(
        self, peer: PeerChannel, channels: int, now: float
    ) -> OpenRefused | None:
        limits = self._limits
        if not self._rate.take(now):
            return OpenRefused(
                OPEN_RESOURCE_SHORTAGE,
                f"more than {limits.opens_per_second:g} channels a second",
            )
        if len(self._deciding) >= limits.pending_opens:
            return OpenRefused(
                OPEN_RESOURCE_SHORTAGE,
                f"{limits.pending_opens} channels are being opened already",
            )
        if channels >= limits.channels:
            return too_many_channels(limits)
        if peer.max_packet < LEAST_MAX_PACKET:
            return OpenRefused(
                OPEN_ADMINISTRATIVELY_PROHIBITED,
                f"a maximum packet of {peer.max_packet} bytes; "
                f"{LEAST_MAX_PACKET} is the least",
            )
        return None

    async def _answer(self, request: OpenRequest, peer: PeerChannel) -> None:
        try:
            attach = await self._decide(request)
        except OpenRefused as refusal:
            self._send_refusal(peer, refusal)
        except ProtocolError as error:
            # What it asks for cannot be read: a fault of this request alone.
            self._send_refusal(
                peer, OpenRefused(OPEN_ADMINISTRATIVELY_PROHIBITED, str(error))
            )
        except CancelledError:
            self._send_refusal(peer, OpenRefused(OPEN_CONNECT_FAILED, "cancelled"))
        except Exception:
            self._log.failure("opening a {kind} channel", kind=printable(request.kind))
            self._send_refusal(peer, OpenRefused(OPEN_CONNECT_FAILED, "internal error"))
        else:
            self._confirm(request, peer, attach)

    def _decided(self, result: Failure | None, deciding: Deferred[None]) -> None:
        self._deciding.discard(deciding)
        if isinstance(result, Failure):
            self._log.failure("answering a channel open", result)

    def _send_refusal(self, peer: PeerChannel, refusal: OpenRefused) -> None:
        sentence = refusal.text.encode("utf-8", "replace")[:MAX_REFUSAL]
        self._refuse(
            uint32(peer.number)
            + uint32(refusal.reason_code)
            + string(sentence)
            + string(b"")
        )


def too_many_channels(limits: ChannelLimits) -> OpenRefused:
    """No more channels, whoever asks."""
    return OpenRefused(
        OPEN_RESOURCE_SHORTAGE,
        f"{counted(limits.channels, 'channel is', 'channels are')} open on this "
        "connection already",
    )
