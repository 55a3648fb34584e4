"""Renews a certificate when it is time, again and again, until it is done.

Agents and proxies both have one. When that is, :mod:`rtunnel.trust.renewal` decides;
how it is done, whoever owns the timer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.errors import RtunnelError
from rtunnel.naming import printable
from rtunnel.timestamps import rfc3339
from rtunnel.trust.renewal import (
    MIN_WAIT,
    Warnings,
    lifetime,
    renewal_due,
    retry_wait,
)
from rtunnel.wire.certificate import Certificate

#: Seconds from one look at the wall clock to the next, at most: it may be set.
LOOK_INTERVAL: Final = 60.0
#: Seconds between attempts, at most, when the certificate has to be another soon.
HASTY_WAIT: Final = 15.0


class RenewalTimer:
    """Asks for the next certificate at two thirds of the life of the present one.

    :param now: wall clock, seconds since the epoch.
    :param chance: a number from 0 up to 1.
    :param certificate: the present one.
    :param renew: gets the next one and puts it in place of the present one; raises
        :class:`~rtunnel.errors.RtunnelError` with the reason when it cannot.
    :param what_to_do: for the log, when nobody renews it: a command.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        *,
        now: Callable[[], float],
        chance: Callable[[], float],
        certificate: Callable[[], Certificate],
        renew: Callable[[], Awaitable[None]],
        what_to_do: str,
    ) -> None:
        self._clock = clock
        self._now = now
        self._chance = chance
        self._certificate = certificate
        self._renew = renew
        self._what_to_do = what_to_do
        self._warnings = Warnings()
        self._scheduled: Certificate | None = None
        self._due: float | None = None
        self._hasty_for: Certificate | None = None
        self._call: IDelayedCall | None = None
        self._renewing: Deferred[None] | None = None
        self._has_failed = False
        self._busy = False
        self._running = False

    def start(self) -> None:
        """Begin to watch the certificate."""
        self._running = True
        self._scheduled = self._certificate()
        self._due = renewal_due(self._scheduled, self._chance)
        self._look()

    def stop(self) -> None:
        """Watch no more; an attempt under way is given up."""
        self._running = False
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._renewing is not None:
            self._renewing.cancel()

    def certificate_changed(self) -> None:
        """There is another certificate, whoever has put it there."""
        self._look_again()

    def try_now(self) -> None:
        """What an attempt failed for may be over: if one is due, do not wait."""
        if self._has_failed:
            self._due = self._now()
            self._look_again()

    def hasten(self, seconds: float) -> None:
        """Renew the present certificate soon, however long it lasts.

        :param seconds: within which; the moment is by chance.
        """
        present = self._certificate()
        if self._hasty_for == present:
            return
        self._hasty_for = self._scheduled = present
        due = self._now() + seconds * self._chance()
        self._due = due if self._due is None else min(due, self._due)
        self._look_again()

    def _look_again(self) -> None:
        if self._running and not self._busy:
            if self._call is not None:
                self._call.cancel()
                self._call = None
            self._look()

    def _look(self) -> None:
        self._call = None
        present = self._certificate()
        if present != self._scheduled:
            self._scheduled = present
            self._due = self._first_due(present)
        if self._due is None:
            wait = LOOK_INTERVAL
        else:
            wait = min(self._due - self._now(), LOOK_INTERVAL)
        if wait > 0:
            self._call = self._clock.callLater(wait, self._look)
            return
        self._busy = True
        self._renewing = Deferred.fromCoroutine(self._attempt(present))
        self._renewing.addErrback(self._broke)

    def _first_due(self, certificate: Certificate) -> float | None:
        due = renewal_due(certificate, self._chance)
        if due is None:
            return None
        # A signer whose clock is far behind ours must not keep us busy.
        return max(due, self._now() + max(MIN_WAIT, lifetime(certificate) / 10))

    async def _attempt(self, present: Certificate) -> None:
        self._has_failed = False
        try:
            await self._renew()
        except CancelledError:
            return
        except RtunnelError as error:
            self._has_failed = True
            self._failed(present, str(error))
        finally:
            self._busy = False
            if self._running:
                # What was renewed is scheduled by its own life now.
                if self._certificate() == present and self._due is not None:
                    self._due = self._now() + self._wait(present)
                self._call = self._clock.callLater(0, self._look)

    def _wait(self, present: Certificate) -> float:
        wait = retry_wait(present, self._now(), self._chance)
        return min(wait, HASTY_WAIT) if present == self._hasty_for else wait

    def _failed(self, present: Certificate, reason: str) -> None:
        if self._warnings.due(present, self._now()):
            ended = self._now() >= present.valid_before
            self._log.warn(
                "this certificate {ends} at {end} and is not renewed: {reason}; "
                "{what_to_do}",
                ends="ended" if ended else "ends",
                end=rfc3339(present.valid_before),
                reason=printable(reason),
                what_to_do=self._what_to_do,
            )

    def _broke(self, failure: Failure) -> None:
        self._log.failure("renewing the certificate failed", failure)
