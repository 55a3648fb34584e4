"""How a session's channel ends."""

from __future__ import annotations

import gc

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.proxy.session_stream import SessionStream, send_exit_status
from rtunnel.ssh.channel import Channel
from rtunnel.testing import AcceptingHandler, ConnectionPair, RecordingReceiver


class SessionStreamTests(SynchronousTestCase):
    """Over a channel that a client has opened."""

    def setUp(self) -> None:
        self.handler = AcceptingHandler()
        self.pair = ConnectionPair(server_handler=self.handler)
        opening = Deferred.fromCoroutine(self.pair.client.open_channel(b"session"))
        self.pair.pump()
        self.client: Channel = self.successResultOf(opening)
        self.receiver = RecordingReceiver()
        self.asked: list[tuple[bytes, bytes]] = []
        self.client.on_request = self._asked
        self.client.start(self.receiver)
        (self.channel,) = self.handler.channels

    def _asked(self, name: bytes, data: bytes) -> bool:
        self.asked.append((name, data))
        return True

    def test_an_orderly_end_has_an_exit_status(self) -> None:
        """Without one ``ssh`` would report a failure."""
        stream = SessionStream(self.channel)
        stream.write(b"data")
        stream.close()
        self.pair.pump()
        self.assertEqual(self.asked, [(b"exit-status", bytes(4))])
        self.assertEqual(self.receiver.data, b"data")

    def test_a_channel_that_is_closed_gets_none(self) -> None:
        """That is no failure of ours."""
        self.channel.start(RecordingReceiver())
        self.client.close()
        self.pair.pump()
        send_exit_status(self.channel, 1)
        self.pair.pump()
        gc.collect()
        self.assertEqual(self.asked, [])
        self.assertEqual(self.flushLoggedErrors(), [])
