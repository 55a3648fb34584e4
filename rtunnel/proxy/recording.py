"""What becomes of the proxy while its audit file cannot be written."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtunnel.audit.events import Event
from rtunnel.audit.log import AuditLog

#: Seconds between two looks whether a file that could not be written can be now.
RETRY = 1.0


class Recording:
    """The audit log, and whether nothing may happen without it.

    :param required: whether logins and connections that cannot be recorded are refused.
    """

    _log = Logger()

    def __init__(self, audit: AuditLog, clock: IReactorTime, required: bool) -> None:
        self._audit = audit
        self._required = required
        self._retrying = LoopingCall(audit.retry)
        self._retrying.clock = clock

    def start(self) -> None:
        """Begin to look, every :data:`RETRY` seconds, whether a loss is over."""
        self._retrying.start(RETRY, now=False).addErrback(
            lambda failure: self._log.failure("the audit file is not retried", failure)
        )

    def stop(self) -> None:
        """Stop looking, and close the file."""
        if self._retrying.running:
            self._retrying.stop()
        self._audit.close()

    def reopen(self) -> None:
        """See :meth:`AuditLog.reopen`."""
        self._audit.reopen()

    def record(self, event: Event) -> bool:
        """Write an event.

        :return: whether what happened may go on: False when the event could not be
            written and has to be.
        """
        return self._audit.record(event) or not self._required

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
            "problem": self._audit.problem,
        }
