"""Global requests of one SSH connection, both ways (RFC 4254 section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from rtunnel.naming import printable
from rtunnel.ssh.channel_opens import MAX_NAME
from rtunnel.ssh.interfaces import ConnectionHandler
from rtunnel.ssh.requests import SentRequests
from rtunnel.wire.data_types import Reader, boolean, string
from rtunnel.wire.numbers import (
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)

#: From a request's data to that of REQUEST_SUCCESS, or None for REQUEST_FAILURE.
Answer: TypeAlias = Callable[[bytes], bytes | None]


class GlobalRequests:
    """What both ends ask of each other, and of no channel.

    :param send: sends a message.
    :param owner: answers what the peer asks.
    :param limit: requests of ours that may wait for an answer at a time.
    """

    _log = Logger()

    __slots__ = ("_answers", "_owner", "_send", "_sent")

    def __init__(
        self,
        send: Callable[[int, bytes], None],
        owner: ConnectionHandler,
        limit: int,
    ) -> None:
        self._send = send
        self._owner = owner
        self._sent = SentRequests(limit)
        self._answers: dict[bytes, Answer] = {}

    def send(self, name: bytes, data: bytes, want_reply: bool) -> Deferred[bytes]:
        """Send a request.

        :returns: fires with the data of the peer's REQUEST_SUCCESS; errback with
            RequestFailed when it refuses or too many requests wait already. Without
            ``want_reply`` it has fired already.
        """
        payload = string(name) + boolean(want_reply) + data
        if not want_reply:
            self._send(MSG_GLOBAL_REQUEST, payload)
            return succeed(b"")
        refusal = self._sent.refusal()
        if refusal is not None:
            return fail(refusal)
        answer = self._sent.add(name)
        self._send(MSG_GLOBAL_REQUEST, payload)
        return answer

    def answered(self, success: bool, data: bytes) -> None:
        """The peer answered the oldest of ours.

        :raises ProtocolError: when there is none.
        """
        self._sent.answered(success, data)

    def fail(self, reason: Exception) -> None:
        """No answer comes any more."""
        self._sent.fail(reason)

    def answer_here(self, name: bytes, answer: Answer) -> None:
        """Answer the peer's requests of a name without asking the owner.

        :param answer: it may raise ProtocolError.
        """
        self._answers[name] = answer

    def received(self, payload: bytes) -> None:
        """GLOBAL_REQUEST.

        :raises ProtocolError: when it is malformed.
        """
        reader = Reader(payload)
        name = reader.string(MAX_NAME)
        want_reply = reader.boolean()
        data = reader.rest()
        here = self._answers.get(name)
        answer = self._ask_owner(name, data) if here is None else here(data)
        if not want_reply:
            return
        if answer is None:
            self._send(MSG_REQUEST_FAILURE, b"")
        else:
            self._send(MSG_REQUEST_SUCCESS, answer)

    def _ask_owner(self, name: bytes, data: bytes) -> bytes | None:
        try:
            return self._owner.global_request(name, data)
        except Exception:
            self._log.failure("a global request {name}", name=printable(name))
            return None
