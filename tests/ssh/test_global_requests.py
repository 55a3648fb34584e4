"""Tests for :mod:`rtunnel.ssh.global_requests`, through connections."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ConnectionClosed, RequestFailed
from rtunnel.testing import ConnectionPair
from rtunnel.wire.data_types import boolean, string, uint32
from rtunnel.wire.numbers import (
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)


class GlobalRequestTests(SynchronousTestCase):
    """Requests that concern no channel."""

    def ask(self, pair: ConnectionPair, name: bytes, want_reply: bool) -> list[int]:
        """Send a global request to the server; the numbers of what it answers."""
        pair.server.packetReceived(
            MSG_GLOBAL_REQUEST, string(name) + boolean(want_reply)
        )
        return pair.server_transport.sent

    def test_keepalive_is_answered(self) -> None:
        """keepalive@openssh.com gets REQUEST_FAILURE, which is all that ssh wants."""
        pair = ConnectionPair()
        self.assertEqual(
            self.ask(pair, b"keepalive@openssh.com", True), [MSG_REQUEST_FAILURE]
        )

    def test_no_answer_unless_wanted(self) -> None:
        """A request without want_reply gets none."""
        pair = ConnectionPair()
        self.assertEqual(self.ask(pair, b"no-more-sessions@openssh.com", False), [])

    def test_answer_with_data(self) -> None:
        """What the handler returns travels in REQUEST_SUCCESS."""
        pair = ConnectionPair()
        pair.server_handler.global_answers[b"tcpip-forward"] = uint32(4711)
        answer = pair.client.send_global_request(b"tcpip-forward", b"x")
        pair.pump()
        self.assertEqual(self.successResultOf(answer), uint32(4711))
        self.assertEqual(
            pair.server_handler.global_requests, [(b"tcpip-forward", b"x")]
        )
        self.assertEqual(pair.server_transport.sent, [MSG_REQUEST_SUCCESS])

    def test_a_failing_handler_is_a_failure(self) -> None:
        """An exception is logged, the peer hears failure, the connection stays."""
        pair = ConnectionPair()

        def fail(name: bytes, data: bytes) -> bytes | None:
            raise ValueError("a bug")

        pair.server_handler.global_request = fail  # type: ignore[method-assign]
        self.assertEqual(self.ask(pair, b"x", True), [MSG_REQUEST_FAILURE])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_answers_come_in_order(self) -> None:
        """Answers are matched to requests by their order."""
        pair = ConnectionPair()
        pair.server_handler.global_answers[b"b"] = b"yes"
        first = pair.client.send_global_request(b"a")
        second = pair.client.send_global_request(b"b")
        pair.pump()
        self.failureResultOf(first, RequestFailed)
        self.assertEqual(self.successResultOf(second), b"yes")

    def test_a_request_nobody_waits_for_is_still_matched(self) -> None:
        """Cancelling a request does not shift the answers of later ones."""
        pair = ConnectionPair()
        pair.server_handler.global_answers[b"b"] = b"yes"
        first = pair.client.send_global_request(b"a")
        second = pair.client.send_global_request(b"b")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        pair.pump()
        self.assertEqual(self.successResultOf(second), b"yes")

    def test_fails_when_the_connection_goes(self) -> None:
        """A request without an answer fails with the connection."""
        pair = ConnectionPair()
        answer = pair.client.send_global_request(b"a")
        pair.lose()
        self.failureResultOf(answer, ConnectionClosed)
        self.failureResultOf(pair.client.send_global_request(b"a"), ConnectionClosed)

    def test_without_want_reply_it_is_done_at_once(self) -> None:
        """Nothing is waited for that does not come."""
        pair = ConnectionPair()
        self.successResultOf(pair.client.send_global_request(b"a", want_reply=False))
        pair.pump()
        self.assertEqual(pair.server_handler.global_requests, [(b"a", b"")])
        self.assertEqual(pair.server_transport.sent, [])
