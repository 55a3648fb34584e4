"""What a proxy writes to its audit file, and what becomes of it while it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtunnel.audit.events import Event
from rtunnel.audit.log import AuditLog
from rtunnel.proxy.refusal_rate import Refusal, RefusalRate

#: Seconds between two looks whether a file that could not be written can be now.
RETRY = 1.0

#: Seconds from the first refusal that was left out to the line that says how many were.
TELL_AFTER = 10.0


class Recording:
    """The audit log, and whether nothing may happen without it.

    :param refusals: decides which refusals are left out.
    :param now: wall clock, seconds since the epoch.
    :param required: whether logins and connections that cannot be recorded are refused.
    """

    _log = Logger()

    def __init__(
        self,
        audit: AuditLog,
        refusals: RefusalRate,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        required: bool,
    ) -> None:
        self._audit = audit
        self._refusals = refusals
        self._clock = clock
        self._now = now
        self._required = required
        self._retrying = LoopingCall(audit.retry)
        self._retrying.clock = clock
        self._telling: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to look, every :data:`RETRY` seconds, whether a loss is over."""
        self._retrying.start(RETRY, now=False).addErrback(
            lambda failure: self._log.failure("the audit file is not retried", failure)
        )

    def stop(self) -> None:
        """Stop looking, tell of what was left out, and close the file."""
        if self._retrying.running:
            self._retrying.stop()
        self._tell()
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        self._audit.close()

    def reopen(self) -> None:
        """See :meth:`AuditLog.reopen`; what was left out so far is told before."""
        self._tell()
        self._audit.reopen()

    def record(self, event: Event) -> bool:
        """Write an event.

        :return: whether what happened may go on: False when the event could not be
            written and has to be.
        """
        return self._audit.record(event) or not self._required

    def record_refusal(self, refusal: Refusal) -> None:
        """Write that somebody was not let in, unless there are too many of these.

        One line then says how many, :data:`TELL_AFTER` seconds later at the latest.
        """
        if self._refusals.allows(refusal, self._clock.seconds(), self._now()):
            self._audit.record(refusal)
        else:
            self._tell_later()

    def _tell_later(self) -> None:
        if self._telling is None:
            self._telling = self._clock.callLater(TELL_AFTER, self._time_to_tell)

    def _time_to_tell(self) -> None:
        self._telling = None
        if self._audit.problem is None:
            self._tell()
        else:
            # The count is kept for as long as it takes.
            self._tell_later()

    def _tell(self) -> None:
        left_out = self._refusals.left_out(self._now())
        if left_out is None:
            return
        if self._audit.record(left_out):
            self._refusals.told()
        else:
            self._tell_later()

    @property
    def problem(self) -> str | None:
        """Why nobody may log in or connect now; None when they may."""
        if not self._required or self._audit.problem is None:
            return None
        return f"the audit file cannot be written: {self._audit.problem}"

    def status(self) -> dict[str, Any]:
        """Its part of the status document."""
        return {
            "required": self._required,
            "lost": self._audit.lost,
            "left_out": self._refusals.total,
            "problem": self._audit.problem,
        }
