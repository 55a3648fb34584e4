"""When a certificate is renewed, and what is said when it cannot be. Pure.

Times are POSIX seconds, brought by the caller; chance is a callable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rtunnel.trust.authority import BACKDATE
from rtunnel.wire.certificate import FOREVER, Certificate

#: Seconds for which certificates of agents are valid unless told otherwise.
AGENT_VALIDITY: Final = 86400
#: Likewise for those of proxies.
PROXY_VALIDITY: Final = 7 * 86400

#: The part of its life after which a certificate is renewed.
RENEW_AFTER: Final = 2 / 3
#: Up to this part of its life earlier, by chance, so that not all ask at once.
JITTER: Final = 0.1
#: Seconds between attempts: at least, and at most.
MIN_WAIT, MAX_WAIT = 1.0, 3600.0
#: Seconds between attempts once the certificate has ended.
ENDED_WAIT: Final = 60.0


def lifetime(certificate: Certificate) -> float:
    """Seconds from its making to its end, without those that it was dated back."""
    seconds = float(certificate.valid_before - certificate.valid_after)
    return seconds - BACKDATE if seconds > BACKDATE else seconds


def renewal_due(certificate: Certificate, chance: Callable[[], float]) -> float | None:
    """When to ask for the next certificate; None for one that does not end.

    :param chance: a number from 0 up to 1.
    """
    if certificate.valid_before == FOREVER:
        return None
    life = lifetime(certificate)
    left = (1 - RENEW_AFTER) * life + chance() * JITTER * life
    return certificate.valid_before - left


def retry_wait(
    certificate: Certificate, now: float, chance: Callable[[], float]
) -> float:
    """Seconds until the next attempt, after one that failed.

    An eighth of the time that is left, so that attempts become more frequent towards
    the end and there are still some when a proxy that can sign is back late.
    """
    left = certificate.valid_before - now
    if left <= 0:
        return ENDED_WAIT * (0.75 + chance() / 2)
    return min(max(left / 8 * (0.75 + chance() / 2), MIN_WAIT), MAX_WAIT)


class Warnings:
    """Says that a certificate is not renewed: at once, and each time that half of what
    was left has passed."""

    def __init__(self) -> None:
        self._said_at: float | None = None
        self._of: Certificate | None = None

    def due(self, certificate: Certificate, now: float) -> bool:
        """Whether to say it now; counts as said then."""
        left = max(certificate.valid_before - now, 0.0)
        if certificate != self._of:
            self._of, self._said_at = certificate, None
        said_at = self._said_at
        if said_at is not None and (not said_at or left > said_at / 2):
            return False
        self._said_at = left
        return True
