"""Tests for :mod:`rtunnel.ssh.requests`, through channels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ConnectionClosed, RequestFailed
from rtunnel.ssh.channel_limits import ChannelLimits
from rtunnel.wire.data_types import boolean, string, uint32
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
)
from tests.ssh.channel_ends import Ends


class ReceivedRequestTests(SynchronousTestCase):
    """Channel requests of the peer's."""

    def ask(self, ends: Ends, name: bytes, want_reply: bool = True) -> None:
        """The far end gets a request."""
        ends.to_far(
            MSG_CHANNEL_REQUEST,
            uint32(ends.far.number) + string(name) + boolean(want_reply) + b"data",
        )

    def test_refused_by_default(self) -> None:
        """Requests that nobody asked for get CHANNEL_FAILURE, if they want anything."""
        ends = Ends()
        self.ask(ends, b"keepalive@openssh.com")
        self.ask(ends, b"env", want_reply=False)
        self.assertEqual(ends.answered, [MSG_CHANNEL_FAILURE])

    def test_handler_decides(self) -> None:
        """on_request gets name and data, and says success or failure."""
        seen: list[tuple[bytes, bytes]] = []

        def on_request(name: bytes, data: bytes) -> bool:
            seen.append((name, data))
            return name == b"good"

        ends = Ends()
        ends.far.on_request = on_request
        self.ask(ends, b"good")
        self.ask(ends, b"bad")
        self.assertEqual(ends.answered, [MSG_CHANNEL_SUCCESS, MSG_CHANNEL_FAILURE])
        self.assertEqual(seen, [(b"good", b"data"), (b"bad", b"data")])

    def test_answers_leave_in_the_order_of_the_requests(self) -> None:
        """Answers known early wait for those before them; nothing else does."""
        outcomes: list[Deferred[bool]] = [Deferred(), Deferred()]
        ends = Ends()
        results: Iterator[bool | Deferred[bool]]
        results = iter([outcomes[0], outcomes[1], False])
        ends.far.on_request = lambda name, data: next(results)
        for _ in range(3):
            self.ask(ends, b"x")
        outcomes[1].callback(True)
        self.assertEqual(ends.answered, [])
        outcomes[0].callback(False)
        self.assertEqual(
            ends.answered,
            [MSG_CHANNEL_FAILURE, MSG_CHANNEL_SUCCESS, MSG_CHANNEL_FAILURE],
        )

    def test_no_answer_unless_wanted(self) -> None:
        """A request that wants no answer gets none, however long it takes."""
        wait: Deferred[bool] = Deferred()
        ends = Ends()
        ends.far.on_request = lambda name, data: wait
        self.ask(ends, b"x", want_reply=False)
        wait.callback(True)
        self.assertEqual(ends.answered, [])

    def test_nothing_is_handled_while_closing(self) -> None:
        """A channel that is on its way to CLOSE takes no requests."""
        seen: list[bytes] = []

        def on_request(name: bytes, data: bytes) -> bool:
            seen.append(name)
            return True

        ends = Ends()
        ends.far.on_request = on_request
        ends.far._output.window.remaining = 0
        ends.far.write(b"not yet")
        ends.far.close()
        self.ask(ends, b"x")
        self.assertEqual((seen, ends.answered), ([], []))

    def test_coroutines_are_run(self) -> None:
        """A coroutine function may handle requests."""

        async def on_request(name: bytes, data: bytes) -> bool:
            return await wait

        wait: Deferred[bool] = Deferred()
        ends = Ends()
        ends.far.on_request = on_request
        self.ask(ends, b"x")
        self.assertEqual(ends.answered, [])
        wait.callback(True)
        self.assertEqual(ends.answered, [MSG_CHANNEL_SUCCESS])

    def test_outstanding_requests(self) -> None:
        """A peer with too many requests at a time loses the channel."""
        ends = Ends(limits=ChannelLimits(outstanding_requests=3))
        cancelled: list[int] = []
        ends.far.on_request = lambda name, data: Deferred[bool](
            lambda _: cancelled.append(1)
        )
        for _ in range(3):
            self.ask(ends, b"x", want_reply=False)
        self.assertTrue(ends.far.is_open)
        self.ask(ends, b"x")
        self.assertEqual(
            ends.far_receiver.reasons, ["the peer made more than 3 requests at a time"]
        )
        self.assertEqual(ends.answered, [MSG_CHANNEL_CLOSE])
        self.assertEqual(len(cancelled), 3)

    def test_no_answer_after_close(self) -> None:
        """An answer that comes after our CLOSE is not sent, its handler cancelled."""
        wait: Deferred[bool] = Deferred(lambda d: d.callback(True))
        ends = Ends()
        ends.far.on_request = lambda name, data: wait
        self.ask(ends, b"x")
        ends.far.close()
        self.assertEqual(ends.answered, [MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE])

    def test_no_answer_after_the_peers_close(self) -> None:
        """The peer's CLOSE cancels what is still being handled."""
        wait: Deferred[bool] = Deferred()
        ends = Ends()
        ends.far.on_request = lambda name, data: wait
        self.ask(ends, b"x")
        ends.to_far(MSG_CHANNEL_CLOSE, uint32(ends.far.number))
        self.assertTrue(wait.called)
        self.assertEqual(ends.answered, [MSG_CHANNEL_CLOSE])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_handler_may_write_and_close(self) -> None:
        """The answer of a handler that closes its channel comes before CLOSE."""

        def on_request(name: bytes, data: bytes) -> bool:
            ends.far.write(b"listing")
            ends.far.close()
            return True

        ends = Ends()
        ends.far.on_request = on_request
        self.ask(ends, b"exec")
        self.assertEqual(
            ends.answered,
            [
                MSG_CHANNEL_DATA,
                MSG_CHANNEL_EOF,
                MSG_CHANNEL_SUCCESS,
                MSG_CHANNEL_CLOSE,
            ],
        )

    def test_a_handler_may_abort(self) -> None:
        """A handler that aborts its channel gets no answer out, whatever it returns."""

        async def later() -> bool:
            return True

        def on_request(name: bytes, data: bytes) -> bool | Awaitable[bool]:
            ends.far.abort()
            return outcomes[name]()

        outcomes: dict[bytes, Callable[[], bool | Awaitable[bool]]] = {
            b"true": lambda: True,
            b"false": lambda: False,
            b"later": later,
            b"never": lambda: Deferred(lambda _: cancelled.append(1)),
        }
        cancelled: list[int] = []
        for name in outcomes:
            ends = Ends()
            ends.far.on_request = on_request
            self.ask(ends, name)
            self.assertEqual(ends.answered, [MSG_CHANNEL_CLOSE])
        self.assertEqual(len(cancelled), 1)

    def test_a_raising_handler_ends_its_channel(self) -> None:
        """An exception, at once or later, is logged once and closes the channel."""

        def at_once(name: bytes, data: bytes) -> bool:
            raise ValueError("a bug")

        async def later(name: bytes, data: bytes) -> bool:
            raise ValueError("a bug")

        for on_request in (at_once, later):
            ends = Ends()
            ends.far.on_request = on_request
            self.ask(ends, b"x")
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
            self.assertEqual(ends.answered, [MSG_CHANNEL_CLOSE])
            self.assertEqual(ends.far_receiver.reasons, ["internal error"])
            self.assertTrue(ends.pair.server.is_open)


class SentRequestTests(SynchronousTestCase):
    """Channel requests of ours."""

    def test_success_and_failure(self) -> None:
        """The Deferred says what the peer answered."""
        ends = Ends()
        ends.far.on_request = lambda name, data: name == b"good" and data == b"data"
        good = ends.near.send_request(b"good", b"data")
        bad = ends.near.send_request(b"bad", b"data")
        ends.pair.pump()
        self.assertIs(self.successResultOf(good), None)
        self.assertIn("'bad'", str(self.failureResultOf(bad, RequestFailed).value))

    def test_without_want_reply(self) -> None:
        """A request that wants no answer is done when it is sent."""
        ends = Ends()
        self.successResultOf(ends.near.send_request(b"x", want_reply=False))
        ends.pair.pump()
        self.assertEqual(ends.answered, [])

    def test_fails_when_the_channel_ends(self) -> None:
        """Closing, at either end, fails what waits and what comes later."""
        for end in ("near", "far"):
            ends = Ends()
            answer = ends.near.send_request(b"x")
            getattr(ends, end).abort()
            ends.far.on_request = lambda name, data: Deferred()
            ends.pair.pump()
            self.failureResultOf(answer, ConnectionClosed)
            self.failureResultOf(ends.near.send_request(b"x"), ConnectionClosed)

    def test_fails_as_soon_as_we_close(self) -> None:
        """With our CLOSE sent, no answer is waited for."""
        ends = Ends()
        answer = ends.near.send_request(b"x")
        ends.near.close()
        self.failureResultOf(answer, ConnectionClosed)

    def test_an_answer_may_cross_our_close(self) -> None:
        """Answers to requests that we gave up with the channel are no fault."""
        ends = Ends()
        ends.far.on_request = lambda name, data: True
        answer = ends.near.send_request(b"x")
        ends.near.abort()
        self.failureResultOf(answer, ConnectionClosed)
        ends.pair.pump()
        self.assertIn(MSG_CHANNEL_SUCCESS, ends.answered)
        self.assertTrue(ends.pair.client.is_open)
        self.assertEqual(ends.pair.client.open_channels, 0)

    def test_outstanding_requests(self) -> None:
        """We do not send more than may wait for an answer."""
        ends = Ends(limits=ChannelLimits(outstanding_requests=2))
        waiting = [ends.near.send_request(b"x") for _ in range(2)]
        self.failureResultOf(ends.near.send_request(b"x"), RequestFailed)
        self.assertEqual(ends.sent, [MSG_CHANNEL_REQUEST] * 2)
        ends.pair.pump()
        for answer in waiting:
            self.failureResultOf(answer, RequestFailed)
